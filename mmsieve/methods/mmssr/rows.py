"""A sample's row from what a rater says of it, whoever asked: torch, vLLM or a server."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mmsieve.engine.annotator import Row
from mmsieve.errors import SampleError, Status
from mmsieve.methods.mmssr.inputs import RatingItem

DIGITS = "012345"
"""The ratings, as answers."""


class SampleRatings(NamedTuple):
    """One sample's ratings, a value per question."""

    ratings: list[int | None]
    """None where the likeliest token is not a digit from 0 to 5."""
    expected: list[float]
    """The mean under the probabilities of the six digits."""
    texts: list[str]
    """The likeliest token."""


def expect(logprobs: Sequence[float]) -> float:
    """The mean rating under the six digits' log-probabilities, which need not sum to 1; NaN where
    none is finite."""
    values = np.array(logprobs, np.float64)
    if not np.isfinite(values).any():
        return float("nan")
    odds = np.exp(values - values[np.isfinite(values)].max())
    return float(odds @ np.arange(len(values)) / odds.sum())


@dataclass(frozen=True)
class RatingRowMaker:
    """Makes rows of these capabilities."""

    capabilities: tuple[str, ...]
    expected: bool
    """Whether rows have the mean ratings too."""

    def make(
        self, item: RatingItem, found: SampleRatings, styles: list[str] | None
    ) -> Row | SampleError:
        """The row of a sample; `styles` is None where nobody was asked for them."""
        row, wrong = known(item), []
        for name, rating, expected, text in zip(self.capabilities, *found, strict=True):
            row[name] = rating
            if rating is None:
                wrong.append(f"{name} {text!r}")
            if self.expected:
                row[f"{name}_expected"] = expected
        if styles is not None:
            row["styles"] = styles
        if self.expected and not np.isfinite(found.expected).all():
            return SampleError(Status.SCORE_NOT_FINITE, "the probabilities are not finite")
        if wrong:
            message = f"not a rating from 0 to 5: {', '.join(wrong)}"
            return SampleError(Status.MODEL_OUTPUT_INVALID, message, row)
        return row


def known(item: RatingItem) -> Row:
    """What of a row is known before the model is asked."""
    return {
        "image_source": item.image_source,
        "num_images": len(item.images),
        "num_tokens": item.num_tokens,
    }
