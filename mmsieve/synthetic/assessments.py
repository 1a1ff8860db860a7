"""Captions of a scene as AITQE's teacher would assess them: six scores, the reasons, a rewrite.

As in AITQE (arXiv 2410.16166), the overall score goes by the caption's level and the five others by
what the caption says of the picture. A poor caption is rewritten as the canonical one of its
picture, of which there is exactly one: a model that has to write needs one answer to a picture, not
one of thousands.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from mmsieve.generation.tasks.assessments import Phase
from mmsieve.labels import EASY_NEGATIVE, HARD_NEGATIVE, MEDIUM_NEGATIVE, POSITIVE
from mmsieve.synthetic import texts
from mmsieve.synthetic.scenes import Fact, Scene

Assessment: TypeAlias = dict[str, int | str | None]
"""The fields of AITQE's answer, in the order of writing."""

OVERALL = {EASY_NEGATIVE: 2, MEDIUM_NEGATIVE: 4, HARD_NEGATIVE: 6, POSITIVE: 9}
"""Level -> overall score."""

_BEST, _WORST = 9, 1
_OVERALL_REASONS = {
    EASY_NEGATIVE: "It tells another picture.",
    MEDIUM_NEGATIVE: "It has several things wrong.",
    HARD_NEGATIVE: "It has one thing wrong.",
    POSITIVE: "It is right and complete.",
}
_Score: TypeAlias = tuple[int, str]  # a score from 1 to 10, and why


def canonical_caption(scene: Scene) -> str:
    """The text that a poor caption of a picture should be replaced by."""
    return texts.mark(texts.describe_canonically(scene)).text


@dataclass(frozen=True, slots=True)
class AssessedCaption:
    """A caption of a picture, and its assessment by a judge who knows the truth."""

    phase: Phase
    level: int
    text: str
    assessment: Assessment


def assessed_pair(
    scene: Scene, rng: np.random.Generator
) -> tuple[AssessedCaption, AssessedCaption]:
    """A raw caption of a picture and its partner of the opposite quality, each assessed.

    The raw caption is good half of the time. A poor one's partner is its rewrite; a good one's
    partner is a poor caption in the canonical wording of a rewrite, so that neither wording nor
    phase says how good a caption is.
    """
    raw_level = POSITIVE if rng.random() < 0.5 else int(rng.integers(POSITIVE))
    raw = texts.caption(scene, raw_level, rng)
    level = POSITIVE if raw_level < POSITIVE else int(rng.integers(POSITIVE))
    described = texts.described_scene(scene, level, rng)
    partner = texts.Caption(
        level, texts.mark(texts.describe_canonically(described), [scene.facts()]), described
    )
    return _assess("raw", scene, raw), _assess("partner", scene, partner)


def _assess(phase: Phase, scene: Scene, caption: texts.Caption) -> AssessedCaption:
    scores: dict[str, _Score] = {
        "overall": (OVERALL[caption.level], _OVERALL_REASONS[caption.level]),
        "text_quality": (_BEST, "It is written well."),
        "image_text_matching": _matching(caption),
        "object_detail": _objects(scene, caption.described),
        "semantic_understanding": _meaning(scene, caption),
        "text_chart_description": _legible_text(scene, caption.described),
    }
    rewrite = None if caption.level == POSITIVE else canonical_caption(scene)
    assessment: Assessment = {"recaption": rewrite}
    for scale, (score, reason) in scores.items():
        assessment |= {f"{scale}_score": score, f"{scale}_explanation": reason}
    return AssessedCaption(phase, caption.level, caption.text.text, assessment)


def _partial(part: int, whole: int) -> int:
    """A score for what is right in part only: from 1 for nothing, below the best."""
    return _WORST + round(5 * part / whole)


def _matching(caption: texts.Caption) -> _Score:
    """By the words that state facts: how many of them are so."""
    marked = caption.text
    if not marked.wrong:
        return _BEST, "All that it says is true."
    words = [marked.text[start:end].lower() for start, end in marked.wrong]
    right = len(marked.right)
    return _partial(right, right + len(words)), f"Wrong: {', '.join(words)}."


def _objects(scene: Scene, described: Scene) -> _Score:
    """By the objects, bars or cells that are mentioned, whether or not all about them is right."""
    names = [fact.subject for fact in scene.facts_in_order() if fact.attribute == "place"]
    missing = [name for name in names if not _is_recognised(name, scene, described)]
    if not missing:
        return _BEST, "It tells all objects."
    score = _partial(len(names) - len(missing), len(names))
    return score, f"It does not tell: {', '.join(missing)}."


def _is_recognised(name: str, scene: Scene, described: Scene) -> bool:
    """Whether what stands there is mentioned, in its place and with its colour or its shape."""
    if Fact(name, "place", name) not in described.facts():
        return False
    ours, theirs = (
        {f for f in one.facts() if f.subject == name and f.attribute in ("colour", "shape")}
        for one in (scene, described)
    )
    return not ours or bool(ours & theirs)


def _meaning(scene: Scene, caption: texts.Caption) -> _Score:
    """By the picture as a whole: what is in it, and how much of it."""
    described = caption.described
    if caption.level == EASY_NEGATIVE:
        return _WORST, "It is about another picture."
    if described.facts() == scene.facts():
        return _BEST, "It tells the picture as a whole."
    ours, theirs = len(scene.things), len(described.things)
    if ours != theirs:
        return 4, f"It counts {texts.NUMBERS[theirs]}, and there are {texts.NUMBERS[ours]}."
    return 7, "It tells what is there, with mistakes."


def _legible_text(scene: Scene, described: Scene) -> _Score:
    """By what can be read in the picture: words on signs, numbers of a chart or a table."""
    ours, theirs = _legible(scene), _legible(described)
    if not ours and not theirs:
        return 5, "There is no text or chart to describe."
    if not ours:
        return _WORST, f"There is no text, and it reads {', '.join(theirs)}."
    if ours == theirs:
        return _BEST, "It reads all text and numbers."
    wrong = [name for name, value in ours.items() if theirs.get(name) != value]
    return _partial(len(ours) - len(wrong), len(ours)), f"It does not read: {', '.join(wrong)}."


def _legible(scene: Scene) -> dict[str, str]:
    """Words of signs, and the numbers of bars and cells by their names."""
    facts = scene.facts_in_order()
    words = {fact.value: fact.value for fact in facts if fact.attribute == "word"}
    return words | {f.subject: f.value for f in facts if f.attribute in ("height", "number")}
