"""Two tables of scores of the same samples: how far they agree, and where they don't at all.

Scores of two models need not be on one scale: what is compared is each sample's rank among the
samples that are ok in both tables, as the share of them with a lower score (ties share one).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from mmsieve.evaluation.agreement import AgreementOptions, PairedScores, overlaps, pair_tables
from mmsieve.filtering.ids import hash_samples
from mmsieve.reporting.heatmaps import TIMES, HeatCell, HeatMap, step_of
from mmsieve.reporting.inputs import ReportTable
from mmsieve.reporting.sections import GallerySample, Groups, SectionRequest
from mmsieve.tables import open_tables, read_frames

KIND = "quality"
_TENTHS = 10
Ranks = npt.NDArray[np.float64]


@dataclass(frozen=True)
class AgreementNumbers:
    """What is said of two tables."""

    names: tuple[str, str]
    columns: tuple[str, str]
    """Of their scores."""
    count: int
    """Samples that are ok in both."""
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
    """Compare two tables; raises RequestError where they can't be joined."""
    one, other = open_tables([first.path, second.path])
    pairs = pair_tables(one, other, AgreementOptions())
    names = _names(first, second)
    ranks = _ranks(pairs.scores[0]), _ranks(pairs.scores[1])
    levels = pairs.rows.select("level", "level_right").drop_nulls()
    same = int((levels["level"] == levels["level_right"]).sum())
    return AgreementNumbers(
        names=names,
        columns=pairs.scored,
        count=pairs.rows.height,
        only=pairs.only,
        spearman=_correlation(*ranks),
        top=overlaps(*pairs.scores, pairs.rows["hash"].to_numpy()),
        same_level=same / levels.height if levels.height else None,
        tenths=_tenths(names, ranks),
        groups=_disagreements(first, names, pairs, ranks, gallery),
    )


def _names(first: ReportTable, second: ReportTable) -> tuple[str, str]:
    if first.name != second.name:
        return first.name, second.name
    return str(first.path), str(second.path)


def _ranks(scores: npt.NDArray[np.float64]) -> Ranks:
    """The rank of each score from 0 to 1, 1 the highest."""
    places = pl.Series(scores).rank("average").to_numpy()
    return (places - 1) / max(1, len(scores) - 1)


def _correlation(one: Ranks, other: Ranks) -> float | None:
    if one.min() == one.max() or other.min() == other.max():
        return None
    return float(np.corrcoef(one, other)[0, 1])


def _tenths(names: tuple[str, str], ranks: tuple[Ranks, Ranks]) -> HeatMap:
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
                f"{n:,} samples: {row} by {names[0]}, {column} by {names[1]}",
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
    first: ReportTable,
    names: tuple[str, str],
    pairs: PairedScores,
    ranks: tuple[Ranks, Ranks],
    most: int,
) -> Groups:
    """The samples whose ranks differ most, either way."""
    hashes, apart = pairs.rows["hash"].to_numpy(), ranks[0] - ranks[1]
    picked: dict[str, list[int]] = {}
    for (high, low), sign in ((names, 1), (names[::-1], -1)):
        furthest = np.argsort(-sign * apart, kind="stable")[:most]
        picked[f"High by {high}, low by {low}"] = furthest[sign * apart[furthest] > 0].tolist()
    rows = _rows_of(first, {int(hashes[n]) for some in picked.values() for n in some})

    def shown(number: int) -> GallerySample:
        said = (
            f"{name} {score[number]:.4g}, above {rank[number]:.0%}"
            for name, score, rank in zip(names, pairs.scores, ranks, strict=True)
        )
        return GallerySample(**rows[int(hashes[number])], marks=tuple((one,) for one in said))

    found = {
        title: [shown(n) for n in some if int(hashes[n]) in rows] for title, some in picked.items()
    }
    return {title: some for title, some in found.items() if some}


def _rows_of(table: ReportTable, hashes: set[int]) -> dict[int, dict[str, Any]]:
    """Hash -> key, shard and place of the first row that has it."""
    wanted = pl.Series("hash", sorted(hashes), pl.UInt64).implode()
    found: dict[int, dict[str, Any]] = {}
    for frame in read_frames(table.files, ("key", "shard", "place")):
        own = pl.Series("hash", hash_samples(frame["key"], frame["shard"]), pl.UInt64)
        some = frame.with_columns(own).filter(pl.col("hash").is_in(wanted))
        for row in some.iter_rows(named=True):
            found.setdefault(row.pop("hash"), row)
    return found
