"""How far two tables agree on the same samples: by rank, by level, and on what would be kept."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
from cyclopts import Parameter

from mmsieve.errors import RequestError, Status
from mmsieve.evaluation.metrics import TOP, Floats, Ints, ScoreTies, count_ties, pearson, spearman
from mmsieve.filtering.ids import hash_samples
from mmsieve.options import Options, own
from mmsieve.stores.asking import one_line
from mmsieve.tables import SCORE, Table, TableFile, column_names, find_score

_LEVEL = "quality_level"


@Parameter(name="*", group=own("Two tables"))
@dataclass(frozen=True, kw_only=True)
class AgreementOptions(Options):
    """What of two tables is compared."""

    by: str | None = None
    """With two TABLEs, the column with the score; by default quality_score, or else a table's only
    column of floating-point numbers."""
    on: Literal["key", "uid"] | None = None
    """With two TABLEs, join them by this column; by default by shard and key."""


@dataclass(frozen=True)
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
    ties: dict[str, ScoreTies]
    """Table -> how far its scores tell these rows apart."""


class PairedRows(NamedTuple):
    """Some rows that are ok in both of two tables."""

    rows: pl.DataFrame
    """`key`, `shard`, `score`, `score_right`, `level`, `level_right` (null where a table has no
    levels), and `hash`, by which `filter` breaks ties."""
    only: tuple[int, int]
    """Rows of the same files that one of the tables has alone."""


class TablePair:
    """Two tables to be joined; raises RequestError where their columns don't allow it."""

    def __init__(self, first: Table, second: Table, options: AgreementOptions) -> None:
        self._tables, self._on = (first, second), options.on
        scored = [options.by or find_score(table.types) or SCORE for table in self._tables]
        self.scored = scored[0], scored[1]
        """The column of each table's score."""
        has_levels = set(scored) == {SCORE} and all(_LEVEL in t.types for t in self._tables)
        self._columns = []
        for table, by in zip(self._tables, scored, strict=True):
            _check(table, by, self._tables, options.on)
            self._columns.append(_columns(table, by, options.on or "key", has_levels))

    def blocks(self) -> Iterator[PairedRows]:
        """All rows, shard by shard where that can be; RequestError where no row is in both."""
        found = False
        for files, on in _blocks(self._tables, self._on):
            one, other = map(_rows, self._tables, files, self._columns)
            paired = _join(one, other, on)
            found = found or not paired.rows.is_empty()
            yield paired
        if not found:
            first, second = self._tables
            how = f"by {self._on}" if self._on else "by shard and key"
            raise RequestError(
                f"{first.path} and {second.path} have no sample in common that is ok in both, "
                f"joined {how}: score the same SOURCEs, or say --on key or --on uid"
            )


def compare_tables(first: Table, second: Table, options: AgreementOptions) -> Agreement:
    """Join two tables and compare their scores; raises RequestError where that can't be done."""
    pair = TablePair(first, second, options)
    joined, alone = [], np.zeros(2, np.int64)
    for paired in pair.blocks():
        joined.append(paired.rows.drop("key", "shard"))
        alone += paired.only
    pairs = pl.concat(joined)
    scores = pairs["score"].to_numpy(), pairs["score_right"].to_numpy()
    levels = _both_levels(pairs)
    rows = {}
    for table, only_here in zip((first, second), alone.tolist(), strict=True):
        not_ok = table.rows - pairs.height - only_here
        rows[table.name] = TableRows(str(table.path), table.rows, not_ok, only_here)
    return Agreement(
        count=pairs.height,
        by=" and ".join(dict.fromkeys(pair.scored)),
        tables=rows,
        spearman=spearman(*scores),
        pearson=pearson(*scores),
        same_level=None if levels is None else float((levels[0] == levels[1]).mean()),
        kappa=None if levels is None else kappa(*levels),
        top=overlaps(*scores, pairs["hash"].to_numpy()),
        ties=dict(zip(rows, map(count_ties, scores), strict=True)),
    )


def _check(table: Table, by: str, tables: Sequence[Table], on: str | None) -> None:
    if table.is_ours and "status" not in table.types:
        raise RequestError(
            f"{table.path}: holds decisions of filter or select, not scores: give the tables of "
            "score, rate or enhance that are to be compared, or Parquet files with scores"
        )
    for name in (by, on or "key"):
        if name not in table.types:
            raise RequestError(f"{table.path} has no column {name}: {column_names(tables)}")
        if name in table.mixed:
            raise RequestError(f"{table.path}: column {name} can't be used: {table.mixed[name]}")
    kind = table.types[by]
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise RequestError(f"{table.path}: column {by} holds {kind}, not numbers to compare")


def _blocks(
    tables: tuple[Table, Table], on: str | None
) -> Iterator[tuple[list[list[TableFile]], list[str]]]:
    """Files of both tables that hold the same samples, and the columns to join them by."""
    # Shard by shard, memory is bounded by the largest; anyone else's tables are joined in one piece
    if on is None and all(table.is_ours for table in tables):
        for shard in sorted(tables[0].by_shard.keys() | tables[1].by_shard.keys()):
            yield [[t.by_shard[shard]] if shard in t.by_shard else [] for t in tables], ["key"]
        return
    has_shards = on is None and all("shard" in table.types for table in tables)
    yield [list(table.files) for table in tables], ["shard", "key"] if has_shards else ["key"]


_TYPES = pl.Schema(
    {
        "key": pl.String,
        "shard": pl.String,
        "score": pl.Float64,
        "level": pl.Int8,
        "is_ok": pl.Boolean,
    }
)


def _columns(table: Table, by: str, on: str, has_levels: bool) -> dict[str, pl.Expr]:
    nothing = pl.lit(None)
    score = pl.col(by).cast(pl.Float64)
    is_ok = score.is_not_null() & score.is_not_nan() & pl.col(on).is_not_null()
    return {
        "key": pl.col(on),
        "shard": pl.col("shard") if "shard" in table.types else nothing,
        "score": score,
        "level": pl.col(_LEVEL) if has_levels else nothing,
        "is_ok": is_ok & (pl.col("status") == Status.OK) if table.is_ours else is_ok,
    }


def _rows(table: Table, files: Sequence[TableFile], columns: dict[str, pl.Expr]) -> pl.LazyFrame:
    """The columns of a table's files, checked, with the types that all tables are given."""
    names = dict.fromkeys(name for expr in columns.values() for name in expr.meta.root_names())
    frames = [frame for file in files for frame in table.read(file, list(names), whole=True)]
    if not frames:
        return pl.LazyFrame(schema=_TYPES)
    return pl.concat(frames).lazy().select(**columns).cast(_TYPES)


def _join(one: pl.LazyFrame, other: pl.LazyFrame, on: list[str]) -> PairedRows:
    """The rows that are ok on both sides, and how many are on one side alone."""
    ok, other_ok = (side.filter("is_ok").drop("is_ok") for side in (one, other))
    try:
        pairs, only_one, only_other = pl.collect_all(
            [
                ok.join(other_ok, on=on, how="inner", validate="1:1"),
                one.join(other, on=on, how="anti").select(pl.len()),
                other.join(one, on=on, how="anti").select(pl.len()),
            ]
        )
    except pl.exceptions.ComputeError as error:
        how = f"by {' and '.join(on)} ({one_line(error)})"
        raise RequestError(
            f"the tables can't be joined {how}: each may name a sample only once"
        ) from error
    except (pl.exceptions.PolarsError, OSError) as error:
        raise RequestError(f"a table can't be read ({one_line(error)})") from error
    hashes = pl.Series("hash", hash_samples(pairs["key"], pairs["shard"]))
    names = ("key", "shard", "score", "score_right", "level", "level_right")
    return PairedRows(
        pairs.select(names).with_columns(hashes), (only_one.item(), only_other.item())
    )


def _both_levels(pairs: pl.DataFrame) -> tuple[Ints, Ints] | None:
    """The levels of the rows that have some in both tables; None where there is none."""
    levels = pairs.select("level", "level_right").drop_nulls()
    if levels.is_empty():
        return None
    one, other = (column.to_numpy().astype(np.int64) for column in levels)
    if min(one.min(), other.min()) < 0:
        raise RequestError(f"column {_LEVEL} holds a number below 0: levels count from 0")
    return one, other


def kappa(one: Ints, other: Ints) -> float | None:
    """Cohen's kappa with quadratic weights (1968) of levels from 0; None where chance is 1."""
    from sklearn.metrics import cohen_kappa_score

    if len(np.union1d(one, other)) == 1:
        return None
    labels = range(max(one.max(), other.max()) + 1)  # all: weights are of places among them
    return float(cohen_kappa_score(one, other, labels=labels, weights="quadratic"))


def overlaps(one: Floats, other: Floats, ties: npt.NDArray[Any]) -> dict[str, float | None]:
    """Per fraction of TOP the overlap (Jaccard) of what a cut by either score would keep.

    `ties` are the hashes that `filter` breaks ties by.
    """
    first, second = (np.lexsort((~ties, -scores)) for scores in (one, other))
    found: dict[str, float | None] = {}
    for top in TOP:
        count = math.floor(Fraction(top) * len(one))
        both = len(np.intersect1d(first[:count], second[:count], assume_unique=True))
        found[top] = both / (2 * count - both) if count else None
    return found
