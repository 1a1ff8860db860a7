"""Quality tables and decisions: counts, the histogram of scores, and which samples to show.

Only counts and the few rows of the gallery stay in memory.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import polars as pl

from mmsieve.decisions import KIND as DECISIONS
from mmsieve.errors import Status
from mmsieve.reporting import sections
from mmsieve.reporting.inputs import ReportTable
from mmsieve.tables import SCORE, find_score

_BINS = 48
Sides: TypeAlias = dict[bool | None, tuple[float, float]]
"""Whether rows are kept -> their lowest and highest score."""
_SHOWN_BY: dict[str, tuple[str, tuple[str, ...]]] = {
    "quality": (DECISIONS, (sections.FAILED,)),
    DECISIONS: ("ratings", ()),
}
"""Kind -> the kind that, where it is in the report too, shows the samples but for these groups."""


def _columns(table: ReportTable, score: str) -> tuple[pl.Expr | str, ...]:
    """The columns of a table or of decisions, and `what` to count by."""
    if table.kind == DECISIONS:
        error = pl.lit(None, pl.String).alias("error")
        what = pl.when("keep").then(pl.lit("kept")).otherwise("reason").alias("what")
        return "key", "shard", error, "score", "keep", "reason", what
    keep = pl.lit(None, pl.Boolean).alias("keep")
    reason = pl.when(pl.col("status") != Status.OK).then("status").alias("reason")
    named = pl.col(score).alias("score"), keep, reason, pl.col("status").alias("what")
    return "key", "shard", "error", *named


_KEEP, _SCORE, _IS_FINITE = pl.col("keep"), pl.col("score"), pl.col("score").is_finite()


def _by_score(which: pl.Expr, best: bool) -> sections.GalleryGroup:
    """The rows of the highest or lowest scores; ties go by shard and key."""
    order = ("score", "shard", "key")
    return sections.GalleryGroup(which, order, (best, False, False), from_end=False)


_GROUPS = {
    "Best": _by_score(_IS_FINITE, best=True),
    "Just kept": _by_score(_KEEP & _IS_FINITE, best=False),
    "Just dropped": _by_score(~_KEEP & _IS_FINITE, best=True),
    "Worst": _by_score(_IS_FINITE, best=False),
    "Kept without a score": _by_score(_KEEP & _SCORE.is_null(), best=True),
    sections.FAILED: _by_score(
        (~_IS_FINITE | _SCORE.is_null())
        & (~_KEEP | (_KEEP.is_null() & pl.col("reason").is_not_null())),
        best=True,
    ),
}


@dataclass(frozen=True)
class ScoreNumbers:
    """What is said of a quality table, or of decisions."""

    rows: int
    kept: int | None
    """None in a table."""
    counts: dict[str, int]
    """Status, or `kept` and the reasons -> samples."""
    bins: list[sections.Bin]
    threshold: float | None
    """The lowest kept score, where all kept scores are above all dropped ones."""
    groups: sections.Groups
    score: str = "score"
    """What the score is called."""
    template: str = "scores.html.j2"


def count(table: ReportTable, request: sections.SectionRequest) -> ScoreNumbers:
    """The numbers of a quality table or of decisions."""
    own = None if table.kind == DECISIONS else find_score(table.schema)
    columns = _columns(table, own or SCORE)
    gallery = sections.Gallery(_GROUPS, request.gallery)
    counts = sections.count_rows(sections.read_rows(table.files, columns), gallery)
    groups = gallery.groups(_shown)
    other, left = _SHOWN_BY[table.kind]
    if request.beside(table, other):
        groups = {title: groups[title] for title in left if title in groups}
    sides = _sides(_scored(table, columns))
    is_cut = sides.keys() >= {True, False} and sides[False][1] <= sides[True][0]
    return ScoreNumbers(
        rows=sum(counts.values()),
        kept=counts.get("kept", 0) if table.kind == DECISIONS else None,
        counts=counts,
        bins=_bins(_scored(table, columns), sides),
        threshold=sides[True][0] if is_cut else None,
        groups=groups,
        score="score" if own in (None, SCORE) else own,
    )


def _shown(_: str, row: dict[str, Any]) -> sections.GallerySample:
    return sections.GallerySample(**{name: row[name] for name in row if name != "what"})


def _scored(table: ReportTable, columns: Sequence[pl.Expr | str]) -> Iterator[pl.DataFrame]:
    """The rows that have a score, some at a time."""
    for frame in sections.read_rows(table.files, columns):
        yield frame.filter(_IS_FINITE)


def _sides(scored: Iterable[pl.DataFrame]) -> Sides:
    """The lowest and the highest score of what is kept, what isn't, and where that isn't said."""
    ends = (_SCORE.min().alias("low"), _SCORE.max().alias("high"))
    found = pl.concat(frame.group_by("keep").agg(ends) for frame in scored)
    both = found.group_by("keep").agg(pl.col("low").min(), pl.col("high").max())
    return {keep: (low, high) for keep, low, high in both.iter_rows()}


def _bins(scored: Iterable[pl.DataFrame], sides: Sides) -> list[sections.Bin]:
    if not sides:
        return []
    low = math.floor(min(side[0] for side in sides.values()) * 4) / 4
    high = math.floor(max(side[1] for side in sides.values()) * 4) / 4 + 0.25
    width = (high - low) / _BINS
    place = ((pl.col("score").cast(pl.Float64) - low) / width).floor().clip(0, _BINS - 1)
    counts: Counter[tuple[int, bool | None]] = Counter()
    for frame in scored:
        found = frame.group_by(place.cast(pl.Int64).alias("bin"), "keep").len()
        counts.update({(index, keep): n for index, keep, n in found.iter_rows()})
    edges = [low + index * width for index in range(_BINS + 1)]
    kept = [counts[index, True] + counts[index, None] for index in range(_BINS)]
    return [
        sections.Bin(edges[index], edges[index + 1], kept[index], counts[index, False])
        for index in range(_BINS)
    ]
