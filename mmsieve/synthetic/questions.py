"""Question templates: functions that write a question about a scene and its true answer.

A template gets the scenes of a conversation (one, or two where it compares pictures) and a random
generator. Each word that states something carries its fact, so that the answer can be checked
against any other picture. Which templates there are, and over what, says `instructions`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from mmsieve.synthetic.scenes import (
    CORNERS,
    GRID,
    NOT,
    WORLDS,
    Fact,
    Scene,
    Scenes,
    Thing,
    common_fill,
    pick_one,
    pick_several,
)
from mmsieve.synthetic.texts import (
    NUMBERS,
    Word,
    Words,
    attribute_word,
    clause,
    describe,
    noun_phrases,
    number_word,
    place_word,
    sentence,
    words,
)

PHRASE, SHORT = "word/short-phrase", "short description"
STEPS, FORM = "chain-of-thought (step-by-step)", "specified style"
_ASSOCIATIONS = {
    "SUN": "many old peoples thanked the sun",
    "CAT": "cats were holy in old egypt",
    "BUS": "cities share the road by bus",
    "MAP": "old maps were drawn by hand",
    "TEA": "tea came from china long ago",
    "FOX": "the fox is clever in old tales",
}


@dataclass(frozen=True, slots=True)
class QuestionAnswer:
    """A question and its answer; every fact of them holds for the scenes they are about."""

    question: Words
    answer: Words
    styles: tuple[str, ...]
    key_words: tuple[Word, ...]
    """The words of the answer that answer the question: a contradiction shows in these."""


Writer: TypeAlias = Callable[[Scenes, np.random.Generator], QuestionAnswer]


def _answered(
    question: Words, answer: Words, *styles: str, key_words: Sequence[Word] = ()
) -> QuestionAnswer:
    """A question and its answer, whose key words are all that state a fact unless given."""
    stating = [word for word in answer if word.fact is not None]
    return QuestionAnswer(sentence(question, "?"), answer, styles, tuple(key_words or stating))


def _phrase_or_sentence(
    question: Words, phrase: Words, lead: str | Words, rng: np.random.Generator, *after: Word
) -> QuestionAnswer:
    """The answer as a phrase, or in a sentence that leads up to it."""
    key_words = [word for word in phrase if word.fact is not None]
    if rng.random() < 0.4:
        return _answered(question, phrase, PHRASE, key_words=key_words)
    lead = words(lead) if isinstance(lead, str) else lead
    return _answered(question, sentence([*lead, *phrase, *after]), SHORT, key_words=key_words)


def _choice(question: Words, options: Sequence[str], right: Word) -> QuestionAnswer:
    listed = " ".join(f"{letter}. {option}" for letter, option in zip("ABC", options, strict=True))
    letter = Word("ABC"[options.index(right.text)] + ".")
    return _answered([*question, *words(f": {listed}")], [letter, right], "multi-choice")


def _wording(rng: np.random.Generator, *wordings: str) -> Words:
    return words(pick_one(rng, wordings))


def _at(thing: Thing) -> Words:
    """`at the left`."""
    return [*words("at the"), place_word(thing.place)]


def _the(thing: Thing, *attributes: str) -> Words:
    """`the star`, with attributes in front if asked for."""
    return [Word("the"), *(attribute_word(thing, name) for name in (*attributes, "shape"))]


def _how_many(scene: Scene, value: str) -> Word:
    number = sum(value in (t.colour, t.shape, t.fill) for t in scene.things)
    return number_word(number, "scene", value)


def _box(thing: Thing) -> Word:
    """Left, top, right and bottom of an object's cell as parts of the picture's sides."""
    row, column = divmod(thing.cell, GRID)
    sides = (column, row, column + 1, row + 1)
    text = "[" + ",".join(f"{side / GRID:.1f}" for side in sides) + "]"
    return replace(place_word(thing.place), text=text)


def _join(phrases: list[Words], between: str) -> Words:
    return [word for phrase in phrases for word in (Word(between), *phrase)][1:]


def _in_second(phrase: Words) -> Words:
    return [replace(word, picture=1) for word in phrase]


def shapes(scene: Scene) -> tuple[Thing, ...]:
    """The objects that are no signs."""
    return tuple(thing for thing in scene.things if not thing.word)


def signs(scene: Scene) -> tuple[Thing, ...]:
    """The objects that are signs."""
    return tuple(thing for thing in scene.things if thing.word)


def unambiguous(scene: Scene) -> tuple[Thing, ...]:
    """The objects that colour and shape are enough to point at."""
    looks = [(thing.colour, thing.shape) for thing in scene.things]
    return tuple(t for t in scene.things if looks.count((t.colour, t.shape)) == 1)


def _attribute(attribute: str, *openings: str) -> Writer:
    """The colour, shape or fill of what stands at a place."""

    def write(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
        thing = pick_one(rng, scenes[0].things if attribute == "colour" else shapes(scenes[0]))
        named = [] if attribute == "shape" else _the(thing)
        question = [*_wording(rng, *openings), *named, *_at(thing)]
        lead = [*_at(thing), *named, *words("is" if named else "is a")]
        return _phrase_or_sentence(question, [attribute_word(thing, attribute)], lead, rng)

    return write


colour = _attribute("colour", "what colour is", "which colour has")
shape = _attribute("shape", "what shape is", "which shape is there")
fill = _attribute("fill", "what pattern has", "which fill has")


def place(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """Where an object stands."""
    thing = pick_one(rng, unambiguous(scenes[0]))
    named = _the(thing, "colour")
    question = [*_wording(rng, "where is", "at which place is"), *named]
    return _phrase_or_sentence(question, _at(thing), [*named, Word("is")], rng)


def box(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """The box of an object's cell."""
    thing = pick_one(rng, unambiguous(scenes[0]))
    corners = _box(thing)
    question = [*_wording(rng, "what is the box of", "in which box is"), *_the(thing, "colour")]
    answer = [corners] if rng.random() < 0.5 else [*_at(thing), Word(":"), corners]
    return _answered(question, answer, "coordinate")


def region(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """What stands in a box."""
    thing = pick_one(rng, scenes[0].things)
    question = [*words("what is in the box"), _box(thing)]
    answer = pick_one(rng, noun_phrases(thing))
    kinds = ("colour",) if thing.word else ("colour", "shape")
    key_words = [attribute_word(thing, kind) for kind in kinds]
    return _answered(question, answer, "coordinate", PHRASE, key_words=key_words)


def check(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """Whether an object has an attribute; as often yes as no."""
    thing = pick_one(rng, shapes(scenes[0]))
    kind = pick_one(rng, ("colour", "shape", "fill"))
    truth = attribute_word(thing, kind)
    value, agree = truth.text, rng.random() < 0.5
    if not agree:
        value = _others(scenes[0], kind, truth.text, 1, rng)[0]
    subject, article = (words("the object"), ["a"]) if kind == "shape" else (_the(thing), [])
    question = [Word("is"), *subject, *_at(thing), *map(Word, [*article, value])]
    if rng.random() < 0.4:
        fact = truth.fact if agree else Fact(thing.place, NOT + kind, value)
        return _answered(question, [Word("yes" if agree else "no", fact)], "yes/no")
    head = words("yes," if agree else "no,")
    answer = [*head, *_at(thing), *words("it is"), *map(Word, article), truth]
    return _answered(question, answer, "yes/no", key_words=(truth,))


def choice(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """The colour or shape of an object, out of three."""
    thing = pick_one(rng, shapes(scenes[0]))
    kind = pick_one(rng, ("colour", "shape"))
    truth = attribute_word(thing, kind)
    options = (truth.text, *_others(scenes[0], kind, truth.text, 2, rng))
    subject = _the(thing) if kind == "colour" else words("the object")
    question = [*words(f"what {kind} is"), *subject, *_at(thing)]
    return _choice(question, pick_several(rng, options, 3), truth)


def _others(
    scene: Scene, kind: str, value: str, count: int, rng: np.random.Generator
) -> tuple[str, ...]:
    values = [other for other in WORLDS[scene.family].values(kind) if other != value]
    return pick_several(rng, values, count)


def count(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """How many objects there are, at all or of a kind."""
    scene = scenes[0]
    if rng.random() < 0.5:
        question = _wording(rng, "how many objects are there", "how many things do you see")
        number = number_word(len(scene.things), "scene")
        return _phrase_or_sentence(question, [number], "there are", rng, Word("objects"))
    value = getattr(pick_one(rng, shapes(scene)), pick_one(rng, ("colour", "fill")))
    question = words(f"how many objects are {value}")
    lead = f"the number of {value} objects is"
    return _phrase_or_sentence(question, [_how_many(scene, value)], lead, rng)


def cost(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """A sum over the number of objects."""
    number, price = len(scenes[0].things), 2 + int(rng.integers(2))
    counted = number_word(number, "scene")
    question = words(f"each object costs {NUMBERS[price]} coins, what do all cost")
    total = replace(counted, text=NUMBERS[number * price])
    lead = [counted, *words(f"times {NUMBERS[price]} is")]
    return _phrase_or_sentence(question, [total], lead, rng)


def corners(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """How many corners the shape at a place has."""
    thing = pick_one(rng, shapes(scenes[0]))
    number = number_word(CORNERS[thing.shape], thing.place, "corners")
    question = [*words("how many corners has the shape"), *_at(thing)]
    answer = number if CORNERS[thing.shape] else replace(number, text="none")
    lead = [*_at(thing), *words("is a"), attribute_word(thing, "shape"), *words("; corners:")]
    return _phrase_or_sentence(question, [answer], lead, rng)


def sign(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """The word on the sign."""
    question = _wording(rng, "what does the sign say", "which word is on the sign")
    *lead, word = _sign_says(scenes[0])
    return _phrase_or_sentence(question, [word], lead, rng)


def culture(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """What the word on the sign brings to mind."""
    question = words("what does the word on the sign bring to mind")
    *lead, word = _sign_says(scenes[0])
    answer = [*lead, word, *words(f": {_ASSOCIATIONS[word.text]}")]
    return _answered(question, sentence(answer), SHORT, key_words=(word,))


def _sign_says(scene: Scene) -> Words:
    """Ends in the word, which is the answer wherever the sign stands."""
    thing = signs(scene)[0]
    word = Word(thing.word, Fact("scene", "word", thing.word))
    return [*_at(thing), *_the(thing), Word("says"), word]


def brief(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """One sentence about one object."""
    thing = pick_one(rng, scenes[0].things)
    question = _wording(rng, "what do you see, in short", "name one object and its place")
    return _answered(question, sentence(clause(thing, rng)), SHORT)


def _in_full(*questions: str) -> Writer:

    def write(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
        question = _wording(rng, *questions)
        return _answered(question, describe(scenes[0], rng), "detailed description")

    return write


detail = _in_full("can you describe the picture in detail", "what is in the picture, in detail")
chart = _in_full("can you describe the chart in detail", "what does the chart show")


def whole(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """What kind of picture it is."""
    common = common_fill(scenes[0])
    number = number_word(len(scenes[0].things), "scene")
    text = "some solid and some striped" if common == "mixed" else f"all {common}"
    fills = [Word(word, Fact("scene", "fills", common)) for word in text.split()]
    question = _wording(rng, "what kind of picture is this", "how is the whole picture")
    answer = [*words("a picture of"), number, *words("objects:"), *fills]
    return _answered(question, sentence(answer), SHORT, key_words=(number, fills[0]))


def compare(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """The colours or fills of two objects."""
    pair, kind = _pair(scenes, rng)
    named = _join([[*_the(thing), *_at(thing)] for thing in pair], "and")
    question = [*words(f"can you compare the {kind} of"), *named]
    halves = [[*_at(one), *_the(one), Word("is"), attribute_word(one, kind)] for one in pair]
    key_words = [half[-1] for half in halves]
    alike = "the same" if key_words[0].text == key_words[1].text else "different"
    answer = [*_join(halves, ","), *words(f": {alike}")]
    return _answered(question, sentence(answer), "comparison", key_words=key_words)


def same(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """Whether two objects share a colour or a fill."""
    pair, kind = _pair(scenes, rng)
    question = [*words(f"is the {kind} the same"), *_join([_at(thing) for thing in pair], "and")]
    halves = [[*_at(thing), attribute_word(thing, kind)] for thing in pair]
    key_words = [half[-1] for half in halves]
    alike = "yes," if key_words[0].text == key_words[1].text else "no,"
    answer = [Word(alike), *_join(halves, "and")]
    return _answered(question, answer, "yes/no", "comparison", key_words=key_words)


def _pair(scenes: Scenes, rng: np.random.Generator) -> tuple[tuple[Thing, ...], str]:
    """Two objects, and what is compared of them."""
    return pick_several(rng, shapes(scenes[0]), 2), pick_one(rng, ("colour", "fill"))


def steps(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """The objects one by one, then how many are of a kind."""
    scene = scenes[0]
    thing, kind = pick_one(rng, shapes(scene)), pick_one(rng, ("colour", "fill"))
    value = getattr(thing, kind)
    question = words(f"how many objects are {value}, step by step")
    answer: Words = []
    for one in scene.things:
        said = [attribute_word(one, name) for name in (kind, "shape") if getattr(one, name)]
        answer += sentence([*_at(one), *words("is a"), *said])
    answer += sentence([*words(f"so the number of {value} objects is"), _how_many(scene, value)])
    return _answered(question, answer, STEPS)


def remains(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """What is left when one object is taken away."""
    things = scenes[0].things
    gone = pick_one(rng, things)
    question = [*words("what remains without"), *_the(gone), *_at(gone)]
    left = [[*_at(one), *pick_one(rng, noun_phrases(one))] for one in things if one != gone]
    return _phrase_or_sentence(question, _join(left, "and"), "without it,", rng)


def rhyme(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """One object in rhyme."""
    thing = pick_one(rng, scenes[0].things)
    question = [*words("what is"), *_at(thing), *words(", in rhyme")]
    rhymes = (("what a day", "hip hip hooray"), ("what a sight", "so fine and bright"))
    first, last = rhymes[int(rng.random() >= 0.5)]
    named = pick_one(rng, noun_phrases(thing))
    answer = [*words(f"{first}:"), *_at(thing), *words("there is"), *named, *words(f", {last}")]
    return _answered(question, sentence(answer), FORM)


def listing(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """The objects as a numbered list."""
    question = _wording(rng, "what is there, as a list", "can you list the objects")
    answer: Words = []
    for index, thing in enumerate(scenes[0].things, 1):
        named = pick_one(rng, noun_phrases(thing))
        answer += [Word(f"{index}."), place_word(thing.place), Word(":"), *named]
    return _answered(question, answer, FORM)


def rows(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """The objects as rows of a table."""
    question = _wording(rng, "what is there, as a table", "can you make a table of the objects")
    answer = words("| place | colour | shape |")
    for thing in scenes[0].things:
        cells = [attribute_word(thing, name) for name in ("colour", "shape")]
        for cell in (place_word(thing.place), *cells):
            answer += [cell, Word("|")]
    return _answered(question, answer, FORM)


def example(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """What is asked of the first picture and answered, then asked of the second."""
    kind = pick_one(rng, ("colour", "shape"))
    pair = [pick_one(rng, shapes(scene)) for scene in scenes]
    (subject, value), (then, truth) = (
        ([*_at(thing), *(_the(thing) if kind == "colour" else [])], attribute_word(thing, kind))
        for thing in pair
    )
    then, key_words = _in_second(then), _in_second([truth])
    question = [*words("first picture,"), *subject, Word(":"), value]
    question += [*words("; second picture,"), *then]
    answer = key_words if rng.random() < 0.5 else [*then, Word(":"), *key_words]
    return _answered(question, answer, PHRASE, key_words=key_words)


def _before_and_after(scenes: Scenes) -> tuple[Thing, Thing]:
    """The object that is not the same in both pictures."""
    before, after = scenes
    old = next(thing for thing in before.things if thing not in after.things)
    return old, next(thing for thing in after.things if thing not in before.things)


def moved(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """What happened between the two pictures."""
    old, new = _before_and_after(scenes)
    question = _wording(rng, "what happened between the pictures", "what is going on here")
    place = place_word(old.place)
    if old.cell == new.cell:
        was, becomes = (attribute_word(thing, "colour") for thing in (old, new))
        key_words = [was, *_in_second([becomes])]
        turned = replace(place, text="turned", picture=1)  # it has to be there to turn
        answer = [*_at(old), *_the(old), turned, Word("from"), was, Word("to"), key_words[1]]
    else:
        key_words = [place, *_in_second([place_word(new.place)])]
        answer = [*_the(old, "colour"), *words("moved from the"), place]
        answer += [*words("to the"), key_words[1]]
    return _answered(question, sentence(answer), SHORT, key_words=key_words)


def why(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """Why a place is empty afterwards."""
    old, new = _before_and_after(scenes)
    question = words(f"why is the {old.place} empty in the second picture")
    then = _in_second([place_word(new.place)])
    answer = [*words("because"), *_the(old, "colour"), *words("moved to the"), *then]
    if rng.random() < 0.4:
        return _answered(question, answer, PHRASE, key_words=then)
    return _answered(question, sentence(answer), SHORT, key_words=then)


def height(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """The height of a bar."""
    heights = _heights(scenes)
    (bar,) = pick_several(rng, list(heights), 1)
    question = [*_wording(rng, "how high is", "what is the height of"), *_bar(bar)]
    *lead, value = _bar_is(bar, heights)
    return _phrase_or_sentence(question, [value], lead, rng)


def highest(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """Which bar stands out."""
    heights, kind = _heights(scenes), pick_one(rng, ("highest", "lowest"))
    best = (max if kind == "highest" else min)(heights, key=heights.__getitem__)
    answer = [Word(best, Fact("chart", kind, best))]
    return _phrase_or_sentence(words(f"which bar is the {kind}"), answer, f"the {kind} bar is", rng)


def bars(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """Two bars side by side."""
    heights = _heights(scenes)
    pair = pick_several(rng, list(heights), 2)
    question = [*words("can you compare"), *_join([_bar(bar) for bar in pair], "and")]
    halves = [_bar_is(bar, heights) for bar in pair]
    answer = sentence(_join(halves, "and"))
    return _answered(question, answer, "comparison", key_words=[half[-1] for half in halves])


def difference(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """How far apart two bars are, step by step."""
    heights = _heights(scenes)
    one, other = pick_several(rng, list(heights), 2)
    question = [*words("how far apart are"), *_bar(one), Word("and"), *_bar(other)]
    question += words(", step by step")
    halves = [_bar_is(bar, heights) for bar in (one, other)]
    gap = abs(heights[one] - heights[other])
    so = f"so they are {NUMBERS[gap]} apart" if gap else "so they are the same"
    answer = [*sentence(halves[0]), *sentence(halves[1]), *sentence(words(so))]
    return _answered(question, answer, STEPS, key_words=[half[-1] for half in halves])


def taller(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """Whether one bar is above another."""
    heights = _heights(scenes)
    one, other = pick_several(rng, list(heights), 2)
    question = [Word("is"), *_bar(one), Word("above"), *_bar(other)]
    above = heights[one] > heights[other]
    fact = Fact(one, "above" if above else NOT + "above", other)
    return _answered(question, [Word("yes" if above else "no", fact)], "yes/no")


def bar_choice(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """The height of a bar, out of three."""
    heights = _heights(scenes)
    (bar,) = pick_several(rng, list(heights), 1)
    others = pick_several(rng, [value for value in range(1, 10) if value != heights[bar]], 2)
    options = pick_several(rng, [NUMBERS[value] for value in (heights[bar], *others)], 3)
    return _choice([*words("how high is"), *_bar(bar)], options, _bar_is(bar, heights)[-1])


def bar_count(scenes: Scenes, rng: np.random.Generator) -> QuestionAnswer:
    """How many bars there are."""
    number = number_word(len(_heights(scenes)), "chart")
    question = words("how many bars are there")
    return _phrase_or_sentence(question, [number], "there are", rng, Word("bars"))


def _heights(scenes: Scenes) -> dict[str, int]:
    chart = scenes[0].chart
    assert chart is not None
    return dict(zip(chart.colours, chart.heights, strict=True))


def _bar(colour: str) -> Words:
    return [Word("the"), place_word(colour), Word("bar")]


def _bar_is(colour: str, heights: dict[str, int]) -> Words:
    """Ends in the height."""
    return [*_bar(colour), Word("is"), number_word(heights[colour], colour, "height")]
