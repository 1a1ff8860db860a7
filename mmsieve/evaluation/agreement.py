"""How far two tables agree on the same samples: by rank, by level, and on what would be kept."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from cyclopts import Parameter

from mmsieve.errors import RequestError, Status
from mmsieve.evaluation.metrics import Floats, Ints, pearson, spearman
from mmsieve.filtering.ranking import hash_samples
from mmsieve.sources import one_line
from mmsieve.tables import Table, column_names, scan_files

TOP = ("0.1", "0.3", "0.5")
"""The fractions of samples that may be kept, for which the overlap is given."""
_LEVEL = "quality_level"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class AgreementOptions:
    """What of two tables is compared."""

    by: str | None = None
    """With two TABLEs, the column with the score; quality_score by default."""
    on: Literal["key", "uid"] | None = None
    """With two TABLEs, join them by this column; by default by shard and key."""


@dataclass(frozen=True, kw_only=True)
class TableRows:
    """What became of a table's rows: `rows` = those compared + not_ok + only_here."""

    path: str
    rows: int
    not_ok: int
    """In both tables, and not ok (or without a score) in one of them."""
    only_here: int
    """Not in the other table."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Two tables compared on the rows that are ok in both; None where undefined."""

    count: int
    by: str
    tables: dict[str, TableRows]
    spearman: float | None
    pearson: float | None
    same_level: float | None
    """Share of the rows with the same level; None where a table has no levels."""
    kappa: float | None
    """Cohen's kappa of the levels with quadratic weights: agreement beyond chance."""
    top: dict[str, float | None]
    """Per fraction, the overlap (Jaccard) of what `filter --top-fraction` of it would keep."""


def compare_tables(first: Table, second: Table, options: AgreementOptions) -> Agreement:
    """Join two tables and compare their scores; raises RequestError where that can't be done."""
    by = options.by or "quality_score"
    tables = (first, second)
    for table in tables:
        _check(table, by, tables, options.on)
    parts = [_join(block) for block in _blocks(first, second, by, options.on)]
    if not sum(part.pairs.height for part in parts):
        how = f"by {options.on}" if options.on else "by shard and key"
        raise RequestError(
            f"{first.path} and {second.path} have no sample in common that is ok in both, joined "
            f"{how}: score the same SOURCEs, or say --on key or --on uid"
        )
    pairs = pl.concat([part.pairs for part in parts])
    scores = pairs["score"].to_numpy(), pairs["score_right"].to_numpy()
    same_level, kappa = _level_agreement(pairs)
    return Agreement(
        count=pairs.height,
        by=by,
        tables={
            table.name: _rows(table, pairs.height, sum(part.only[i] for part in parts))
            for i, table in enumerate(tables)
        },
        spearman=spearman(*scores),
        pearson=pearson(*scores),
        same_level=same_level,
        kappa=kappa,
        top=_overlaps(*scores, pairs["hash"].to_numpy()),
    )


def _check(table: Table, by: str, tables: Sequence[Table], on: str | None) -> None:
    for name in (by, on or "key"):
        if name not in table.types:
            raise RequestError(f"{table.path} has no column {name}: {column_names(tables)}")
        if name in table.mixed:
            raise RequestError(f"{table.path}: column {name} can't be used: {table.mixed[name]}")

    kind = table.types[by]
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise RequestError(f"{table.path}: column {by} holds {kind}, not numbers to compare")


def _rows(table: Table, compared: int, only_here: int) -> TableRows:
    not_ok = table.rows - compared - only_here
    return TableRows(path=str(table.path), rows=table.rows, not_ok=not_ok, only_here=only_here)


@dataclass(frozen=True)
class _JoinBlock:
    """Files of both tables that hold the same samples; memory is bounded by the largest."""

    sides: tuple[pl.LazyFrame, pl.LazyFrame]
    on: list[str]


@dataclass(frozen=True)
class _JoinedBlock:
    """A block, joined."""

    pairs: pl.DataFrame
    """score, score_right, level, level_right, hash of the rows that are ok on both sides."""
    only: tuple[int, int]
    """Rows of each side that the other one lacks."""


def _blocks(first: Table, second: Table, by: str, on: str | None) -> Iterator[_JoinBlock]:
    """Shard by shard for two tables of ours; anyone else's are joined in one piece."""
    tables = (first, second)
    if on is None and first.is_ours and second.is_ours:
        for shard in sorted(first.by_shard.keys() | second.by_shard.keys()):
            paths = [[t.by_shard[shard].path] if shard in t.by_shard else [] for t in tables]
            yield _JoinBlock(_sides(tables, paths, by, "key"), ["key"])
        return
    paths = [[file.path for file in table.files] for table in tables]
    has_shards = on is None and all("shard" in table.types for table in tables)
    yield _JoinBlock(
        _sides(tables, paths, by, on or "key"), ["shard", "key"] if has_shards else ["key"]
    )


def _sides(
    tables: tuple[Table, Table], paths: list[list[Path]], by: str, on: str
) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    has_levels = by == "quality_score" and all(_LEVEL in table.types for table in tables)
    one, other = (
        _side(table, own, by, on, has_levels) for table, own in zip(tables, paths, strict=True)
    )
    return one, other


def _side(table: Table, paths: list[Path], by: str, on: str, has_levels: bool) -> pl.LazyFrame:
    """key, shard, score, level and is_ok of the rows of some files."""
    nothing = pl.lit(None)
    score = pl.col(by).cast(pl.Float64)
    is_ok = score.is_not_null() & score.is_not_nan() & pl.col(on).is_not_null()
    if table.is_ours:
        is_ok &= pl.col("status") == Status.OK
    columns = [
        pl.col(on).cast(pl.String).alias("key"),
        (pl.col("shard") if "shard" in table.types else nothing).cast(pl.String).alias("shard"),
        score.alias("score"),
        (pl.col(_LEVEL) if has_levels else nothing).cast(pl.Int8).alias("level"),
        is_ok.alias("is_ok"),
    ]
    if not paths:
        return _EMPTY.lazy()
    return scan_files(paths).select(columns)


_EMPTY = pl.DataFrame(
    schema={
        "key": pl.String,
        "shard": pl.String,
        "score": pl.Float64,
        "level": pl.Int8,
        "is_ok": pl.Boolean,
    }
)


def _join(block: _JoinBlock) -> _JoinedBlock:
    one, other = block.sides
    ok = [side.filter("is_ok").drop("is_ok") for side in block.sides]
    try:
        pairs, only_one, only_other = pl.collect_all(
            [
                ok[0].join(ok[1], on=block.on, how="inner", validate="1:1"),
                one.join(other, on=block.on, how="anti").select(pl.len()),
                other.join(one, on=block.on, how="anti").select(pl.len()),
            ]
        )
    except pl.exceptions.ComputeError as error:
        raise RequestError(
            f"the tables can't be joined by {' and '.join(block.on)} ({one_line(error)}): "
            "each may name a sample only once"
        ) from error
    except (pl.exceptions.PolarsError, OSError) as error:
        raise RequestError(f"a table can't be read ({one_line(error)})") from error
    hashes = pl.Series("hash", hash_samples(pairs["key"], pairs["shard"]))
    kept = ["score", "score_right", "level", "level_right"]
    return _JoinedBlock(
        pairs.select(kept).with_columns(hashes), (only_one.item(), only_other.item())
    )


def _level_agreement(pairs: pl.DataFrame) -> tuple[float | None, float | None]:
    """Share of the same level, and kappa, over the rows that have levels in both tables."""
    levels = pairs.select("level", "level_right").drop_nulls()
    if levels.is_empty():
        return None, None
    one, other = (column.to_numpy().astype(np.int64) for column in levels)
    if min(one.min(), other.min()) < 0:
        raise RequestError(f"column {_LEVEL} holds a number below 0: levels count from 0")
    return float((one == other).mean()), kappa(one, other)


def kappa(one: Ints, other: Ints) -> float | None:
    """Cohen's kappa with quadratic weights (1968) of levels from 0; None where chance is 1."""
    from sklearn.metrics import cohen_kappa_score

    if len(np.union1d(one, other)) == 1:
        return None
    labels = range(max(one.max(), other.max()) + 1)  # all: weights are of places among them
    return float(cohen_kappa_score(one, other, labels=labels, weights="quadratic"))


def _overlaps(one: Floats, other: Floats, ties: npt.NDArray[Any]) -> dict[str, float | None]:
    first, second = (np.lexsort((~ties, -scores)) for scores in (one, other))
    overlaps: dict[str, float | None] = {}
    for top in TOP:
        count = math.floor(Fraction(top) * len(one))
        both = len(np.intersect1d(first[:count], second[:count], assume_unique=True))
        overlaps[top] = both / (2 * count - both) if count else None
    return overlaps
