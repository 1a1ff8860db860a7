"""One fixed wording of a scene, and its way back: what a rewrite is taught to say, and checked by.

A scene has exactly one plain telling: its count, then each object, place first, in reading order,
always in the same words. Every form of it is among those of `words.tell`, so who knows these knows
it too. A model that has to write needs one answer to a picture, not one of thousands; and what is
always said in one way can be read back without guessing.
"""

import re
from collections.abc import Iterator

from mmsieve.rendered.scenes import (
    COLOURS,
    COLUMN_NAMES,
    FILLS,
    PLACES,
    ROW_NAMES,
    SHAPES,
    SIGN,
    SIZES,
    WORDS,
    Fact,
    Scene,
    Thing,
)
from mmsieve.rendered.words import (
    NUMBERS,
    Piece,
    plain,
    sentence,
    tell_bars,
    tell_rows,
    with_article,
)


def tell_plainly(scene: Scene) -> list[Piece]:
    """The plain telling of a scene: complete and right."""
    if scene.chart is not None:
        return tell_bars(scene.chart, "a chart of {} bars", "is")
    if scene.table is not None:
        return tell_rows(scene.table, "a table of fruit")
    count = len(scene.things)
    number = Piece(NUMBERS[count], Fact("scene", "count", str(count)))
    pieces = sentence([number, Piece("object" if count == 1 else "objects")])
    for thing in scene.things:
        pieces += sentence(_clause(thing))
    return pieces


def _clause(thing: Thing) -> list[Piece]:
    said = {
        name: Piece(value, Fact(thing.place, name, value))
        for name, value in thing.attributes().items()
    }
    order = ("size", "colour", "fill", "shape") if thing.shape != SIGN else ("colour", "shape")
    words = [said[name] for name in order if name in said]
    if thing.shape == SIGN:
        words += [*plain("reading"), said["word"]]
    place = Piece(thing.place, Fact(thing.place, "place", thing.place))
    return [place, Piece(":"), *with_article(words)]


def told_facts(text: str) -> frozenset[Fact] | None:
    """The facts that a text in the plain wording states; None where it isn't in that wording.

    Case and spaces don't matter; an unknown word, an unfinished sentence or an empty text does.
    """
    *sentences, rest = text.lower().split(".")
    if rest.strip() or not sentences:
        return None
    found: set[Fact] = set()
    for one in sentences:
        facts = _read(" ".join(one.split()))
        if facts is None:
            return None
        found.update(facts)
    return frozenset(found)


def states_only_true_facts(text: str, scene: Scene) -> bool:
    """Whether a text is in the plain wording and says nothing that is not so."""
    told = told_facts(text)
    return told is not None and told <= scene.facts()


def is_complete(text: str, scene: Scene) -> bool:
    """Whether a text is in the plain wording and says all of a scene; the count goes by itself."""
    told = told_facts(text)
    return told is not None and {f for f in scene.facts() if f.attribute != "count"} <= told


def _one_of(*words: str) -> str:
    return f"({'|'.join(re.escape(word.lower()) for word in words)})"


_NUMBER = _one_of(*NUMBERS)
_COUNT = re.compile(rf"{_NUMBER} objects?")
_THING = re.compile(
    rf"{_one_of(*PLACES)} ?: an? (?:{_one_of(*SIZES)} )?{_one_of(*COLOURS)} {_one_of(*FILLS)} "
    rf"{_one_of(*SHAPES)}"
)
_SIGN = re.compile(rf"{_one_of(*PLACES)} ?: an? {_one_of(*COLOURS)} sign reading {_one_of(*WORDS)}")
_BARS = re.compile(rf"a chart of {_NUMBER} bars?")
_BAR = re.compile(rf"the {_one_of(*COLOURS)} bar is {_NUMBER}")
_FRUIT = "a table of fruit"
_CELL = rf"{_NUMBER} in {_one_of(*COLUMN_NAMES)}"
_ROW = re.compile(rf"{_one_of(*ROW_NAMES)} ?: ({_CELL}(?: ?, {_CELL})*)")


def _read(words: str) -> list[Fact] | None:
    """The facts of a sentence, without its full stop; None where it is none of ours."""
    if words == _FRUIT:
        return []
    for pattern, facts in (
        (_COUNT, _count_of_things),
        (_BARS, _count_of_bars),
        (_THING, _thing),
        (_SIGN, _sign),
        (_BAR, _bar),
        (_ROW, _row),
    ):
        if found := pattern.fullmatch(words):
            return list(facts(found))
    return None


def _count_of_things(found: re.Match[str]) -> Iterator[Fact]:
    yield Fact("scene", "count", str(NUMBERS.index(found[1])))


def _count_of_bars(found: re.Match[str]) -> Iterator[Fact]:
    yield Fact("chart", "count", str(NUMBERS.index(found[1])))


def _thing(found: re.Match[str]) -> Iterator[Fact]:
    place, size, colour, fill, shape = found.groups()
    yield Fact(place, "place", place)
    said = {"size": size, "colour": colour, "fill": fill, "shape": shape}
    yield from (Fact(place, name, value) for name, value in said.items() if value)


def _sign(found: re.Match[str]) -> Iterator[Fact]:
    place, colour, word = found.groups()
    yield Fact(place, "place", place)
    yield Fact(place, "shape", SIGN)
    yield Fact(place, "colour", colour)
    yield Fact(place, "word", word.upper())


def _bar(found: re.Match[str]) -> Iterator[Fact]:
    yield Fact(found[1], "place", found[1])
    yield Fact(found[1], "height", str(NUMBERS.index(found[2])))


def _row(found: re.Match[str]) -> Iterator[Fact]:
    row = found[1]
    yield Fact(row, "place", row)
    for number, column in re.findall(_CELL, found[2]):
        cell = f"{row} {column}"
        yield Fact(column, "place", column)
        yield Fact(cell, "place", cell)
        yield Fact(cell, "number", str(NUMBERS.index(number)))
