"""AITQE's answers: one JSON object with a rewrite, six scores and their explanations.

The keys and their order are those of the published checkpoint (github.com/hanhuang22/AITQE,
README), which writes the overall score as a string with the marker behind which a cheap run
stops: `"2<Overall>"`. Training writes answers here, and what a model generates is read here.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

DIMENSIONS = MappingProxyType(
    {
        "overall": "Overall",
        "text_quality": "Text Quality",
        "image_text_matching": "Image-Text Matching",
        "object_detail": "Object Detail",
        "semantic_understanding": "Semantic Understanding",
        "text_chart_description": "Text/Chart Description",
    }
)
"""What is judged -> its name in the keys, in the order of an answer."""

DETAILS = tuple(DIMENSIONS)[1:]
"""The dimensions beside the overall one."""

MARKER = "<Overall>"
"""Comes right after the overall score."""

RECAPTION = "Recaption"
"""The key of the rewrite, the first of an answer."""

LOWEST, HIGHEST = 1, 10
"""The scale that teachers use and models are trained on."""

_SCORE = re.compile(r"\s*(\d{1,2}(?:\.\d+)?)\s*(?:<\s*Overall.*)?", re.DOTALL)
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)', re.DOTALL)
_BETWEEN = re.compile(r"[\s,]*")
_COLON = re.compile(r"\s*:\s*")


class AnswerError(ValueError):
    """An answer has no overall score that can be read."""


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """What AITQE says of a caption; whatever was not produced is missing."""

    recaption: str | None = None
    """A better caption; None where none is proposed."""
    overall: float
    """1 to 10, as all scores."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Of `DETAILS`."""
    explanations: Mapping[str, str] = field(default_factory=dict)
    """Of `DIMENSIONS`."""


def score_key(dimension: str) -> str:
    """The key of a score in an answer."""
    return f"{DIMENSIONS[dimension]} Score"


def explanation_key(dimension: str) -> str:
    """The key of an explanation in an answer."""
    return f"{DIMENSIONS[dimension]} Explanation"


_SCORE_KEYS = {score_key(name): name for name in DIMENSIONS}
_EXPLANATION_KEYS = {explanation_key(name): name for name in DIMENSIONS}

KEYS = (
    RECAPTION,
    *(key for name in DIMENSIONS for key in (score_key(name), explanation_key(name))),
)
"""All keys of an answer, in order."""


def is_score(key: str) -> bool:
    """Whether a key's value is a score; the others are strings."""
    return key in _SCORE_KEYS


def fixed_pieces(keys: Sequence[str]) -> list[str]:
    """What stands before, between and after the values of an answer with these keys."""
    pieces, end = [], "{"
    for key in keys:
        if key == score_key("overall"):
            opening, closing = '"', f'{MARKER}"'  # published as a string
        else:
            opening = closing = "" if is_score(key) else '"'
        pieces.append(f'{end}"{key}": {opening}')
        end = f"{closing}, "
    return [*pieces, f"{end.removesuffix(', ')}}}"]


def answer_pieces(assessment: Assessment) -> list[str]:
    """The JSON object of an assessment, cut where keys and values meet: fixed, value, fixed, ...

    Each piece is turned into ids on its own, so that keys can be forced on a model without
    changing the ids that it has learnt. What is missing is left out, but `Recaption` is always
    there, and empty where there is no rewrite.
    """
    values = {key: value for key in KEYS if (value := _value(assessment, key)) is not None}
    first, *fixed = fixed_pieces(list(values))
    return [first, *(piece for pair in zip(values.values(), fixed, strict=True) for piece in pair)]


def write_answer(assessment: Assessment) -> str:
    """The JSON object that a model learns to answer."""
    return "".join(answer_pieces(assessment))


def _value(assessment: Assessment, key: str) -> str | None:
    if key == RECAPTION:
        return json.dumps(assessment.recaption or "", ensure_ascii=False)[1:-1]
    if key in _EXPLANATION_KEYS:
        said = assessment.explanations.get(_EXPLANATION_KEYS[key])
        return None if said is None else json.dumps(said, ensure_ascii=False)[1:-1]
    name = _SCORE_KEYS[key]
    score = assessment.overall if name == "overall" else assessment.scores.get(name)
    return None if score is None else f"{score:g}"


def read_answer(text: str) -> Assessment:
    """What an answer says, whole or stopped anywhere after its overall score.

    An explanation that the answer stops in is left out. Raises AnswerError where there is no
    object, no overall score from 0 to 10, or a rewrite that isn't a string.
    """
    start = text.find("{")
    if start < 0:
        raise AnswerError("no JSON object in the answer")
    found = _pairs(text, start + 1)
    recaption = found.get(RECAPTION)
    if recaption is not None and not isinstance(recaption, str):
        raise AnswerError(f"{RECAPTION} is not a string")
    overall = _score(found.get(score_key("overall")))
    if overall is None:
        raise AnswerError("no overall score in the answer")
    scores = {name: _score(found.get(score_key(name))) for name in DETAILS}
    explanations = {name: found.get(explanation_key(name)) for name in DIMENSIONS}
    return Assessment(
        recaption=recaption or None,
        overall=overall,
        scores={name: score for name, score in scores.items() if score is not None},
        explanations={name: said for name, said in explanations.items() if isinstance(said, str)},
    )


def _pairs(text: str, at: int) -> dict[str, Any]:
    """The pairs of an object up to where it ends or can't be read; the first of a key counts."""
    decoder = json.JSONDecoder(strict=False)  # models write plain newlines into strings
    found: dict[str, Any] = {}
    while True:
        try:
            key, at = decoder.raw_decode(text, _BETWEEN.match(text, at).end())  # type: ignore[union-attr]
            colon = _COLON.match(text, at)
            if not isinstance(key, str) or colon is None:
                return found
            at = colon.end()
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return found | _stopped(text, at, found)
        found.setdefault(key, value)


def _stopped(text: str, at: int, found: dict[str, Any]) -> dict[str, str]:
    """The overall score where the answer stops right behind its marker, its string still open."""
    key = score_key("overall")
    opened = _STRING.fullmatch(text, at)
    if key in found or opened is None or MARKER not in opened[1]:
        return {}
    return {key: opened[1]} if re.search(rf'"{re.escape(key)}"\s*:\s*$', text[:at]) else {}


def _score(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    match = _SCORE.fullmatch(str(value)) if isinstance(value, str | int | float) else None
    score = float(match[1]) if match else None
    return score if score is not None and score <= HIGHEST else None
