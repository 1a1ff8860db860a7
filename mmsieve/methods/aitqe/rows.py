"""AITQE's columns: from what a model answered to a row, and which rewrites are used."""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pyarrow as pa

from mmsieve.engine.annotator import Row
from mmsieve.errors import SampleError, Status
from mmsieve.methods.aitqe.answers import DETAILS, DIMENSIONS, AnswerError, read_answer

# Guard rails for rewritten captions: which are used, and why the others are not

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
"""A word; of Chinese and Japanese, which have no spaces, a character."""

_LONGEST_LOOP = 12
"""Words of a repeated piece that is looked for."""

_PROMPT_SCRIPT = "LATIN"
"""What a rewrite of a caption without letters is written in."""


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
    refused = _find_fault(caption, proposed, truncated)
    if refused is None and max_edit is not None and distance > max_edit:
        refused = Refused.TOO_DIFFERENT
    if refused is not None:
        return Rewrite(caption, refused=refused, distance=distance)
    return Rewrite(proposed.strip(), rewritten=True, distance=distance)


def _find_fault(caption: str, proposed: str, truncated: bool) -> Refused | None:
    if not words(proposed):
        return Refused.EMPTY
    if truncated:
        return Refused.TRUNCATED
    if is_loop(words(proposed)):
        return Refused.REPEATED
    if not shares_script(caption, proposed):
        return Refused.WRONG_SCRIPT
    return Refused.UNCHANGED if proposed.strip() == caption.strip() else None


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
    known = set(_scripts(caption)) or {_PROMPT_SCRIPT}
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


# AITQE's columns: from what a model answered to a row, whoever asked it

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


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model said of a caption."""

    caption: str
    text: str
    truncated: bool = False
    """Whether the model was shown the whole caption."""
    rewrite_cut: bool = False
    """Whether the rewrite was ended by its limit."""


@dataclass(frozen=True, kw_only=True)
class RowMaker:
    """Reads answers and decides about rewrites."""

    rewrite_below: float
    max_edit: float | None
    explain: bool

    @property
    def schema(self) -> pa.Schema:
        """The columns of a row."""
        return pa.schema([*SCHEMA, *EXPLANATIONS]) if self.explain else SCHEMA

    def make(self, answer: Answer) -> Row | SampleError:
        """The row of an answer, or an error that has the answer's text where it can't be read."""
        caption = answer.caption
        try:
            said = read_answer(answer.text)
        except AnswerError as error:
            message = f"{error}: {answer.text!r}"
            return SampleError(Status.MODEL_OUTPUT_INVALID, message, kept(caption))
        wanted = said.overall < self.rewrite_below
        rewrite = choose(caption, said.recaption, wanted, answer.rewrite_cut, self.max_edit)
        row: Row = {f"{name}_score": said.scores.get(name) for name in DETAILS}
        row |= {
            "overall_score": said.overall,
            "recaption": said.recaption,
            "caption": caption,
            "final_caption": rewrite.final,
            "rewritten": rewrite.rewritten,
            "rewrite_refused": rewrite.refused and str(rewrite.refused),
            "edit_distance": rewrite.distance,
            "truncated": answer.truncated,
        }
        if self.explain:
            row |= {f"{name}_explanation": said.explanations.get(name) for name in DIMENSIONS}
        return row


def kept(caption: str) -> Row:
    """What is known of a caption that was not judged: it stays as it is."""
    return {"caption": caption, "final_caption": caption, "rewritten": False}
