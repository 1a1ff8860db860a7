"""Question templates over objects: look one up, tell, compare, reason."""

from dataclasses import dataclass, replace

import numpy as np

from mmsieve.synthetic.edits import CORNERS, NOT, common_fill
from mmsieve.synthetic.scenes import GRID, SIGN, WORLDS, Fact, Scene, Thing, pick_one, some
from mmsieve.synthetic.texts import NUMBERS, Piece, clause, noun_phrase, plain, sentence, tell

# A question and its answer over scenes, and the small phrases that they are made of

PHRASE, SHORT = "word/short-phrase", "short description"
STEPS, FORM = "chain-of-thought (step-by-step)", "specified style"
Pieces = list[Piece]
Scenes = tuple[Scene, ...]


@dataclass(frozen=True, slots=True)
class Exchange:
    """What is asked and answered; every fact of the answer holds for the scenes it is about."""

    question: Pieces
    answer: Pieces
    styles: tuple[str, ...]
    asked: tuple[Piece, ...]
    """The words of the answer that answer the question: a contradiction shows in these."""


def exchange(
    question: Pieces, answer: Pieces, *styles: str, asked: tuple[Piece, ...] | None = None
) -> Exchange:
    """An exchange whose every fact was asked for, unless said otherwise."""
    if asked is None:
        asked = tuple(piece for piece in answer if piece.fact is not None)
    return Exchange(sentence(question, "?"), answer, styles, asked)


def phrase_or_sentence(
    question: Pieces, phrase: Pieces, told: Pieces, rng: np.random.Generator
) -> Exchange:
    """The answer alone, or a sentence (with place and object in front) that ends in it."""
    asked = tuple(piece for piece in phrase if piece.fact is not None)
    if rng.random() < 0.4:
        return exchange(question, phrase, PHRASE, asked=asked)
    return exchange(question, sentence([*told, *phrase]), SHORT, asked=asked)


def said(thing: Thing, attribute: str) -> Piece:
    """The word for an attribute of an object."""
    value = getattr(thing, attribute)
    return Piece(value, Fact(thing.place, attribute, value))


def at(thing: Thing) -> Pieces:
    """`at the left`."""
    return [*plain("at the"), Piece(thing.place, Fact(thing.place, "place", thing.place))]


def the(thing: Thing, *attributes: str) -> Pieces:
    """`the star`, with attributes in front if asked for."""
    return [Piece("the"), *(said(thing, name) for name in attributes), said(thing, "shape")]


def how_many(scene: Scene, value: str) -> Piece:
    """The number of objects with a colour, shape or fill."""
    number = sum(value in (t.colour, t.shape, t.fill) for t in scene.things)
    return Piece(NUMBERS[number], Fact("scene", value, str(number)))


def box(thing: Thing) -> str:
    """Left, top, right and bottom of an object's cell as parts of the picture's sides."""
    row, column = divmod(thing.cell, GRID)
    sides = (column, row, column + 1, row + 1)
    return "[" + ",".join(f"{side / GRID:.1f}" for side in sides) + "]"


def join(groups: list[Pieces], between: str) -> Pieces:
    """Phrases with a word between each two."""
    joined = list(groups[0])
    for group in groups[1:]:
        joined += [Piece(between), *group]
    return joined


def on_second(pieces: Pieces) -> Pieces:
    """The same words, about the second picture."""
    return [replace(piece, picture=1) for piece in pieces]


def one_of(things: tuple[Thing, ...], rng: np.random.Generator) -> Thing:
    """Any of the objects."""
    return things[int(rng.integers(len(things)))]


def shapes(scene: Scene) -> tuple[Thing, ...]:
    """The objects that are no signs."""
    return tuple(thing for thing in scene.things if not thing.word)


def signs(scene: Scene) -> tuple[Thing, ...]:
    """The objects that are signs."""
    return tuple(thing for thing in scene.things if thing.word)


def told_apart(scene: Scene) -> tuple[Thing, ...]:
    """The objects that colour and shape are enough to point at."""
    looks = [(thing.colour, thing.shape) for thing in scene.things]
    return tuple(t for t in scene.things if looks.count((t.colour, t.shape)) == 1)


# Tasks that look one thing up: attributes, places, numbers, signs, what follows from a shape

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
    question = [
        *plain(pick_one(rng, ("what colour is", "which colour has"))),
        *the(thing),
        *at(thing),
    ]
    told = [*at(thing), *the(thing), Piece("is")]
    return phrase_or_sentence(question, [said(thing, "colour")], told, rng)


def shape(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """The shape of what stands at a place."""
    thing = one_of(shapes(scenes[0]), rng)
    question = [*plain(pick_one(rng, ("what shape is", "which shape is there"))), *at(thing)]
    return phrase_or_sentence(question, [said(thing, "shape")], [*at(thing), *plain("is a")], rng)


def fill(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """Whether what stands at a place is solid or striped."""
    thing = one_of(shapes(scenes[0]), rng)
    question = [
        *plain(pick_one(rng, ("what pattern has", "which fill has"))),
        *the(thing),
        *at(thing),
    ]
    told = [*at(thing), *the(thing), Piece("is")]
    return phrase_or_sentence(question, [said(thing, "fill")], told, rng)


def place(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """Where an object stands."""
    thing = one_of(told_apart(scenes[0]), rng)
    named = the(thing, "colour")
    question = [*plain(pick_one(rng, ("where is", "at which place is"))), *named]
    return phrase_or_sentence(question, at(thing), [*named, Piece("is")], rng)


def box_of(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """The box of an object's cell."""
    thing = one_of(told_apart(scenes[0]), rng)
    corners = _box(thing)
    question = [
        *plain(pick_one(rng, ("what is the box of", "in which box is"))),
        *the(thing, "colour"),
    ]
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
    kind = pick_one(rng, ("colour", "shape", "fill"))
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
    kind = pick_one(rng, ("colour", "shape"))
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
        question = plain(
            pick_one(rng, ("how many objects are there", "how many things do you see"))
        )
        if rng.random() < 0.4:
            return exchange(question, [number], PHRASE)
        told = sentence([*plain("there are"), number, Piece("objects")])
        return exchange(question, told, SHORT)
    value = getattr(one_of(shapes(scene), rng), pick_one(rng, ("colour", "fill")))
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
    question = plain(pick_one(rng, ("what does the sign say", "which word is on the sign")))
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


# Tasks that tell, compare or reason over several objects


def brief(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """One sentence about one object."""
    thing = one_of(scenes[0].things, rng)
    question = plain(pick_one(rng, ("what do you see, in short", "name one object and its place")))
    return exchange(question, sentence(clause(thing, rng)), SHORT)


def detail(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """The full telling."""
    question = plain(
        pick_one(
            rng, ("can you describe the picture in detail", "what is in the picture, in detail")
        )
    )
    return exchange(question, tell(scenes[0], rng), "detailed description")


def whole(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """What kind of picture it is."""
    scene = scenes[0]
    count, common = len(scene.things), common_fill(scene)
    number = Piece(NUMBERS[count], Fact("scene", "count", str(count)))
    words = "some solid and some striped" if common == "mixed" else f"all {common}"
    fills = [Piece(word, Fact("scene", "fills", common)) for word in words.split()]
    question = plain(pick_one(rng, ("what kind of picture is this", "how is the whole picture")))
    answer = [*plain("a picture of"), number, *plain("objects:"), *fills]
    return exchange(question, sentence(answer), SHORT, asked=(number, fills[0]))


def compare(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """The colours or fills of two objects."""
    one, other, kind = _pair(scenes, rng)
    question = [*plain(f"can you compare the {kind} of"), *the(one), *at(one), Piece("and")]
    question += [*the(other), *at(other)]
    halves = [[*at(thing), *the(thing), Piece("is"), said(thing, kind)] for thing in (one, other)]
    alike = "the same" if getattr(one, kind) == getattr(other, kind) else "different"
    answer = [*join(halves, ","), *plain(f": {alike}")]
    asked = (said(one, kind), said(other, kind))
    return exchange(question, sentence(answer), "comparison", asked=asked)


def same(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """Whether two objects share a colour or a fill."""
    one, other, kind = _pair(scenes, rng)
    alike = getattr(one, kind) == getattr(other, kind)
    question = [*plain(f"is the {kind} the same"), *at(one), Piece("and"), *at(other)]
    halves = [[*at(thing), said(thing, kind)] for thing in (one, other)]
    answer = [*plain("yes," if alike else "no,"), *join(halves, "and")]
    asked = (said(one, kind), said(other, kind))
    return exchange(question, answer, "yes/no", "comparison", asked=asked)


def _pair(scenes: Scenes, rng: np.random.Generator) -> tuple[Thing, Thing, str]:
    things = shapes(scenes[0])
    first, second = (int(i) for i in rng.permutation(len(things))[:2])
    return things[first], things[second], pick_one(rng, ("colour", "fill"))


def steps(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """The objects one by one, then how many are of a kind."""
    scene = scenes[0]
    thing, kind = one_of(shapes(scene), rng), pick_one(rng, ("colour", "fill"))
    value = getattr(thing, kind)
    question = plain(f"how many objects are {value}, step by step")
    answer: Pieces = []
    for seen in scene.things:
        look = [said(seen, kind)] if seen.shape != SIGN or kind == "colour" else []
        answer += sentence([*at(seen), *plain("is a"), *look, said(seen, "shape")])
    answer += sentence([*plain(f"so the number of {value} objects is"), how_many(scene, value)])
    return exchange(question, answer, STEPS)


def remains(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """What is left when one object is taken away."""
    things = scenes[0].things
    gone = one_of(things, rng)
    question = [*plain("what remains without"), *the(gone), *at(gone)]
    left = [[*at(thing), *noun_phrase(thing, rng)] for thing in things if thing != gone]
    if rng.random() < 0.4:
        return exchange(question, join(left, "and"), PHRASE)
    answer: Pieces = plain("without it,")
    return exchange(question, sentence([*answer, *join(left, "and")]), SHORT)


def rhyme(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """One object in rhyme."""
    thing = one_of(scenes[0].things, rng)
    question = [*plain("what is"), *at(thing), *plain(", in rhyme")]
    first, last = (
        ("what a day", "hip hip hooray")
        if rng.random() < 0.5
        else ("what a sight", "so fine and bright")
    )
    answer = [*plain(f"{first}:"), *at(thing), *plain("there is"), *noun_phrase(thing, rng)]
    return exchange(question, sentence([*answer, *plain(f", {last}")]), FORM)


def listing(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """The objects as a numbered list."""
    question = plain(pick_one(rng, ("what is there, as a list", "can you list the objects")))
    answer: Pieces = []
    for index, thing in enumerate(scenes[0].things, 1):
        answer += [*plain(f"{index}."), at(thing)[-1], Piece(":"), *noun_phrase(thing, rng)]
    return exchange(question, answer, FORM)


def rows(scenes: Scenes, rng: np.random.Generator) -> Exchange:
    """The objects as rows of a table."""
    question = plain(
        pick_one(rng, ("what is there, as a table", "can you make a table of the objects"))
    )
    answer: Pieces = plain("| place | colour | shape |")
    for thing in scenes[0].things:
        answer += [at(thing)[-1], Piece("|"), said(thing, "colour"), Piece("|")]
        answer += [said(thing, "shape"), Piece("|")]
    return exchange(question, answer, FORM)
