"""Quality tables and decisions: counts, the histogram of scores, and which samples to show.

Tables are scanned, never loaded: only counts and the few rows of the gallery come into memory.
"""

import math
from dataclasses import dataclass

import polars as pl

from mmsieve.decisions import KIND as DECISIONS
from mmsieve.reporting.charts import Bin
from mmsieve.reporting.inputs import Judged
from mmsieve.reporting.samples import FAILED, Groups, Request, Shown
from mmsieve.tables import scan_files

_BINS = 48
_SHOWN_BY: dict[str, tuple[str, tuple[str, ...]]] = {
    "quality": (DECISIONS, (FAILED,)),
    DECISIONS: ("ratings", ()),
}
"""Kind -> the kind that, where it is on the page too, shows the samples but for these groups."""


@dataclass(frozen=True)
class Scores:
    """What is said of a quality table, or of decisions."""

    rows: int
    kept: int | None
    """None in a table."""
    counts: dict[str, int]
    """Status, or `kept` and the reasons -> samples."""
    bins: list[Bin]
    cut: float | None
    """The lowest kept score, where all kept scores are above all dropped ones."""
    groups: Groups
    template: str = "scores.html.j2"


def count(judged: Judged, request: Request) -> Scores:
    """The numbers of a quality table or of decisions."""
    rows = _rows(judged)
    is_decided = judged.kind == DECISIONS
    tally = rows.group_by("what").len().sort("len", "what", descending=[True, False]).collect()
    counts = dict(zip(tally["what"].to_list(), tally["len"].to_list(), strict=True))
    total = sum(counts.values())
    kept = counts.get("kept", 0) if is_decided else None
    scored = rows.filter(pl.col("score").is_finite())
    edges = scored.group_by("keep").agg(
        pl.col("score").min().alias("low"), pl.col("score").max().alias("high")
    )
    sides = {keep: (low, high) for keep, low, high in edges.collect().iter_rows()}
    cut = None
    if True in sides and (False not in sides or sides[False][1] <= sides[True][0]):
        cut = sides[True][0] if False in sides else None
    groups = _groups(rows, request.gallery)
    other, left = _SHOWN_BY[judged.kind]
    if request.beside(judged, other):
        groups = {title: groups[title] for title in left if title in groups}
    return Scores(total, kept, counts, _bins(scored, sides), cut, groups)


def _rows(judged: Judged) -> pl.LazyFrame:
    """key, shard, score, keep, reason, error, and `what` to count by, of every sample."""
    rows = scan_files(judged.files)
    if judged.kind == DECISIONS:
        return rows.select(
            "key",
            "shard",
            "score",
            "keep",
            "reason",
            pl.lit(None, pl.String).alias("error"),
            pl.when("keep").then(pl.lit("kept")).otherwise("reason").alias("what"),
        )
    return rows.select(
        "key",
        "shard",
        pl.col("quality_score").alias("score"),
        pl.lit(None, pl.Boolean).alias("keep"),
        pl.when(pl.col("status") != "ok").then("status").alias("reason"),
        "error",
        pl.col("status").alias("what"),
    )


def _bins(scored: pl.LazyFrame, sides: dict[bool | None, tuple[float, float]]) -> list[Bin]:
    if not sides:
        return []
    low = math.floor(min(side[0] for side in sides.values()) * 4) / 4
    high = math.floor(max(side[1] for side in sides.values()) * 4) / 4 + 0.25
    width = (high - low) / _BINS
    place = ((pl.col("score").cast(pl.Float64) - low) / width).floor().clip(0, _BINS - 1)
    found = scored.group_by(place.cast(pl.Int64).alias("bin"), "keep").len().collect()
    counts = {(index, keep): n for index, keep, n in found.iter_rows()}
    return [
        Bin(
            low + index * width,
            low + (index + 1) * width,
            counts.get((index, True), 0) + counts.get((index, None), 0),
            counts.get((index, False), 0),
        )
        for index in range(_BINS)
    ]


def _groups(rows: pl.LazyFrame, most: int) -> Groups:
    """The samples worth looking at; ties go by shard and key, so a page can be made again."""
    kept, dropped = rows.filter("keep"), rows.filter(~pl.col("keep"))
    scored = rows.filter(pl.col("score").is_finite())
    decided = pl.col("keep").is_not_null()
    groups = {
        "Best": _pick(scored, most, best=True),
        "Just kept": _pick(kept.filter(pl.col("score").is_finite()), most, best=False),
        "Just dropped": _pick(dropped.filter(pl.col("score").is_finite()), most, best=True),
        "Worst": _pick(scored, most, best=False),
        "Kept without a score": _pick(kept.filter(pl.col("score").is_null()), most, best=True),
        FAILED: _pick(
            rows.filter(~pl.col("score").is_finite() | pl.col("score").is_null()).filter(
                (decided & ~pl.col("keep")) | (~decided & pl.col("reason").is_not_null())
            ),
            most,
            best=True,
        ),
    }
    return {title: shown for title, shown in groups.items() if shown}


def _pick(rows: pl.LazyFrame, most: int, *, best: bool) -> list[Shown]:
    order = rows.sort("score", "shard", "key", descending=[best, False, False], nulls_last=True)
    columns = ("key", "shard", "score", "keep", "reason", "error")
    drawn = order.select(columns).head(most).collect()
    return [Shown(**row) for row in drawn.iter_rows(named=True)]
