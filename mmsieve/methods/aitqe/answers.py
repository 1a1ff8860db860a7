"""AITQE's answers: one JSON object with a rewrite, six scores and their explanations; and its rows.

The keys and their order are those of the published checkpoint (github.com/hanhuang22/AITQE,
README), which writes the overall score as a string with the marker behind which a cheap run
stops: `"2<Overall>"`. Training writes answers here; what a model generates is read here and becomes
a row, whoever asked it, in which only a rewrite that passes all guard rails is used.
"""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from mmsieve.engine.annotator import Row
from mmsieve.errors import SampleError, Status
from mmsieve.methods.stock import escape

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


class AssessmentError(ValueError):
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


SCORE_KEYS = {f"{title} Score": name for name, title in DIMENSIONS.items()}
"""Keys whose values are scores -> what they are of; the values of the others are strings."""
_EXPLANATION_KEYS = {f"{title} Explanation": name for name, title in DIMENSIONS.items()}
_OVERALL = next(iter(SCORE_KEYS))

KEYS = (RECAPTION, *chain.from_iterable(zip(SCORE_KEYS, _EXPLANATION_KEYS, strict=True)))
"""All keys of an answer, in order."""


def fixed_pieces(keys: Sequence[str]) -> list[str]:
    """What stands before, between and after the values of an answer with these keys."""
    pieces, end = [], "{"
    for key in keys:
        if key == _OVERALL:
            opening, closing = '"', f'{MARKER}"'  # published as a string
        else:
            opening = closing = "" if key in SCORE_KEYS else '"'
        pieces.append(f'{end}"{key}": {opening}')
        end = f"{closing}, "
    return [*pieces, f"{end.removesuffix(', ')}}}"]


def value_limits(keys: Sequence[str], max_new_tokens: int) -> list[int]:
    """The most tokens that the value of each key may take, scores apart, where keys are given: a
    rewrite a third of `max_new_tokens`, an explanation a ninth."""
    return [max(1, max_new_tokens // (3 if key == RECAPTION else 9)) for key in keys]


_CHARACTERS = 8
"""Of a value for each of its tokens: more than texts have, so that loops alone end here."""
_PLAIN, _ESCAPED = r'[^"\\\x00-\x1f]', r'\\["\\/bfnrt]'
"""Characters of a JSON string."""
_ESCAPES = 32
"""Of them the most in a value that are escaped, such as quotes."""


def answer_pattern(keys: Sequence[str], max_new_tokens: int) -> str:
    """A regular expression of answers with these keys: for servers, which can't be given keys."""
    fixed = [escape(piece) for piece in fixed_pieces(keys)]
    scores = "|".join(str(score) for score in range(HIGHEST, LOWEST - 1, -1))
    limits = value_limits(keys, max_new_tokens)
    values = [
        f"(?:{scores})" if key in SCORE_KEYS else _string_pattern(_CHARACTERS * most)
        for key, most in zip(keys, limits, strict=True)
    ]
    return fixed[0] + "".join(map("".join, zip(values, fixed[1:], strict=True)))


def _string_pattern(most: int) -> str:
    """What a JSON string holds: up to `most` characters between any two that are escaped.

    Runs of one class of characters: of a repeated choice between two classes xgrammar works out
    anew for each token, for 9 ms, which of the vocabulary may come next; so for 0.1 ms.
    """
    run = f"{_PLAIN}{{0,{most}}}"
    return f"{run}(?:{_ESCAPED}{run}){{0,{_ESCAPES}}}"


def longest_answer(keys: Sequence[str], max_new_tokens: int) -> int:
    """Tokens that an answer of that pattern may take, a character each; what escapes add is cut."""
    limits = zip(keys, value_limits(keys, max_new_tokens), strict=True)
    values = (
        len(str(HIGHEST)) if key in SCORE_KEYS else _CHARACTERS * most for key, most in limits
    )
    return sum(map(len, fixed_pieces(keys))) + sum(values)


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
    if key in SCORE_KEYS:
        score = {**assessment.scores, "overall": assessment.overall}.get(SCORE_KEYS[key])
        return None if score is None else f"{score:g}"
    said: str | None = assessment.recaption or ""
    if key != RECAPTION:
        said = assessment.explanations.get(_EXPLANATION_KEYS[key])
    return None if said is None else json.dumps(said, ensure_ascii=False)[1:-1]


def read_answer(text: str) -> Assessment:
    """What an answer says, whole or stopped anywhere after its overall score.

    An explanation that the answer stops in is left out. Raises AssessmentError where there is no
    object, no overall score from 0 to 10, or a rewrite that isn't a string.
    """
    start = text.find("{")
    if start < 0:
        raise AssessmentError("no JSON object in the answer")
    found = _pairs(text, start + 1)
    recaption = found.get(RECAPTION)
    if recaption is not None and not isinstance(recaption, str):
        raise AssessmentError(f"{RECAPTION} is not a string")
    scores = {name: _score(found.get(key)) for key, name in SCORE_KEYS.items()}
    overall = scores.pop("overall")
    if overall is None:
        raise AssessmentError("no overall score in the answer")
    explanations = {name: found.get(key) for key, name in _EXPLANATION_KEYS.items()}
    return Assessment(
        recaption=recaption or None,
        overall=overall,
        scores={name: score for name, score in scores.items() if score is not None},
        explanations={name: said for name, said in explanations.items() if isinstance(said, str)},
    )


def _pairs(text: str, at: int) -> dict[str, Any]:
    """The pairs of an object up to where it ends or can't be read; the first of a key counts."""
    decoder = json.JSONDecoder(strict=False)  # models write plain newlines into strings
    between, colons = re.compile(r"[\s,]*"), re.compile(r"\s*:\s*")
    found: dict[str, Any] = {}
    while True:
        try:
            key, at = decoder.raw_decode(text, between.match(text, at).end())  # type: ignore[union-attr]
            colon = colons.match(text, at)
            if not isinstance(key, str) or colon is None:
                return found
            at = colon.end()
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return found | _stopped(text, at, found)
        if at == len(text) and key != _OVERALL and not isinstance(value, str):
            return found  # of 10 the answer may have stopped behind the 1
        found.setdefault(key, value)


def _stopped(text: str, at: int, found: dict[str, Any]) -> dict[str, str]:
    """The overall score where the answer stops right behind its marker, its string still open."""
    opened = re.compile(r'"((?:[^"\\]|\\.)*)', re.DOTALL).fullmatch(text, at)
    if _OVERALL in found or opened is None or MARKER not in opened[1]:
        return {}
    behind_key = re.search(rf'"{re.escape(_OVERALL)}"\s*:\s*$', text[:at])
    return {_OVERALL: opened[1]} if behind_key else {}


def _score(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    match = _SCORE.fullmatch(str(value)) if isinstance(value, str | int | float) else None
    score = float(match[1]) if match else None
    return score if score is not None and score <= HIGHEST else None


# Which rewrites are used, and why the others are not

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
"""A word; of Chinese and Japanese, which have no spaces, a character."""

_LONGEST_LOOP = 12
"""Words of a repeated piece that is looked for."""


class Refused(StrEnum):
    """Why a proposed rewrite was not used."""

    EMPTY = "empty"
    """No letter or digit in it."""
    TRUNCATED = "truncated"
    """It was still going on at its longest."""
    REPEATED = "repeated"
    """The same words over and over."""
    WRONG_SCRIPT = "wrong_script"
    """Most of its letters are of a script that the caption doesn't use."""
    UNCHANGED = "unchanged"
    """The caption's own words."""
    TOO_DIFFERENT = "too_different"
    """Further from the caption than `--max-edit`."""
    NOT_BETTER = "not_better"
    """The classifier of `--accept-if-better` likes the caption no less."""


@dataclass(frozen=True)
class Rewrite:
    """What became of a caption."""

    final: str
    rewritten: bool = False
    refused: Refused | None = None
    distance: float | None = None
    """Between the caption and what was proposed; None where nothing was."""


def choose(
    caption: str, proposed: str | None, wanted: bool, truncated: bool, max_edit: float | None
) -> Rewrite:
    """The caption, or the rewrite that is `wanted` and passes all guard rails."""
    if proposed is None:
        return Rewrite(caption)
    distance = edit_distance(caption, proposed)
    if not wanted:
        return Rewrite(caption, distance=distance)
    faults = {
        Refused.EMPTY: not words(proposed),
        Refused.TRUNCATED: truncated,
        Refused.REPEATED: is_loop(words(proposed)),
        Refused.WRONG_SCRIPT: not shares_script(caption, proposed),
        Refused.UNCHANGED: proposed.strip() == caption.strip(),
        Refused.TOO_DIFFERENT: max_edit is not None and distance > max_edit,
    }
    refused = next((reason for reason, found in faults.items() if found), None)
    if refused is not None:
        return Rewrite(caption, refused=refused, distance=distance)
    return Rewrite(proposed.strip(), rewritten=True, distance=distance)


def words(text: str) -> list[str]:
    """The words of a text, without punctuation."""
    return _WORD.findall(text)


def is_loop(found: list[str]) -> bool:
    """Whether a piece of up to 12 words comes three times in a row (a single word four times)."""
    for length in range(1, min(_LONGEST_LOOP, len(found) // 3) + 1):
        needed = length * (2 if length > 1 else 3)
        run = 0
        for before, word in zip(found, found[length:], strict=False):
            run = run + 1 if word == before else 0
            if run == needed:
                return True
    return False


def shares_script(caption: str, proposed: str) -> bool:
    """Whether at least half of the rewrite's letters are of scripts that the caption uses."""
    known = set(_scripts(caption)) or {"LATIN"}  # of the prompt, where a caption has no letters
    counts = _scripts(proposed)
    return sum(counts[script] for script in known) * 2 >= sum(counts.values())


def _scripts(text: str) -> Counter[str]:
    """Letters by script, as the first word of their Unicode names has it."""
    first = (unicodedata.name(char, "?").split()[0] for char in text if char.isalpha())
    return Counter("CJK" if name in ("HIRAGANA", "KATAKANA") else name for name in first)


def edit_distance(one: str, other: str) -> float:
    """Levenshtein distance in words, over the words of the longer text: 0 same, 1 nothing kept."""
    first, second = sorted((words(one), words(other)), key=len)
    if not second:
        return 0.0
    ids = {word: number for number, word in enumerate({*first, *second})}
    columns = np.array([ids[word] for word in second])
    steps = np.arange(len(second) + 1)
    row = steps.copy()
    for word in first:
        swapped = row[:-1] + (columns != ids[word])
        best = np.concatenate([[row[0] + 1], np.minimum(swapped, row[1:] + 1)])
        row = np.minimum.accumulate(best - steps) + steps  # insertions, from left to right
    return float(row[-1]) / len(second)


SCHEMA = pa.schema(
    [
        *((f"{name}_score", pa.float32()) for name in DIMENSIONS),
        ("recaption", pa.string()),
        ("caption", pa.string()),
        ("final_caption", pa.string()),
        ("rewritten", pa.bool_()),
        ("rewrite_refused", pa.string()),
        ("edit_distance", pa.float32()),
        ("truncated", pa.bool_()),
    ]
)
"""Scores (1-10; the details are null where they were not asked for), the proposed rewrite, the
caption as it was and as it is to be, why a rewrite was refused, how far the proposed one is from
the caption in words (0-1), and whether the caption had to be cut for the model."""

EXPLANATIONS = pa.schema([(f"{name}_explanation", pa.string()) for name in DIMENSIONS])
"""With `--explain`."""


@dataclass(frozen=True)
class RowMaker:
    """Reads answers and decides about rewrites."""

    rewrite_below: float
    max_edit: float | None
    explain: bool

    @property
    def schema(self) -> pa.Schema:
        """The columns of a row."""
        return pa.schema([*SCHEMA, *EXPLANATIONS]) if self.explain else SCHEMA

    def make(
        self, caption: str, answer: str, truncated: bool = False, rewrite_cut: bool = False
    ) -> Row | SampleError:
        """The row of an answer, or an error that has the answer's text where it can't be read.

        `truncated`: the caption was cut for the model; `rewrite_cut`: its limit ended the rewrite.
        """
        try:
            said = read_answer(answer)
        except AssessmentError as error:
            message = f"{error}: {answer!r}"
            return SampleError(Status.MODEL_OUTPUT_INVALID, message, kept(caption))
        wanted = said.overall < self.rewrite_below
        rewrite = choose(caption, said.recaption, wanted, rewrite_cut, self.max_edit)
        row: Row = {f"{name}_score": said.scores.get(name) for name in DETAILS}
        row |= {
            "overall_score": said.overall,
            "recaption": said.recaption,
            "caption": caption,
            "final_caption": rewrite.final,
            "rewritten": rewrite.rewritten,
            "rewrite_refused": rewrite.refused and str(rewrite.refused),
            "edit_distance": rewrite.distance,
            "truncated": truncated,
        }
        if self.explain:
            row |= {f"{name}_explanation": said.explanations.get(name) for name in DIMENSIONS}
        return row


def kept(caption: str) -> Row:
    """What is known of a caption that was not judged: it stays as it is."""
    return {"caption": caption, "final_caption": caption, "rewritten": False}
