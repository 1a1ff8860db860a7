"""Captions and documents about scenes at four levels of quality, checked word by word.

A text is a list of words, some of which state a `Fact`; only at the end it becomes a string. So it
can be checked against any picture, which gives the spans of its right and wrong words.

Captions: level 3 is complete and right, 2 has exactly one property wrong, 1 several, and 0 is about
another picture. Each is a right description of a scene at a chosen distance from the picture, so
the wording alone says nothing about the level.

Documents mix what the rubric of UniFilter (arXiv 2510.15162, table 1) mixes. Level 3: each picture,
then a right and complete explanation. 2: the same with several factual errors and misspellings.
1: readable, but each paragraph belongs to another of the pictures or says hardly anything. 0: full
of misspellings, about other pictures, which stand anywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmsieve.labels import LEVELS, POSITIVE
from mmsieve.synthetic.scenes import (
    CORNERS,
    GRID,
    SIGN,
    BarChart,
    Fact,
    NumberTable,
    Scene,
    Scenes,
    Thing,
    change_one,
    change_several,
    pick_one,
    sample_scene,
    stranger,
    stranger_to,
)

NUMBERS = (
    "no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
    "eighteen",
)  # fmt: skip
_LEADS = ("at the {} there is", "the {} shows", "the {} has", "{}:", "at the {} stands", "{}:")
_INTROS = (
    "here are {} objects",
    "a picture of {} objects",
    "there are {} objects",
    "{} objects",
    "{} things in one picture",
)
_CHARTS = ("a chart of {} bars", "a bar chart with {} bars", "{} bars in a chart")
_TABLES = ("a table of fruit", "a small table", "fruit by month")
_VAGUE = (
    "this picture has some shapes in it",
    "there are a few things to see here",
    "many pictures look like this",
    "it is a picture with colours",
)
_OPENINGS = (
    "let us look at some pictures",
    "this page explains some pictures",
    "what can we learn from these pictures",
)
_WHOLE = ("scene", "chart")  # subjects of facts about a picture as a whole
_PUNCTUATION = frozenset(".,:;?")


@dataclass(frozen=True, slots=True)
class Word:
    """A word or a punctuation mark, and the fact that it states, if any."""

    text: str
    fact: Fact | None = None
    picture: int = 0
    """The picture that the fact is about, where there are several."""


Words = list[Word]
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class MarkedText:
    """A text, and the character spans of the facts in it that are right and that are wrong.

    What can't be judged (attributes of an object that is not there) is in neither.
    """

    text: str
    right: tuple[Span, ...] = ()
    wrong: tuple[Span, ...] = ()


def words(text: str) -> Words:
    """Words that state nothing about the picture."""
    return [Word(word) for word in text.split()]


def place_word(name: str) -> Word:
    """The name of a place, bar, row or column, which states that it is there."""
    return Word(name, Fact(name, "place", name))


def attribute_word(thing: Thing, attribute: str) -> Word:
    """The word for an attribute of an object."""
    value: str = getattr(thing, attribute)
    return Word(value, Fact(thing.place, attribute, value))


def number_word(number: int, subject: str, attribute: str = "count") -> Word:
    """A number in letters, and of what it is."""
    return Word(NUMBERS[number], Fact(subject, attribute, str(number)))


def sentence(phrase: Words, end: str = ".") -> Words:
    """A capital in front and a full stop behind."""
    first = phrase[0]
    capital = replace(first, text=first.text[:1].upper() + first.text[1:])
    return [capital, *phrase[1:], Word(end)]


def mark(text: Words, truths: Sequence[frozenset[Fact]] = ()) -> MarkedText:
    """Join the words and check each against its picture's facts; without any, nothing is judged."""
    joined = ""
    right: list[Span] = []
    wrong: list[Span] = []
    for word in text:
        if joined and word.text not in _PUNCTUATION:
            joined += " "
        span = (len(joined), len(joined) + len(word.text))
        joined += word.text
        if not truths or word.fact is None:
            continue
        facts = truths[word.picture]
        if word.fact in facts:
            right.append(span)
        elif not _groundless(word.fact, facts):
            wrong.append(span)
    return MarkedText(joined, tuple(right), tuple(wrong))


def _groundless(fact: Fact, facts: frozenset[Fact]) -> bool:
    """An attribute of something that is not there: the place is the error, not the attribute."""
    where = Fact(fact.subject, "place", fact.subject)
    return fact.subject not in _WHOLE and fact.attribute != "place" and where not in facts


def noun_phrases(thing: Thing) -> list[Words]:
    """An object with all its attributes, in each of several wordings; the first is canonical."""
    said = {name: attribute_word(thing, name) for name in thing.attributes()}
    if thing.shape == SIGN:
        head, word = [said["colour"], said["shape"]], said["word"]
        links = ("reading", "saying", "with the word")
        return [_with_article([*head, *words(link), word]) for link in links]
    fill, colour, shape = (said[name] for name in ("fill", "colour", "shape"))
    size = [said["size"]] if "size" in said else []
    orders = (
        [*size, colour, fill, shape],
        [*size, fill, colour, shape],
        [fill, colour, *size, shape],
        [*size, colour, shape, *words("that is"), fill],
        [*size, fill, shape, Word("in"), colour],
    )
    return [_with_article(order) for order in orders]


def _with_article(phrase: Words) -> Words:
    return [Word("an" if phrase[0].text[0] in "aeiou" else "a"), *phrase]


def clause(thing: Thing, rng: np.random.Generator) -> Words:
    """Place first, then the object: whoever reads on knows where to look."""
    before, after = pick_one(rng, _LEADS).split("{}")
    tail = [Word(":")] if after == ":" else words(after)
    return [*words(before), place_word(thing.place), *tail, *pick_one(rng, noun_phrases(thing))]


def _count_phrase(pattern: str, number: Word) -> Words:
    """A phrase with a number at its {}."""
    before, after = pattern.split("{}")
    if number.text == NUMBERS[1]:
        after = after.replace("objects", "object").replace("things", "thing")
    return [*words(before), number, *words(after)]


def _relation(scene: Scene, rng: np.random.Generator) -> Words:
    """How two objects stand to each other; it follows from their places, so it is left unjudged."""
    one, other = (scene.things[int(i)] for i in rng.permutation(len(scene.things))[:2])
    (row, column), (far_row, far_column) = divmod(one.cell, GRID), divmod(other.cell, GRID)
    ways = []
    if row != far_row:
        ways.append("above" if row < far_row else "below")
    if column != far_column:
        ways.append("left of" if column < far_column else "right of")
    return words(f"the {one.shape} is {pick_one(rng, ways)} the {other.shape}")


def describe(scene: Scene, rng: np.random.Generator) -> Words:
    """A complete and right description of a scene, in one of many wordings."""
    if scene.chart is not None:
        head, verb = pick_one(rng, _CHARTS), pick_one(rng, ("is", "stands at", "reaches"))
        return _describe_chart(scene.chart, head, verb)
    if scene.table is not None:
        return _describe_table(scene.table, pick_one(rng, _TABLES))
    count = len(scene.things)
    text = sentence(_count_phrase(pick_one(rng, _INTROS), number_word(count, "scene")))
    order = rng.permutation(count) if rng.random() < 0.25 else range(count)
    for index in order:
        text += sentence(clause(scene.things[int(index)], rng))
    if count > 1 and rng.random() < 0.2:
        text += sentence(_relation(scene, rng))
    return text


def describe_canonically(scene: Scene) -> Words:
    """The canonical caption: the count, then each object in reading order, in the same words."""
    if scene.chart is not None:
        return _describe_chart(scene.chart, _CHARTS[0], "is")
    if scene.table is not None:
        return _describe_table(scene.table, _TABLES[0])
    text = sentence(_count_phrase("{} objects", number_word(len(scene.things), "scene")))
    for thing in scene.things:
        text += sentence([place_word(thing.place), Word(":"), *noun_phrases(thing)[0]])
    return text


def _describe_chart(chart: BarChart, head: str, verb: str) -> Words:
    text = sentence(_count_phrase(head, number_word(len(chart.colours), "chart")))
    for colour, height in zip(chart.colours, chart.heights, strict=True):
        value = number_word(height, colour, "height")
        text += sentence([Word("the"), place_word(colour), Word("bar"), *words(verb), value])
    return text


def _describe_table(table: NumberTable, head: str) -> Words:
    text = sentence(words(head))
    for row in table.rows:
        line = [place_word(row), Word(":")]
        for column in table.columns:
            value = number_word(table.at(row, column), f"{row} {column}", "number")
            line += [value, Word("in"), place_word(column), Word(",")]
        text += sentence(line[:-1])
    return text


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption of a picture, its level, and the scene that it describes."""

    level: int
    text: MarkedText
    described: Scene


def described_scene(scene: Scene, level: int, rng: np.random.Generator) -> Scene:
    """The scene that a caption of this level describes."""
    if level == POSITIVE:
        return scene
    return (stranger, change_several, change_one)[level](scene, rng)


def caption(scene: Scene, level: int, rng: np.random.Generator) -> Caption:
    """Write one caption of a picture."""
    described = described_scene(scene, level, rng)
    return Caption(level, mark(describe(described, rng), [scene.facts()]), described)


def caption_set(scene: Scene, rng: np.random.Generator) -> tuple[Caption, ...]:
    """One caption per level, in the order of the levels."""
    return tuple(caption(scene, level, rng) for level in LEVELS)


Part = MarkedText | int


@dataclass(frozen=True, slots=True)
class Document:
    """Paragraphs and pictures in reading order; an int is the index of a picture."""

    level: int
    parts: tuple[Part, ...]


def sample_scenes(family: str, rng: np.random.Generator) -> Scenes:
    """Two or three pictures for a document, each a stranger to the others."""
    scenes: Scenes = (sample_scene(family, int(rng.integers(2**62))),)
    for _ in range(1 + int(rng.random() < 0.25)):
        scenes += (stranger_to(scenes, rng),)
    return scenes


def document_set(scenes: Scenes, rng: np.random.Generator) -> tuple[Document, ...]:
    """One document around these pictures per level, in the order of the levels."""
    writers = (_level_0, _level_1, _level_2, _level_3)
    return tuple(Document(level, writers[level](scenes, rng)) for level in LEVELS)


def _general_knowledge(scene: Scene, rng: np.random.Generator, *, right: bool) -> Words:
    """A sentence of general knowledge about a shape in the picture, true or false."""
    shapes = [thing.shape for thing in scene.things if thing.shape != SIGN]
    shape = pick_one(rng, shapes) if shapes else "square"
    corners = CORNERS[shape]
    if not right:
        corners = pick_one(rng, [number for number in (0, 3, 4, 5, 12) if number != corners])
    article = "every" if rng.random() < 0.5 else "a"
    return sentence(words(f"{article} {shape} has {NUMBERS[corners]} corners"))


def _lay_out(
    paragraphs: list[Words], scenes: Scenes, rng: np.random.Generator, misspelt: range | None = None
) -> tuple[Part, ...]:
    """Perhaps an opening, then each picture and its paragraph, some of their words misspelt."""
    parts: list[Part] = []
    if rng.random() < 0.3:
        parts.append(mark(sentence(words(pick_one(rng, _OPENINGS)))))
    if misspelt is not None:
        paragraphs = _misspell_some(paragraphs, pick_one(rng, misspelt), rng)
    for index, paragraph in enumerate(paragraphs):
        parts += [index, mark(paragraph, [scenes[index].facts()])]
    return tuple(parts)


def _explain(scene: Scene, rng: np.random.Generator, *, sound: bool = False) -> Words:
    """A description, then general knowledge: true if it is to be `sound`, else half of the time."""
    text = describe(scene, rng)
    return text + _general_knowledge(scene, rng, right=sound or rng.random() < 0.5)


def _mention(scene: Scene, rng: np.random.Generator) -> Words:
    """A sentence that says nothing, then one about one object."""
    thing = pick_one(rng, scene.things)
    return sentence(words(pick_one(rng, _VAGUE))) + sentence(clause(thing, rng))


def _level_3(scenes: Scenes, rng: np.random.Generator) -> tuple[Part, ...]:
    return _lay_out([_explain(scene, rng, sound=True) for scene in scenes], scenes, rng)


def _level_2(scenes: Scenes, rng: np.random.Generator) -> tuple[Part, ...]:
    """Several factual errors: one in each picture and more in one of them, or false knowledge."""
    worst = int(rng.integers(len(scenes)))
    changes = [change_several if index == worst else change_one for index in range(len(scenes))]
    pairs = zip(changes, scenes, strict=True)
    paragraphs = [_explain(change(scene, rng), rng) for change, scene in pairs]
    return _lay_out(paragraphs, scenes, rng, misspelt=range(3))


def _level_1(scenes: Scenes, rng: np.random.Generator) -> tuple[Part, ...]:
    """Each paragraph is written for the next picture, fully or with hardly a word about it."""
    write = _mention if rng.random() < 0.6 else _explain
    paragraphs = [write(other, rng) for other in (*scenes[1:], scenes[0])]
    return _lay_out(paragraphs, scenes, rng, misspelt=range(2, 5))


def _level_0(scenes: Scenes, rng: np.random.Generator) -> tuple[Part, ...]:
    """Misspelt paragraphs about pictures that are not here; the pictures stand anywhere."""
    paragraphs = [describe(stranger_to(scenes, rng), rng) for _ in scenes]
    total = sum(len(_long_words(paragraph)) for paragraph in paragraphs)
    paragraphs = _misspell_some(paragraphs, round(total * rng.uniform(0.4, 0.6)), rng)
    slots: list[int | Words] = [*range(len(scenes)), *paragraphs]
    parts: list[Part] = []
    above: list[frozenset[Fact]] = []
    for index in rng.permutation(len(slots)):
        slot = slots[int(index)]
        if isinstance(slot, int):
            above = [scenes[slot].facts()]
        parts.append(slot if isinstance(slot, int) else mark(slot, above))
    return tuple(parts)


def _long_words(text: Words) -> list[int]:
    """Words long enough that a misspelling makes them no other word."""
    return [i for i, word in enumerate(text) if len(word.text) > 3 and word.text.isalpha()]


def _misspell_some(paragraphs: list[Words], count: int, rng: np.random.Generator) -> list[Words]:
    """Misspell this many words, anywhere; those state nothing any more."""
    places = [(i, j) for i, paragraph in enumerate(paragraphs) for j in _long_words(paragraph)]
    spoilt = [list(paragraph) for paragraph in paragraphs]
    for choice in rng.permutation(len(places))[:count]:
        i, j = places[int(choice)]
        spoilt[i][j] = Word(_misspell(spoilt[i][j].text, rng))
    return spoilt


def _misspell(word: str, rng: np.random.Generator) -> str:
    """Swap two inner letters that differ, drop one, or double one."""
    at = 1 + int(rng.integers(len(word) - 2))
    kind = int(rng.integers(3))
    if kind == 0 and word[at] != word[at + 1]:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    return word[:at] + word[at] * 2 + word[at + 1 :]
