"""What is true of drawn texts: canonical captions read back, ratings that need the picture."""

import re
from collections.abc import Iterator

from mmsieve.labels import CAPABILITIES
from mmsieve.synthetic.instructions import FAMILIES
from mmsieve.synthetic.scenes import (
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
)
from mmsieve.synthetic.texts import NUMBERS


def stated_facts(text: str) -> frozenset[Fact] | None:
    """The facts that a canonical caption states; None where a text isn't in that wording.

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
    """Whether a text is in the canonical wording and says nothing that is not so."""
    stated = stated_facts(text)
    return stated is not None and stated <= scene.facts()


def is_complete(text: str, scene: Scene) -> bool:
    """Whether a text is in the canonical wording and says all of a scene, but for the count."""
    stated = stated_facts(text)
    return stated is not None and {f for f in scene.facts() if f.attribute != "count"} <= stated


def _either(group: str, *words: str) -> str:
    """A pattern of any of these words, under the name of an attribute or a subject."""
    return f"(?P<{group}>{'|'.join(re.escape(word.lower()) for word in words)})"


def _read(words: str) -> list[Fact] | None:
    """The facts of a sentence, without its full stop; None where it is none of the wording."""
    for pattern, facts in _SENTENCES:
        if found := pattern.fullmatch(words):
            return list(facts(found))
    return None


def _count(found: re.Match[str]) -> Iterator[Fact]:
    """Of what the sentence counts, if anything."""
    for subject, number in found.groupdict().items():
        yield Fact(subject, "count", str(NUMBERS.index(number)))


def _thing(found: re.Match[str]) -> Iterator[Fact]:
    for attribute, value in found.groupdict().items():
        if value:
            said = value.upper() if attribute == "word" else value
            yield Fact(found["place"], attribute, said)


def _bar(found: re.Match[str]) -> Iterator[Fact]:
    yield Fact(found["colour"], "place", found["colour"])
    yield Fact(found["colour"], "height", str(NUMBERS.index(found["height"])))


def _row(found: re.Match[str]) -> Iterator[Fact]:
    row = found["row"]
    yield Fact(row, "place", row)
    for number, column in (cell.strip().split(" in ") for cell in found["cells"].split(",")):
        cell = f"{row} {column}"
        yield Fact(column, "place", column)
        yield Fact(cell, "place", cell)
        yield Fact(cell, "number", str(NUMBERS.index(number)))


_AT, _COLOUR = rf"{_either('place', *PLACES)} ?: an?", _either("colour", *COLOURS)
_LOOK = rf"{_COLOUR} {_either('fill', *FILLS)} {_either('shape', *SHAPES)}"
_SIGN = rf"{_COLOUR} {_either('shape', SIGN)} reading {_either('word', *WORDS)}"
_CELL = rf"(?:{'|'.join(NUMBERS)}) in (?:{'|'.join(COLUMN_NAMES)})"
_SENTENCES = [
    (re.compile("a table of fruit"), _count),
    (re.compile(rf"{_either('scene', *NUMBERS)} objects?"), _count),
    (re.compile(rf"a chart of {_either('chart', *NUMBERS)} bars?"), _count),
    (re.compile(rf"{_AT} (?:{_either('size', *SIZES)} )?{_LOOK}"), _thing),
    (re.compile(rf"{_AT} {_SIGN}"), _thing),
    (re.compile(rf"the {_COLOUR} bar is {_either('height', *NUMBERS)}"), _bar),
    (re.compile(rf"{_either('row', *ROW_NAMES)} ?: (?P<cells>{_CELL}(?: ?, {_CELL})*)"), _row),
]
"""The sentences of the canonical wording, and what each states."""


def _share_above(capability: str, floor: int) -> float:
    """The share of single right turns about objects that are rated above `floor`."""
    total = sum(template.share for template in FAMILIES["core"].values())
    above = (t.share for t in FAMILIES["core"].values() if t.ratings[capability] > floor)
    return sum(above) / total


NEEDS_PICTURE = tuple(name for name in CAPABILITIES if _share_above(name, 1) >= 0.7)
"""Capabilities that most right answers are good for: what remains of their ratings depends on
whether the picture agrees, so nobody rates them well without looking. More turns only raise this.
"""
