"""AITQE's columns: from what a model answered to a row, whoever asked it."""

from dataclasses import dataclass

import pyarrow as pa

from mmsieve.annotator import Row
from mmsieve.errors import SampleError, Status
from mmsieve.methods.aitqe_answers import DETAILS, DIMENSIONS, AnswerError, read_answer
from mmsieve.methods.rewrites import choose

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
