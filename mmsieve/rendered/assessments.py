"""Captions of a scene as a judge would mark them: six scales from 1 to 10, the reasons, a rewrite.

As AITQE's teacher does (arXiv 2410.16166): the overall mark goes by the caption's level, the five
others by what the caption says of the picture, word by word. A poor caption is rewritten, always
in the one plain wording of its picture. Every picture has a good and a poor caption: a raw one and
its partner of the opposite quality.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from mmsieve.levels import EASY_NEGATIVE, HARD_NEGATIVE, MEDIUM_NEGATIVE, POSITIVE
from mmsieve.rendered.captions import Caption, caption, told_scene
from mmsieve.rendered.plainly import tell_plainly
from mmsieve.rendered.scenes import Chart, Fact, Scene, Table, Thing
from mmsieve.rendered.words import NUMBERS, mark

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
