"""What is judged: the four quality levels, the 14 capabilities, the nine styles.

Table 1 of arXiv 2510.15162: 0 easy negative (unrelated), 1 medium negative (conspicuous mistakes),
2 hard negative (one wrong property), 3 positive.

Labels are those of the released mmSSR code (arXiv 2503.13383): they are part of its prompts.
"""

import re
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

# The four levels of quality that UniFilter is trained on, and how a model's output becomes one

EASY_NEGATIVE, MEDIUM_NEGATIVE, HARD_NEGATIVE, POSITIVE = LEVELS = tuple(range(4))
LEVEL_NAMES = ("easy negative", "medium negative", "hard negative", "positive")

Scoring: TypeAlias = Literal["regression", "published", "expected"]


def to_levels(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Scores clamped to 0-3 and rounded, as compute_metrics of train_classifier.py does."""
    clipped = np.clip(scores, EASY_NEGATIVE, POSITIVE)
    levels: npt.NDArray[np.int64] = np.rint(clipped).astype(np.int64)
    return levels


def quality(logits: npt.NDArray[np.float32], scoring: Scoring) -> tuple[float, int]:
    """Score and level of one sample from its logits [labels].

    `regression`: the logit itself; `published`: the probability of label 1 and the most probable
    label (data_scoring/*.py); `expected`: the mean label under the probabilities.
    """
    if scoring == "regression":
        score = float(logits[0])
    else:
        odds = np.exp(logits.astype(np.float64) - logits.max())
        odds /= odds.sum()
        if scoring == "published":
            return float(odds[1]), int(logits.argmax())
        score = float(odds @ np.arange(len(odds)))
    return score, int(to_levels(np.array([score]))[0]) if np.isfinite(score) else 0


# The 14 capabilities a sample is rated for, and the nine styles it can have

CAPABILITIES: dict[str, str] = {
    "spatial": "object spatial understanding",
    "attribute": "attribute identification",
    "logical": "logical deduction",
    "scene": "scene understanding",
    "finegrained": "fine-grained recognition",
    "language": "language generation",
    "incontext": "in-context learning",
    "comparative": "comparative analysis",
    "activity": "activity recognition",
    "causal": "causal reasoning",
    "humanities": "humanities",
    "stem": "stem knowledge",
    "data": "data understanding",
    "ocr": "optical character recognition",
}
"""Short name (a table's column, an option) -> keyword asked of the model, in the paper's order."""


_WORD = re.compile("[a-z]+")


def capability_name(text: str) -> str:
    """The short name of a capability that is named by its keyword, in whatever spelling; else text.

    `Optical_Character-Recognition capability` is `ocr`: the published script names a result file
    after the keyword that it asks about.
    """
    words = _WORD.findall(text.lower().removesuffix("capability"))
    known = {tuple(_WORD.findall(keyword)): name for name, keyword in CAPABILITIES.items()}
    return known.get(tuple(words), text)


STYLES: tuple[str, ...] = (
    "multi-choice",
    "coordinate",
    "yes/no",
    "word/short-phrase",
    "short description",
    "detailed description",
    "comparison",
    "chain-of-thought (step-by-step)",
    "specified style",
)
"""Selections group by them too: not a letter may change."""
