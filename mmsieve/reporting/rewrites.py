"""A rewrite as it is shown: what it changes word by word, its scores, whether it is used and why.

Also which words come more and less often than before, over all rewritten captions.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from mmsieve.methods.aitqe.answers import DIMENSIONS, HIGHEST, Refused, words
from mmsieve.reporting.texts import DiffPiece, clipped, diff_words

# A rewrite of the gallery

_WHY: dict[str, str] = {
    Refused.EMPTY: "it holds no letter or digit",
    Refused.TRUNCATED: "it was still going on at its longest",
    Refused.REPEATED: "it says the same words over and over",
    Refused.WRONG_SCRIPT: "most of its letters are of a script that the caption doesn't use",
    Refused.UNCHANGED: "it is the caption's own words",
    Refused.TOO_DIFFERENT: "it is further from the caption than --max-edit allows",
    Refused.NOT_BETTER: "the classifier of --accept-if-better likes it no more than the caption",
}
"""Reason of a refusal -> what it means."""


@dataclass(frozen=True, kw_only=True)
class ShownRewrite:
    """All that is said of a caption and of what the model would write instead."""

    verdict: str
    """Whether the rewrite is used, and why."""
    pieces: tuple[DiffPiece, ...]
    """Caption and rewrite, word by word; empty where none was proposed."""
    caption: str
    proposed: str
    """Empty: none."""
    scores: tuple[tuple[str, float], ...]
    """What is judged, and its score from 1 to 10; the overall one first."""
    explanations: tuple[tuple[str, str], ...]
    """What is judged, and what the model says of it."""
    highest: int = HIGHEST


def shown_rewrite(row: Mapping[str, Any], rewrite_below: str | None) -> ShownRewrite:
    """What is shown of a row of an assessment table; `rewrite_below` as its header has it."""
    caption = clipped(row["caption"] or "")
    proposed = row["final_caption"] if row["rewritten"] else row["recaption"]
    proposed = clipped(proposed or "")
    scores = ((title, row[f"{name}_score"]) for name, title in DIMENSIONS.items())
    told = ((title, row[f"{name}_explanation"]) for name, title in DIMENSIONS.items())
    return ShownRewrite(
        verdict=_verdict(row, rewrite_below),
        pieces=tuple(diff_words(caption, proposed)) if proposed else (),
        caption=caption,
        proposed=proposed,
        scores=tuple((title, score) for title, score in scores if score is not None),
        explanations=tuple((title, clipped(text)) for title, text in told if text),
    )


def _verdict(row: Mapping[str, Any], rewrite_below: str | None) -> str:
    score, limit = row["overall_score"], rewrite_below or "the score asked for"
    if score is None:
        return ""
    if row["rewrite_refused"]:
        reason = row["rewrite_refused"]
        return f"Rewrite refused: {_WHY.get(reason, reason)}{_qualities(row)}."
    if row["rewritten"]:
        return f"Rewrite used: the overall score {score:g} is below {limit}{_qualities(row)}."
    if row["recaption"]:
        return f"Rewrite not used: the overall score {score:g} is not below {limit}."
    return "No rewrite was proposed."


def _qualities(row: Mapping[str, Any]) -> str:
    before, after = row["caption_quality"], row["recaption_quality"]
    if before is None or after is None:
        return ""
    return f"; the classifier gives the caption {before:.2f}, the rewrite {after:.2f}"


# Words that come and go, over all rows

_MOST_WORDS = 1 << 18


class WordChange(NamedTuple):
    """How often a word comes in the rewritten captions, before and after."""

    word: str
    before: int
    after: int


class WordChanges:
    """Counts words before and after in bounded memory: exactly up to `most` different ones.

    Beyond that rare words are forgotten again and again (lossy counting, Manku and Motwani 2002),
    so that counts may be too low by `missed`.
    """

    def __init__(self, most: int = _MOST_WORDS) -> None:
        self.missed = 0
        self._most = most
        self._before: Counter[str] = Counter()
        self._after: Counter[str] = Counter()

    def add(self, before: str, after: str) -> None:
        """Add the words of a caption and of its rewrite."""
        self._before.update(words(before.lower()))
        self._after.update(words(after.lower()))
        while len(self._before) + len(self._after) > self._most:
            self.missed += 1
            for counts in (self._before, self._after):
                for word in [word for word, count in counts.items() if count <= self.missed]:
                    del counts[word]

    def most(self, count: int) -> tuple[list[WordChange], list[WordChange]]:
        """The words that come more often than before, the most so first, and those less often."""
        changes = list(self._changes())
        changes.sort(key=lambda one: (-(one.after - one.before), one.word))
        more = [one for one in changes[:count] if one.after > one.before]
        changes.sort(key=lambda one: (-(one.before - one.after), one.word))
        return more, [one for one in changes[:count] if one.before > one.after]

    def _changes(self) -> Iterator[WordChange]:
        for word in self._before.keys() | self._after.keys():
            yield WordChange(word, self._before[word], self._after[word])
