"""Tasks that look one thing up: attributes, places, numbers, signs, what follows from a shape."""

import numpy as np

from mmsieve.rendered.claims import CORNERS, NOT
from mmsieve.rendered.exchanges import (
    PHRASE,
    SHORT,
    Exchange,
    Scenes,
    at,
    box,
    exchange,
    how_many,
    one_of,
    phrase_or_sentence,
    said,
    shapes,
    signs,
    the,
    told_apart,
)
from mmsieve.rendered.scenes import WORLDS, Fact, Scene, Thing, pick, some
from mmsieve.rendered.words import NUMBERS, Piece, noun_phrase, plain, sentence

_KNOWN = {
    "SUN": "many old peoples thanked the sun",
    "CAT": "cats were holy in old egypt",
    "BUS": "cities share the road by bus",
    "MAP": "old maps were drawn by hand",
    "TEA": "tea came from china long ago",
    "FOX": "the fox is clever in old tales",
}
_LETTERS = ("A.", "B.", "C.")


def colour(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """The colour of what stands at a place."""
    thing = one_of(scenes[0].things, rng)
    question = [*plain(pick(rng, ("what colour is", "which colour has"))), *the(thing), *at(thing)]
    told = [*at(thing), *the(thing), Piece("is")]
    return phrase_or_sentence(question, [said(thing, "colour")], told, rng)


def shape(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """The shape of what stands at a place."""
    thing = one_of(shapes(scenes[0]), rng)
    question = [*plain(pick(rng, ("what shape is", "which shape is there"))), *at(thing)]
    return phrase_or_sentence(question, [said(thing, "shape")], [*at(thing), *plain("is a")], rng)


def fill(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """Whether what stands at a place is solid or striped."""
    thing = one_of(shapes(scenes[0]), rng)
    question = [*plain(pick(rng, ("what pattern has", "which fill has"))), *the(thing), *at(thing)]
    told = [*at(thing), *the(thing), Piece("is")]
    return phrase_or_sentence(question, [said(thing, "fill")], told, rng)


def place(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """Where an object stands."""
    thing = one_of(told_apart(scenes[0]), rng)
    named = the(thing, "colour")
    question = [*plain(pick(rng, ("where is", "at which place is"))), *named]
    return phrase_or_sentence(question, at(thing), [*named, Piece("is")], rng)


def box_of(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """The box of an object's cell."""
    thing = one_of(told_apart(scenes[0]), rng)
    corners = _box(thing)
    question = [*plain(pick(rng, ("what is the box of", "in which box is"))), *the(thing, "colour")]
    answer = [corners] if rng.random() < 0.5 else [*at(thing), Piece(":"), corners]
    return exchange(question, answer, "coordinate")


def _box(thing: Thing) -> Piece:
    return Piece(box(thing), Fact(thing.place, "place", thing.place))


def region(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """What stands in a box."""
    thing = one_of(scenes[0].things, rng)
    question = [*plain("what is in the box"), _box(thing)]
    answer = noun_phrase(thing, rng)
    asked = (said(thing, "colour"), *((said(thing, "shape"),) if not thing.word else ()))
    return exchange(question, answer, "coordinate", PHRASE, asked=asked)


def check(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """Whether an object has an attribute; as often yes as no."""
    thing = one_of(shapes(scenes[0]), rng)
    kind = pick(rng, ("colour", "shape", "fill"))
    truth = said(thing, kind)
    asked_for, agree = truth.text, rng.random() < 0.5
    if not agree:
        asked_for = _other(scenes[0], kind, (truth.text,), 1, rng)[0]
    subject = [*plain("the object"), *at(thing)] if kind == "shape" else [*the(thing), *at(thing)]
    article = ["a"] if kind == "shape" else []
    question = [Piece("is"), *subject, *plain(" ".join([*article, asked_for]))]
    if rng.random() < 0.4:
        claim = truth.fact if agree else Fact(thing.place, NOT + kind, asked_for)
        return exchange(question, [Piece("yes" if agree else "no", claim)], "yes/no")
    head = plain("yes, " if agree else "no, ")
    answer = [*head, *at(thing), *plain(" ".join(["it is", *article])), truth]
    return exchange(question, answer, "yes/no", asked=(truth,))


def choice(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """The colour or shape of an object, out of three."""
    thing = one_of(shapes(scenes[0]), rng)
    kind = pick(rng, ("colour", "shape"))
    truth = said(thing, kind)
    options = some(rng, (truth.text, *_other(scenes[0], kind, (truth.text,), 2, rng)), 3)
    subject = the(thing) if kind == "colour" else plain("the object")
    listed = " ".join(
        f"{letter} {option}" for letter, option in zip(_LETTERS, options, strict=True)
    )
    question = [*plain(f"what {kind} is"), *subject, *at(thing), *plain(f": {listed}")]
    answer = [*plain(_LETTERS[options.index(truth.text)]), truth]
    return exchange(question, answer, "multi-choice")


def _other(
    scene: Scene, kind: str, but: tuple[str, ...], count: int, rng: np.random.Generator
) -> tuple[str, ...]:
    values = tuple(value for value in WORLDS[scene.family].values(kind) if value not in but)
    return some(rng, values, count)


def count(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """How many objects there are, at all or of a kind."""
    scene = scenes[0]
    if rng.random() < 0.5:
        number = Piece(NUMBERS[len(scene.things)], Fact("scene", "count", str(len(scene.things))))
        question = plain(pick(rng, ("how many objects are there", "how many things do you see")))
        if rng.random() < 0.4:
            return exchange(question, [number], PHRASE)
        told = sentence([*plain("there are"), number, Piece("objects")])
        return exchange(question, told, SHORT)
    value = getattr(one_of(shapes(scene), rng), pick(rng, ("colour", "fill")))
    question = plain(f"how many objects are {value}")
    told = plain(f"the number of {value} objects is")
    return phrase_or_sentence(question, [how_many(scene, value)], told, rng)


def cost(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """A sum over the number of objects."""
    number, price = len(scenes[0].things), 2 + int(rng.integers(2))
    claim = Fact("scene", "count", str(number))
    question = plain(f"each object costs {NUMBERS[price]} coins, what do all cost")
    total = [Piece(NUMBERS[number * price], claim)]
    told = [Piece(NUMBERS[number], claim), *plain(f"times {NUMBERS[price]} is")]
    return phrase_or_sentence(question, total, told, rng)


def corners(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """How many corners the shape at a place has."""
    thing = one_of(shapes(scenes[0]), rng)
    number = CORNERS[thing.shape]
    question = [*plain("how many corners has the shape"), *at(thing)]
    word = NUMBERS[number] if number else "none"
    answer = [Piece(word, Fact(thing.place, "corners", str(number)))]
    told = [*at(thing), *plain("is a"), said(thing, "shape"), *plain("; corners:")]
    return phrase_or_sentence(question, answer, told, rng)


def sign(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """The word on the sign."""
    thing = signs(scenes[0])[0]
    question = plain(pick(rng, ("what does the sign say", "which word is on the sign")))
    return phrase_or_sentence(question, [_word(thing)], [*at(thing), *_reads(thing)], rng)


def culture(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """What the word on the sign brings to mind."""
    thing = signs(scenes[0])[0]
    question = plain("what does the word on the sign bring to mind")
    word = _word(thing)
    answer = [*at(thing), *_reads(thing), word, *plain(f": {_KNOWN[thing.word]}")]
    return exchange(question, sentence(answer), SHORT, asked=(word,))


def _word(thing: Thing) -> Piece:
    """The word is the answer wherever the sign stands."""
    return Piece(thing.word, Fact("scene", "word", thing.word))


def _reads(thing: Thing) -> list[Piece]:
    return [*the(thing), Piece("says")]
