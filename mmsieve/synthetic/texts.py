"""Texts over scenes whose words remember the facts they state, at four levels of quality.

A telling is a list of pieces; only at the end it becomes a string. So every word can be checked
against any picture: that gives the wrong-word labels, whatever was edited and however it was said.

0 tells another picture, 1 is about this one with several conspicuous errors, 2 has exactly one
property wrong, 3 is complete and right. Each level is the right telling of a scene at a chosen
distance from the picture, so the wording alone says nothing about the level.

The levels mix what the method's own rubric mixes (UniFilter, table 1): writing errors, how text
and pictures relate, where the pictures stand, whether the text teaches anything. Level 3: each
picture, then a right and complete explanation. 2: the same layout with several factual errors and
some slips. 1: readable, on the same topic, but each paragraph belongs to another of the pictures
or says hardly anything. 0: full of slips, about other pictures, which stand anywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmsieve.labels import HARD_NEGATIVE, LEVELS, MEDIUM_NEGATIVE, POSITIVE
from mmsieve.synthetic.edits import change_one, change_several, stranger, stranger_to
from mmsieve.synthetic.scenes import (
    GRID,
    SIGN,
    Chart,
    Fact,
    Scene,
    Table,
    Thing,
    pick_one,
    sample_scene,
)

# Sentences over scenes, kept as pieces that remember which fact each word states

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
WHOLE = ("scene", "chart")
"""Subjects of facts about a picture as a whole."""
_CHARTS = ("a chart of {} bars", "a bar chart with {} bars", "{} bars in a chart")
_TABLES = ("a table of fruit", "a small table", "fruit by month")
_ENDS = frozenset(".,:;?")


@dataclass(frozen=True, slots=True)
class Piece:
    """A word and the fact it states, if any; a loose one is not to be judged.

    `picture` says of which picture, where there are several.
    """

    text: str
    fact: Fact | None = None
    loose: bool = False
    picture: int = 0


Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Marked:
    """A text, and the character spans of the facts in it that are right and that are wrong.

    What can't be judged (relations, attributes of an object that is not there) is in neither.
    """

    text: str
    right: tuple[Span, ...] = ()
    wrong: tuple[Span, ...] = ()


def plain(text: str) -> list[Piece]:
    """Words that state nothing about the picture."""
    return [Piece(word) for word in text.split()]


def sentence(pieces: Sequence[Piece], end: str = ".") -> list[Piece]:
    """A capital in front and a full stop behind."""
    first = pieces[0]
    capital = replace(first, text=first.text[:1].upper() + first.text[1:])
    return [capital, *pieces[1:], Piece(end)]


def mark(pieces: Sequence[Piece], truth: Scene | None) -> Marked:
    """Join the pieces and check each against a picture (or none: then nothing is judged)."""
    return mark_facts(pieces, None if truth is None else (truth.facts(),))


def mark_facts(pieces: Sequence[Piece], truths: Sequence[frozenset[Fact]] | None) -> Marked:
    """Join the pieces and check each against the facts of the picture it is about."""
    text = ""
    right: list[Span] = []
    wrong: list[Span] = []
    for piece in pieces:
        if text and piece.text not in _ENDS:
            text += " "
        span = (len(text), len(text) + len(piece.text))
        text += piece.text
        if truths is None or piece.loose or piece.fact is None:
            continue
        facts = truths[piece.picture]
        if piece.fact in facts:
            right.append(span)
        elif not _groundless(piece.fact, facts):
            wrong.append(span)
    return Marked(text, tuple(right), tuple(wrong))


def _groundless(fact: Fact, facts: frozenset[Fact]) -> bool:
    """An attribute of something that is not there: the place is the error, not the attribute."""
    where = Fact(fact.subject, "place", fact.subject)
    return fact.subject not in WHOLE and fact.attribute != "place" and where not in facts


def noun_phrase(thing: Thing, rng: np.random.Generator) -> list[Piece]:
    """An object with all its attributes, in one of several orders."""
    said = {
        name: Piece(value, Fact(thing.place, name, value))
        for name, value in thing.attributes().items()
    }
    if thing.shape == SIGN:
        tail = plain(pick_one(rng, ("reading", "saying", "with the word")))
        return with_article([said["colour"], said["shape"], *tail, said["word"]])
    fill, colour, shape = (said[name] for name in ("fill", "colour", "shape"))
    size = [said["size"]] if "size" in said else []
    forms: tuple[list[Piece], ...] = (
        [*size, colour, fill, shape],
        [*size, fill, colour, shape],
        [fill, colour, *size, shape],
        [*size, colour, shape, *plain("that is"), fill],
        [*size, fill, shape, Piece("in"), colour],
    )
    return with_article(forms[int(rng.integers(len(forms)))])


def with_article(pieces: list[Piece]) -> list[Piece]:
    """Words with an article in front."""
    return [Piece("an" if pieces[0].text[0] in "aeiou" else "a"), *pieces]


def clause(thing: Thing, rng: np.random.Generator) -> list[Piece]:
    """Place first, then the object: whoever reads on knows where to look."""
    place = Fact(thing.place, "place", thing.place)
    before, after = pick_one(rng, _LEADS).split("{}")
    head = [*plain(before), Piece(thing.place, place)]
    head += [Piece(":")] if after == ":" else plain(after)
    return head + noun_phrase(thing, rng)


def intro(scene: Scene, rng: np.random.Generator) -> list[Piece]:
    """How many objects there are."""
    before, after = pick_one(rng, _INTROS).split("{}")
    count = len(scene.things)
    number = Piece(NUMBERS[count], Fact("scene", "count", str(count)))
    if count == 1:
        after = after.replace("objects", "object").replace("things", "thing")
    return [*plain(before), number, *plain(after)]


def relation(scene: Scene, rng: np.random.Generator) -> list[Piece]:
    """How two objects stand to each other; it follows from their places, so it is left unjudged."""
    order = [int(i) for i in rng.permutation(len(scene.things))[:2]]
    one, other = (scene.things[i] for i in order)
    (row, column), (far_row, far_column) = divmod(one.cell, GRID), divmod(other.cell, GRID)
    ways = []
    if row != far_row:
        ways.append("above" if row < far_row else "below")
    if column != far_column:
        ways.append("left of" if column < far_column else "right of")
    words = f"the {one.shape} is {pick_one(rng, tuple(ways))} the {other.shape}"
    return [Piece(word, loose=True) for word in words.split()]


def tell(scene: Scene, rng: np.random.Generator) -> list[Piece]:
    """A complete and right telling of a scene."""
    if scene.chart is not None:
        head, verb = pick_one(rng, _CHARTS), pick_one(rng, ("is", "stands at", "reaches"))
        return tell_bars(scene.chart, head, verb)
    if scene.table is not None:
        return tell_rows(scene.table, pick_one(rng, _TABLES))
    pieces = sentence(intro(scene, rng))
    order = list(range(len(scene.things)))
    if rng.random() < 0.25:
        order = [int(i) for i in rng.permutation(len(scene.things))]
    for index in order:
        pieces += sentence(clause(scene.things[index], rng))
    if len(scene.things) > 1 and rng.random() < 0.2:
        pieces += sentence(relation(scene, rng))
    return pieces


def tell_bars(chart: Chart, head: str, verb: str) -> list[Piece]:
    """A chart: `head`, with the number of bars at its {}, then each bar and its height."""
    count = len(chart.colours)
    before, after = head.split("{}")
    number = Piece(NUMBERS[count], Fact("chart", "count", str(count)))
    pieces = sentence([*plain(before), number, *plain(after)])
    for colour, height in zip(chart.colours, chart.heights, strict=True):
        named = Piece(colour, Fact(colour, "place", colour))
        value = Piece(NUMBERS[height], Fact(colour, "height", str(height)))
        pieces += sentence([Piece("the"), named, Piece("bar"), *plain(verb), value])
    return pieces


def tell_rows(table: Table, head: str) -> list[Piece]:
    """A table: `head`, then each row with its numbers and their columns."""
    pieces = sentence(plain(head))
    for row in table.rows:
        told = [Piece(row, Fact(row, "place", row)), Piece(":")]
        for index, column in enumerate(table.columns):
            name = f"{row} {column}"
            value = Piece(
                NUMBERS[table.at(row, column)], Fact(name, "number", str(table.at(row, column)))
            )
            told += [*([Piece(",")] if index else []), value, Piece("in")]
            told += [Piece(column, Fact(column, "place", column))]
        pieces += sentence(told)
    return pieces


# Captions of a scene at the four quality levels, with their errors known word by word


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption of a picture, its level, and the scene that it really tells."""

    level: int
    text: Marked
    told: Scene


def told_scene(scene: Scene, level: int, rng: np.random.Generator) -> Scene:
    """The scene that a caption of this level describes."""
    if level == POSITIVE:
        return scene
    if level == HARD_NEGATIVE:
        return change_one(scene, rng)
    if level == MEDIUM_NEGATIVE:
        return change_several(scene, rng)
    return stranger(scene, rng)


def caption(scene: Scene, level: int, rng: np.random.Generator) -> Caption:
    """Write one caption of a picture."""
    told = told_scene(scene, level, rng)
    return Caption(level, mark(tell(told, rng), scene), told)


def caption_set(scene: Scene, rng: np.random.Generator) -> tuple[Caption, ...]:
    """One caption per level, in the order of the levels."""
    return tuple(caption(scene, level, rng) for level in LEVELS)


# Documents of two or three pictures at the four quality levels

Part = Marked | int


@dataclass(frozen=True, slots=True)
class Document:
    """Paragraphs and pictures in reading order; an int is the index of a picture."""

    level: int
    scenes: tuple[Scene, ...]
    parts: tuple[Part, ...]


CORNERS = {"circle": "no", "ring": "no", "square": "four", "triangle": "three", "star": "five",
            "cross": "twelve", "diamond": "four"}  # fmt: skip
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


def sample_scenes(family: str, rng: np.random.Generator) -> tuple[Scene, ...]:
    """Two or three pictures for a document, each a stranger to the others."""
    scenes = [sample_scene(family, int(rng.integers(2**62)))]
    for _ in range(1 + int(rng.random() < 0.25)):
        scenes.append(stranger_to(tuple(scenes), rng))
    return tuple(scenes)


def document(scenes: tuple[Scene, ...], level: int, rng: np.random.Generator) -> Document:
    """Write one document around these pictures."""
    writer = (_level_0, _level_1, _level_2, _level_3)[level]
    return Document(level, scenes, writer(scenes, rng))


def document_set(scenes: tuple[Scene, ...], rng: np.random.Generator) -> tuple[Document, ...]:
    """One document per level, in the order of the levels."""
    return tuple(document(scenes, level, rng) for level in LEVELS)


def _lesson(scene: Scene, rng: np.random.Generator, *, right: bool) -> list[Piece]:
    """A sentence of general knowledge about a shape in the picture, true or false."""
    shapes = tuple(thing.shape for thing in scene.things if thing.shape != SIGN)
    shape = pick_one(rng, shapes) if shapes else "square"
    said = CORNERS[shape]
    if not right:
        said = pick_one(
            rng, tuple(n for n in ("no", "three", "four", "five", "twelve") if n != said)
        )
    article = "every" if rng.random() < 0.5 else "a"
    return sentence(plain(f"{article} {shape} has {said} corners"))


def _opening(rng: np.random.Generator) -> list[list[Piece]]:
    return [sentence(plain(pick_one(rng, _OPENINGS)))] if rng.random() < 0.3 else []


def _in_turn(
    opening: list[list[Piece]], paragraphs: list[list[Piece]], scenes: tuple[Scene, ...]
) -> tuple[Part, ...]:
    """The opening, then each picture followed by its paragraph, checked against it."""
    parts: list[Part] = [mark(pieces, None) for pieces in opening]
    for index, pieces in enumerate(paragraphs):
        parts += [index, mark(pieces, scenes[index])]
    return tuple(parts)


def _level_3(scenes: tuple[Scene, ...], rng: np.random.Generator) -> tuple[Part, ...]:
    paragraphs = [tell(scene, rng) + _lesson(scene, rng, right=True) for scene in scenes]
    return _in_turn(_opening(rng), paragraphs, scenes)


def _level_2(scenes: tuple[Scene, ...], rng: np.random.Generator) -> tuple[Part, ...]:
    """Several factual errors: one in each picture and more in one of them, or a false lesson."""
    worst = int(rng.integers(len(scenes)))
    paragraphs = []
    for index, scene in enumerate(scenes):
        told = (change_several if index == worst else change_one)(scene, rng)
        paragraphs.append(tell(told, rng) + _lesson(told, rng, right=rng.random() < 0.5))
    return _in_turn(_opening(rng), _slips(paragraphs, int(rng.integers(3)), rng), scenes)


def _level_1(scenes: tuple[Scene, ...], rng: np.random.Generator) -> tuple[Part, ...]:
    """Each paragraph is written for the next picture, fully or with hardly a word about it."""
    thin = rng.random() < 0.6
    paragraphs = []
    for index in range(len(scenes)):
        other = scenes[(index + 1) % len(scenes)]
        if thin:
            one = other.things[int(rng.integers(len(other.things)))]
            paragraphs.append(sentence(plain(pick_one(rng, _VAGUE))) + sentence(clause(one, rng)))
        else:
            paragraphs.append(tell(other, rng) + _lesson(other, rng, right=rng.random() < 0.5))
    return _in_turn(_opening(rng), _slips(paragraphs, int(rng.integers(2, 5)), rng), scenes)


def _level_0(scenes: tuple[Scene, ...], rng: np.random.Generator) -> tuple[Part, ...]:
    """Spoilt paragraphs about pictures that are not here; the pictures stand anywhere."""
    paragraphs = [tell(stranger_to(scenes, rng), rng) for _ in scenes]
    words = sum(len(_spoilable(pieces)) for pieces in paragraphs)
    paragraphs = _slips(paragraphs, round(words * rng.uniform(0.4, 0.6)), rng)
    slots: list[int | list[Piece]] = [*range(len(scenes)), *paragraphs]
    order = [slots[int(i)] for i in rng.permutation(len(slots))]
    parts: list[Part] = []
    seen: Scene | None = None
    for slot in order:
        if isinstance(slot, int):
            seen = scenes[slot]
            parts.append(slot)
        else:
            parts.append(mark(slot, seen))
    return tuple(parts)


def _spoilable(pieces: list[Piece]) -> list[int]:
    """Words long enough that a slip makes them no other word."""
    return [i for i, piece in enumerate(pieces) if len(piece.text) > 3 and piece.text.isalpha()]


def _slips(
    paragraphs: list[list[Piece]], count: int, rng: np.random.Generator
) -> list[list[Piece]]:
    """Misspell this many words, anywhere."""
    places = [(i, j) for i, pieces in enumerate(paragraphs) for j in _spoilable(pieces)]
    spoilt = [list(pieces) for pieces in paragraphs]
    for choice in rng.permutation(len(places))[:count]:
        i, j = places[int(choice)]
        piece = spoilt[i][j]
        spoilt[i][j] = replace(piece, text=_misspell(piece.text, rng), loose=True)
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
