"""Assessment tables: overall scores, what was rewritten or refused, and how captions changed."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from mmsieve.errors import Status
from mmsieve.methods.aitqe.answers import words
from mmsieve.reporting.charts import Bin, Shares
from mmsieve.reporting.inputs import Judged
from mmsieve.reporting.samples import (
    FAILED,
    Draw,
    Groups,
    Request,
    Shown,
    Types,
    clipped,
    frames,
    most_first,
)

_TYPES: Types = {
    "key": pl.String,
    "shard": pl.String,
    "status": pl.String,
    "error": pl.String,
    "overall_score": pl.Float32,
    "recaption": pl.String,
    "caption": pl.String,
    "final_caption": pl.String,
    "rewritten": pl.Boolean,
    "rewrite_refused": pl.String,
}
_QUALITIES = ("caption_quality", "recaption_quality")
"""What a classifier said of the captions that were to be rewritten, where one was asked."""
_HIGHEST = 10
_LENGTH_BINS = 12
_AS_IT_WAS = "left as it was"
_GROUPS = {
    "Rewritten": pl.col("what") == "rewritten",
    "Rewrite refused": pl.col("what").str.starts_with("refused"),
    "Left as it was": pl.col("what") == _AS_IT_WAS,
    FAILED: pl.col("status") != Status.OK,
}


@dataclass
class Change:
    """The mean of something before and after."""

    name: str
    count: int = 0
    sums: tuple[float, float] = (0.0, 0.0)

    def add(self, before: float, after: float) -> None:
        """Add a caption."""
        self.count += 1
        self.sums = self.sums[0] + before, self.sums[1] + after

    @property
    def means(self) -> tuple[float, float]:
        """The mean before and after, of one caption at least."""
        return self.sums[0] / self.count, self.sums[1] / self.count


@dataclass
class _Tally:
    """What became of the captions, counted."""

    whats: Counter[str] = field(default_factory=Counter)
    scores: Counter[tuple[int, bool]] = field(default_factory=Counter)
    """Overall score, rounded, and whether the caption was rewritten -> captions."""
    words: tuple[Counter[int], Counter[int]] = field(default_factory=lambda: (Counter(), Counter()))
    """Words of a rewritten caption, before and after -> captions."""
    overall: Change = field(default_factory=lambda: Change("words, all captions"))
    rewritten: Change = field(default_factory=lambda: Change("words, rewritten captions"))
    quality: Change = field(
        default_factory=lambda: Change("classifier's score, rewritten captions")
    )

    def add(self, rows: pl.DataFrame) -> None:
        self.whats.update(rows["what"].to_list())
        for row in rows.filter(pl.col("status") == Status.OK).iter_rows(named=True):
            score = min(max(round(row["overall_score"]), 0), _HIGHEST)
            self.scores[score, row["rewritten"]] += 1
            lengths = len(words(row["caption"])), len(words(row["final_caption"]))
            self.overall.add(*lengths)
            if row["rewritten"]:
                self._add_rewritten(row, lengths)

    def _add_rewritten(self, row: dict[str, Any], lengths: tuple[int, int]) -> None:
        self.rewritten.add(*lengths)
        for found, length in zip(self.words, lengths, strict=True):
            found[length] += 1
        before, after = (row[name] for name in _QUALITIES)
        if before is not None and after is not None:
            self.quality.add(before, after)


@dataclass(frozen=True)
class Assessments:
    """What is said of an assessment table."""

    rows: int
    rewritten: int
    counts: dict[str, int]
    """What became of a caption, or its status -> captions."""
    score: float | None
    """The mean overall score."""
    bins: list[Bin]
    changes: list[Change]
    lengths: Shares | None
    """Of the rewritten captions."""
    groups: Groups
    template: str = "assessments.html.j2"


def count(judged: Judged, request: Request) -> Assessments:
    """The numbers of an assessment table."""
    there = pl.read_parquet_schema(judged.files[0])
    types = {**_TYPES, **{name: pl.Float32 for name in _QUALITIES if name in there}}
    tally = _Tally()
    draws = {title: Draw(request.gallery) for title in _GROUPS}
    for frame in frames(judged, types):
        rows = frame.with_columns(_what())
        rows = rows.with_columns(pl.lit(None).alias(n) for n in _QUALITIES if n not in types)
        tally.add(rows)
        for title, which in _GROUPS.items():
            draws[title].add(rows.filter(which))
    drawn = {title: [_shown(row) for row in draw.rows()] for title, draw in draws.items()}
    judged_rows = sum(tally.scores.values())
    total = sum(score * n for (score, _), n in tally.scores.items())
    return Assessments(
        rows=sum(tally.whats.values()),
        rewritten=tally.whats["rewritten"],
        counts=most_first(tally.whats),
        score=total / judged_rows if judged_rows else None,
        bins=list(_bins(tally.scores)) if judged_rows else [],
        changes=[c for c in (tally.overall, tally.rewritten, tally.quality) if c.count],
        lengths=_lengths(tally.words, tally.rewritten.count) if tally.rewritten.count else None,
        groups={title: shown for title, shown in drawn.items() if shown},
    )


def _what() -> pl.Expr:
    """What became of a caption."""
    refused = pl.col("rewrite_refused")
    return (
        pl.when(pl.col("status") != Status.OK)
        .then("status")
        .when("rewritten")
        .then(pl.lit("rewritten"))
        .when(refused.is_not_null())
        .then(pl.lit("refused: ") + refused)
        .otherwise(pl.lit(_AS_IT_WAS))
        .alias("what")
    )


def _bins(scores: Counter[tuple[int, bool]]) -> Iterator[Bin]:
    for score in range(_HIGHEST + 1):
        yield Bin(score - 0.5, score + 0.5, scores[score, True], scores[score, False])


def _lengths(found: tuple[Counter[int], Counter[int]], count: int) -> Shares:
    """How long the rewritten captions were, and are."""
    shortest, longest = min(map(min, found)), max(map(max, found))
    width = (longest - shortest) // _LENGTH_BINS + 1
    starts = range(shortest, longest + 1, width)
    return Shares(
        title="Words of a rewritten caption",
        labels=[str(start) for start in starts],
        names=["before", "after"],
        counts=[[sum(one[s + i] for i in range(width)) for s in starts] for one in found],
        totals=[count, count],
    )


def _shown(row: dict[str, Any]) -> Shown:
    proposed = row["final_caption"] if row["rewritten"] else row["recaption"]
    label = {True: "rewrite", False: "rewrite, not used", None: "rewrite, not used"}
    texts = [("caption", row["caption"]), (label[row["rewritten"]], proposed)]
    return Shown(
        key=row["key"],
        shard=row["shard"],
        score=row["overall_score"],
        keep=True if row["rewritten"] else None,
        reason=row["what"],
        error=row["error"],
        texts=tuple((label, clipped(text)) for label, text in texts if text),
    )
