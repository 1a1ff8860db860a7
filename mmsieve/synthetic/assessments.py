"""Captions of a scene as a judge would mark them, and the canonical caption that a rewrite has.

A scene has exactly one plain telling: its count, then each object, place first, in reading order,
always in the same words. Every form of it is among those of `words.tell`, so who knows these knows
it too. A model that has to write needs one answer to a picture, not one of thousands; and what is
always said in one way can be read back without guessing.

As AITQE's teacher does (arXiv 2410.16166): the overall mark goes by the caption's level, the five
others by what the caption says of the picture, word by word. A poor caption is rewritten, always
in the one plain wording of its picture. Every picture has a good and a poor caption: a raw one and
its partner of the opposite quality.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from mmsieve.labels import EASY_NEGATIVE, HARD_NEGATIVE, MEDIUM_NEGATIVE, POSITIVE
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
    Chart,
    Fact,
    Scene,
    Table,
    Thing,
)
from mmsieve.synthetic.texts import (
    NUMBERS,
    Caption,
    Piece,
    caption,
    mark,
    plain,
    sentence,
    tell_bars,
    tell_rows,
    told_scene,
    with_article,
)

# One fixed wording of a scene, and its way back: what a rewrite is taught to say, and checked
# by


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


# Captions of a scene as a judge would mark them: six scales from 1 to 10, the reasons, a
# rewrite

Phase: TypeAlias = Literal["raw", "partner"]
Assessment: TypeAlias = dict[str, int | str | None]
"""The fields of `mmsieve.methods.aitqe_answers.Assessment`, in the order of writing."""

OVERALL = {EASY_NEGATIVE: 2, MEDIUM_NEGATIVE: 4, HARD_NEGATIVE: 6, POSITIVE: 9}
"""Level -> overall score."""

_BEST, _WORST, _NOTHING = 9, 1, 5
_VERDICTS = {
    EASY_NEGATIVE: "It tells another picture.",
    MEDIUM_NEGATIVE: "It has several things wrong.",
    HARD_NEGATIVE: "It has one thing wrong.",
    POSITIVE: "It is right and complete.",
}
_Mark: TypeAlias = tuple[int, str]
"""A score from 1 to 10, and why."""


@dataclass(frozen=True, slots=True)
class Assessed:
    """A caption of a picture, and what a judge says of it."""

    phase: Phase
    level: int
    text: str
    assessment: Assessment


def assessed_pair(scene: Scene, rng: np.random.Generator) -> tuple[Assessed, Assessed]:
    """A raw caption of a picture and its partner of the opposite quality, each assessed.

    The raw caption is good half of the time. A poor one's partner is its rewrite; a good one's
    partner is a poor caption, told as plainly as a rewrite would be: so that neither wording nor
    phase says how good a caption is.
    """
    if rng.random() < 0.5:
        raw = caption(scene, POSITIVE, rng)
        level = int(rng.integers(POSITIVE))
        partner = plain_caption(scene, told_scene(scene, level, rng), level)
    else:
        raw = caption(scene, int(rng.integers(POSITIVE)), rng)
        partner = plain_caption(scene, scene, POSITIVE)
    return _assessed("raw", scene, raw), _assessed("partner", scene, partner)


def plain_caption(scene: Scene, told: Scene, level: int) -> Caption:
    """The plain telling of a scene as a caption of this picture."""
    return Caption(level, mark(tell_plainly(told), scene), told)


def rewrite(scene: Scene) -> str:
    """The text that a poor caption of a picture should be replaced by."""
    return mark(tell_plainly(scene), None).text


def assess(scene: Scene, caption: Caption) -> Assessment:
    """What a judge who knows the truth says of a caption of this picture."""
    marks: dict[str, _Mark] = {
        "overall": (OVERALL[caption.level], _VERDICTS[caption.level]),
        "text_quality": (_BEST, "It is written well."),
        "image_text_matching": _matching(caption),
        "object_detail": _objects(scene, caption.told),
        "semantic_understanding": _meaning(scene, caption),
        "text_chart_description": _signs(scene, caption.told),
    }
    said: Assessment = {"recaption": None if caption.level == POSITIVE else rewrite(scene)}
    for scale, (score, why) in marks.items():
        said |= {f"{scale}_score": score, f"{scale}_explanation": why}
    return said


def _assessed(phase: Phase, scene: Scene, caption: Caption) -> Assessed:
    return Assessed(phase, caption.level, caption.text.text, assess(scene, caption))


def _share(part: int, whole: int) -> int:
    """A score for what is right in part only: from 1 for nothing, below the best."""
    return _WORST + round(5 * part / whole)


def _matching(caption: Caption) -> _Mark:
    """By the words that state facts: how many of them are so."""
    marked = caption.text
    if not marked.wrong:
        return _BEST, "All that it says is true."
    words = [marked.text[start:end].lower() for start, end in marked.wrong]
    score = _share(len(marked.right), len(marked.right) + len(words))
    return score, f"Wrong: {', '.join(words)}."


def _objects(scene: Scene, told: Scene) -> _Mark:
    """By the objects, bars or cells that are told, whether or not all about them is right."""
    names = [fact.subject for fact in _told_in_order(scene) if fact.attribute == "place"]
    missing = [name for name in names if not _is_recognised(name, scene, told)]
    if not missing:
        return _BEST, "It tells all objects."
    score = _share(len(names) - len(missing), len(names))
    return score, f"It does not tell: {', '.join(missing)}."


def _told_in_order(scene: Scene) -> list[Fact]:
    parts: tuple[Thing | Chart | Table | None, ...] = (*scene.things, scene.chart, scene.table)
    return [fact for part in parts if part is not None for fact in part.facts()]


def _is_recognised(name: str, scene: Scene, told: Scene) -> bool:
    """Whether what stands there is told, in its place and with its colour or its shape."""
    if Fact(name, "place", name) not in told.facts():
        return False
    ours, theirs = (
        {f for f in one.facts() if f.subject == name and f.attribute in ("colour", "shape")}
        for one in (scene, told)
    )
    return not ours or bool(ours & theirs)


def _meaning(scene: Scene, caption: Caption) -> _Mark:
    """By the picture as a whole: what is in it, and how much of it."""
    told = caption.told
    if caption.level == EASY_NEGATIVE:
        return _WORST, "It is about another picture."
    if told.facts() == scene.facts():
        return _BEST, "It tells the picture as a whole."
    ours, theirs = len(scene.things), len(told.things)
    if ours != theirs:
        return 4, f"It counts {NUMBERS[theirs]}, and there are {NUMBERS[ours]}."
    return 7, "It tells what is there, with mistakes."


def _signs(scene: Scene, told: Scene) -> _Mark:
    """By what can be read in the picture: words on signs, numbers of a chart or a table."""
    ours, theirs = _legible(scene), _legible(told)
    if not ours and not theirs:
        return _NOTHING, "There is no text or chart to describe."
    if not ours:
        return _WORST, f"There is no text, and it reads {', '.join(theirs)}."
    if ours == theirs:
        return _BEST, "It reads all text and numbers."
    right = sum(theirs.get(name) == value for name, value in ours.items())
    wrong = [name for name, value in ours.items() if theirs.get(name) != value]
    return _share(right, len(ours)), f"It does not read: {', '.join(wrong)}."


def _legible(scene: Scene) -> dict[str, str]:
    """Words of signs, and the numbers of bars and cells by their names."""
    facts = _told_in_order(scene)
    words = {fact.value: fact.value for fact in facts if fact.attribute == "word"}
    return words | {f.subject: f.value for f in facts if f.attribute in ("height", "number")}
