"""Sentences over scenes, kept as pieces that remember which fact each word states.

A telling is a list of pieces; only at the end it becomes a string. So every word can be checked
against any picture: that gives the wrong-word labels, whatever was edited and however it was said.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmsieve.rendered.scenes import GRID, SIGN, Chart, Fact, Scene, Table, Thing, pick

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
        tail = plain(pick(rng, ("reading", "saying", "with the word")))
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
    before, after = pick(rng, _LEADS).split("{}")
    head = [*plain(before), Piece(thing.place, place)]
    head += [Piece(":")] if after == ":" else plain(after)
    return head + noun_phrase(thing, rng)


def intro(scene: Scene, rng: np.random.Generator) -> list[Piece]:
    """How many objects there are."""
    before, after = pick(rng, _INTROS).split("{}")
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
    words = f"the {one.shape} is {pick(rng, tuple(ways))} the {other.shape}"
    return [Piece(word, loose=True) for word in words.split()]


def tell(scene: Scene, rng: np.random.Generator) -> list[Piece]:
    """A complete and right telling of a scene."""
    if scene.chart is not None:
        head, verb = pick(rng, _CHARTS), pick(rng, ("is", "stands at", "reaches"))
        return tell_bars(scene.chart, head, verb)
    if scene.table is not None:
        return tell_rows(scene.table, pick(rng, _TABLES))
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
