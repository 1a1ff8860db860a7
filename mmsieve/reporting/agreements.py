"""Two tables of scores of the same samples: how far they agree, and where they don't at all.

Scores of two models need not be on one scale: what is compared is each sample's rank among the
samples that are ok in both tables, as the share of them with a lower score (ties share one).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from mmsieve.evaluation.agreement import AgreementOptions, PairedRows, TablePair, overlaps
from mmsieve.filtering.ids import mix
from mmsieve.reporting.heatmaps import TIMES, HeatCell, HeatMap, step_of
from mmsieve.reporting.inputs import ReportTable
from mmsieve.reporting.sections import Gallery, GalleryGroup, GallerySample, Groups, SectionRequest
from mmsieve.tables import open_tables
from mmsieve.wording import counted

KIND = "quality"
_TENTHS = 10
_MOST_ROWS = 1 << 21

Scores: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class AgreementNumbers:
    """What is said of two tables."""

    names: tuple[str, str]
    columns: tuple[str, str]
    """Of their scores."""
    count: int
    """Samples that are ok in both."""
    compared: int
    """Those that ranks are counted over: all, or an even part of very many."""
    only: tuple[int, int]
    """Samples that one of them has alone."""
    spearman: float | None
    """Rank correlation; None where either score is constant."""
    top: dict[str, float | None]
    """Fraction that is kept -> part of what either keeps that both keep."""
    same_level: float | None
    tenths: HeatMap
    groups: Groups
    template: str = "agreement.html.j2"


def compared(request: SectionRequest) -> Iterator[tuple[ReportTable, ReportTable]]:
    """The pairs to compare: of the tables about the same samples the first with each other one."""
    firsts: list[ReportTable] = []
    for table in request.tables:
        if table.kind != KIND:
            continue
        first = next((one for one in firsts if one.shares_shards(table)), None)
        if first is None:
            firsts.append(table)
        else:
            yield first, table


def compare(first: ReportTable, second: ReportTable, gallery: int) -> AgreementNumbers:
    """Compare two tables; raises RequestError where they can't be joined.

    Two passes: the first takes the rows that ranks are counted over, at most _MOST_ROWS of them,
    the second looks for those whose ranks differ most among all.
    """
    one, other = open_tables([first.path, second.path])
    pair = TablePair(one, other, AgreementOptions())
    taken = _Taken()
    for block in pair.blocks():
        taken.add(block)
    rows = taken.rows()
    scores = rows["score"].to_numpy(), rows["score_right"].to_numpy()
    scales = _Scale(scores[0]), _Scale(scores[1])
    ranks = scales[0].ranks(scores[0]), scales[1].ranks(scores[1])
    names = _names(first, second)
    groups = _disagreements(pair, names, scales, gallery) if gallery else {}
    return AgreementNumbers(
        names=names,
        columns=pair.scored,
        count=taken.count,
        compared=rows.height,
        only=taken.only,
        spearman=_correlation(*ranks),
        top=overlaps(*scores, rows["hash"].to_numpy()),
        same_level=taken.same / taken.levels if taken.levels else None,
        tenths=_tenths(names, ranks),
        groups=groups,
    )


class _Taken:
    """The rows that ranks are counted over: all, or an even part of them by their hashes."""

    def __init__(self) -> None:
        self.count = self.levels = self.same = 0
        """Rows; those with levels in both tables, and with the same one."""
        self.only = (0, 0)
        self._limit = 1 << 64
        self._height = 0
        self._parts: list[pl.DataFrame] = []

    def add(self, block: PairedRows) -> None:
        """Count rows, and take of them what there is room for."""
        self.count += block.rows.height
        self.only = self.only[0] + block.only[0], self.only[1] + block.only[1]
        levels = block.rows.select("level", "level_right").drop_nulls()
        self.levels += levels.height
        self.same += int((levels["level"] == levels["level_right"]).sum())
        self._parts.append(self._within(block.rows.select("score", "score_right", "hash")))
        self._height += self._parts[-1].height
        while self._height > _MOST_ROWS:
            self._limit //= 2
            self._parts = [self._within(pl.concat(self._parts))]
            self._height = self._parts[0].height

    def _within(self, rows: pl.DataFrame) -> pl.DataFrame:
        # what a sample's hash begins with is mixed, or a limit would take keys that look alike
        numbers = mix(rows["hash"].to_numpy())
        return rows.filter(pl.Series(numbers <= np.uint64(self._limit - 1)))

    def rows(self) -> pl.DataFrame:
        """What was taken."""
        return pl.concat(self._parts)


class _Scale:
    """Tells the rank of a score among scores: the share of them that are lower, ties halved."""

    def __init__(self, scores: Scores) -> None:
        self._ordered = np.sort(scores)

    def ranks(self, scores: Scores) -> Scores:
        """The rank of each score from 0 to 1, 1 the highest."""
        below = np.searchsorted(self._ordered, scores, side="left")
        up_to = np.searchsorted(self._ordered, scores, side="right")
        middle = (below + np.maximum(up_to, below + 1) - 1) / 2
        ranks: Scores = np.clip(middle / max(1, len(self._ordered) - 1), 0, 1)
        return ranks


def _names(first: ReportTable, second: ReportTable) -> tuple[str, str]:
    if first.name != second.name:
        return first.name, second.name
    return str(first.path), str(second.path)


def _correlation(one: Scores, other: Scores) -> float | None:
    if one.min() == one.max() or other.min() == other.max():
        return None
    return float(np.corrcoef(one, other)[0, 1])


def _tenths(names: tuple[str, str], ranks: tuple[Scores, Scores]) -> HeatMap:
    """How many samples of each tenth by the one are in each tenth by the other, the best first."""
    one, other = (np.minimum((r * _TENTHS).astype(int), _TENTHS - 1) for r in ranks)
    flat = np.bincount(one * _TENTHS + other, minlength=_TENTHS**2)
    counts = flat.reshape(_TENTHS, _TENTHS)[::-1, ::-1]
    chance = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    labels = ["best tenth", *(f"{n}." for n in range(2, _TENTHS)), "worst tenth"]
    cells = [
        [
            HeatCell(
                f"{n:,}" if n else "",
                f"{counted(n, 'samples')}: {row} by {names[0]}, {column} by {names[1]}",
                step_of(n, expected),
            )
            for column, n, expected in zip(labels, of_row.tolist(), by_chance, strict=True)
        ]
        for row, of_row, by_chance in zip(labels, counts, chance.tolist(), strict=True)
    ]
    title = f"Samples by tenths of their ranks: rows by {names[0]}, columns by {names[1]}"
    note = "Scores that agree fill the diagonal from the upper left."
    return HeatMap(title, labels, labels, cells, note, TIMES)


def _disagreements(
    pair: TablePair, names: tuple[str, str], scales: tuple[_Scale, _Scale], most: int
) -> Groups:
    """The samples whose ranks differ most, either way."""
    ends = {f"High by {names[0]}, low by {names[1]}": True}
    ends[f"High by {names[1]}, low by {names[0]}"] = False
    which = {True: pl.col("apart") > 0, False: pl.col("apart") < 0}
    by = ("apart", "shard", "key")
    gallery = Gallery(
        {
            title: GalleryGroup(which[highest], by, (highest, False, False), from_end=False)
            for title, highest in ends.items()
        },
        most,
    )
    for block in pair.blocks():
        rows = block.rows.select("key", "shard", "score", "score_right")
        one, other = (
            scale.ranks(rows[name].to_numpy())
            for scale, name in zip(scales, ("score", "score_right"), strict=True)
        )
        gallery.add(rows.with_columns(rank=one, rank_right=other, apart=one - other))

    def shown(_: str, row: dict[str, Any]) -> GallerySample:
        said = (
            f"{name} {row['score' + side]:.4g}, above {row['rank' + side]:.0%}"
            for name, side in zip(names, ("", "_right"), strict=True)
        )
        marks = tuple((one,) for one in said)
        return GallerySample(key=str(row["key"]), shard=row["shard"], marks=marks)

    return gallery.groups(shown)
