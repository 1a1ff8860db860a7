"""A filter request: its options, and what they mean for the tables given, checked.

Whatever is wrong with a request is found here, but for what only the rows can show.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa
from cyclopts import Parameter
from polars.exceptions import PolarsError

from mmsieve.errors import RequestError, nearest
from mmsieve.filtering.ids import Counts, RowIds
from mmsieve.options import Finite, Options, Positive, Share, own
from mmsieve.tables import COMMON, METADATA, SCORE, Table, column_names, find_score

On: TypeAlias = Literal["key", "uid"]


@Parameter(name="*", group=own("Cut"))
@dataclass(frozen=True, kw_only=True)
class CutOptions(Options):
    """Which samples are kept: one of the cuts, a condition, or both."""

    min_score: Finite | None = None
    """Keep samples with at least this score."""
    top_fraction: Share | None = None
    """Keep this share (0.3: 30%) of the samples with the highest scores, rounded down."""
    top_count: Positive | None = None
    """Keep so many samples with the highest scores."""
    min_precision: Share | None = None
    """Keep as many samples as --labels show to be good with this precision: the lowest cut at which
    the lower end of its 95% interval is at least that."""
    labels: tuple[Path, ...] | None = None
    """Files of labels that a form of `audit` exported, for --min-precision."""
    where: str | None = None
    """Keep only samples that fulfil this SQL condition over the tables' columns; where tables
    share a column's name, write table.column. A cut is made between those that fulfil it."""
    by: str | None = None
    """Column with the score; by default quality_score, or else a table's only column of
    floating-point numbers."""
    per: str | None = None
    """Cut within each group of samples that have the same value in this column."""
    on: On | None = None
    """Join tables by this column's values; by default shard by shard, as one run's sources."""

    @property
    def is_ranked(self) -> bool:
        """Whether the highest rows are kept."""
        return self.top_fraction is not None or self.top_count is not None

    def check(self) -> None:
        """Refuse what can't be meant, from the request alone."""
        names = ("min_score", "top_fraction", "top_count", "min_precision")
        cuts = [f"--{n.replace('_', '-')}" for n in names if getattr(self, n) is not None]
        if len(cuts) > 1 or not (cuts or self.where is not None):
            raise RequestError(
                f"{' and '.join(cuts) or 'no cut'} given: say one of --min-score X, "
                "--top-fraction F, --top-count N, and --where EXPR with it or alone; or "
                "--min-precision P with --labels FILE"
            )
        if (self.min_precision is None) != (not self.labels):
            raise RequestError("--min-precision and --labels go together: say both")
        if self.min_precision is not None and (self.where is not None or self.on is not None):
            raise RequestError("--min-precision is known of a whole table: no --where, no --on")
        if self.per is not None and not self.is_ranked:
            raise RequestError("--per cuts within groups: say --top-fraction or --top-count too")

    def wanted(self, counts: Counts) -> Counts:
        """How many rows of each group are kept, where it has so many scored ones."""
        if self.top_fraction is None:
            return np.minimum(counts, self.top_count or 0)
        share = Fraction(repr(float(self.top_fraction)))  # as it was typed: 0.29 of 100 is 29
        return np.array([math.floor(share * count) for count in counts.tolist()], np.int64)


# The tables together: their columns by name

_SHARED = frozenset([*COMMON.names, METADATA.name])
"""Columns that every table of ours has: without a prefix they are the first table's."""


@dataclass(frozen=True, slots=True, order=True)
class Column:
    """A column of one of the tables."""

    table: int
    name: str

    @property
    def inner(self) -> str:
        """Its name in the joined frames, where no two columns share one."""
        return f"{self.table}:{self.name}"


class JoinedTables:
    """The tables of a request, joined shard by shard, or by the values of a column."""

    def __init__(self, tables: Sequence[Table], on: On | None) -> None:
        self.tables = tables
        self.on = on
        if on is None:
            _check_shards(tables)
        for table in tables if len(tables) > 1 else []:
            if (on or "key") not in table.types:
                raise RequestError(
                    f"{table.name} has no column {on or 'key'} to join by: say --on key or "
                    f"--on uid; {column_names(tables)}"
                )

    def find(self, name: str) -> Column:
        """The column that a user calls `name` or `table.name`; raises RequestError."""
        having = [i for i, table in enumerate(self.tables) if name in table.types]
        if len(having) > 1 and name not in _SHARED:
            names = " or ".join(f"{self.tables[i].name}.{name}" for i in having)
            raise RequestError(f"column {name} is in several tables: say {names}")
        if having:
            return self.column(having[0], name)
        prefix, _, rest = name.rpartition(".")
        for number, table in enumerate(self.tables):
            if table.name == prefix and rest in table.types:
                return self.column(number, rest)
        meant = nearest(name, (column for table in self.tables for column in table.types))
        said = f" (did you mean {meant}?)" if meant else ""
        raise RequestError(f"no column {name}{said}: {column_names(self.tables)}")

    def column(self, table: int, name: str) -> Column:
        """The column of one table; raises RequestError where its files don't agree on it."""
        mixed = self.tables[table].mixed.get(name)
        if mixed is not None:
            raise RequestError(f"column {name} of {self.tables[table].name} can't be used: {mixed}")
        return Column(table, name)

    def statuses(self) -> list[Column]:
        """The columns that say whether a row is ok: one per table of ours."""
        return [
            self.column(i, "status")
            for i, table in enumerate(self.tables)
            if table.is_ours and "status" in table.types
        ]

    def dtype(self, column: Column) -> pl.DataType:
        """The column's type in the joined frames."""
        return self.empty([column]).dtypes[0]

    def label(self, column: Column) -> str:
        """The column as a user may write it."""
        return f"{self.tables[column.table].name}.{column.name}"

    def empty(self, columns: Iterable[Column]) -> pl.DataFrame:
        """A frame without rows that has the columns with their types."""
        types = {column: self.tables[column.table].types[column.name] for column in columns}
        schema = pa.schema([(column.inner, kind) for column, kind in types.items()])
        return pl.DataFrame(schema.empty_table())


def _check_shards(tables: Sequence[Table]) -> None:
    """Raise unless the other tables have a file for each file of the first."""
    first = tables[0]
    for table in tables[1:]:
        for file in first.files:
            if file.shard not in table.by_shard:
                _check_one_table(first, table)
                raise RequestError(
                    f"{table.name} has no file {file.shard}.parquet as {first.name} has: it isn't "
                    "finished, or is split in another way; say --on key or --on uid to join it"
                )


def _check_one_table(first: Table, other: Table) -> None:
    """Raise where a shell has made several tables of what was meant as the files of one."""
    are_files = first.path.is_file() and other.path.is_file()
    if are_files and first.path.parent == other.path.parent and first.types == other.types:
        raise RequestError(
            f"{first.path} and {other.path} are two tables here, and look like files of one: give "
            f"their folder, {first.path.parent}, or a glob in quotes"
        )


# Conditions: polars SQL expressions over the columns of all tables


class Condition:
    """`--where EXPR`, checked against the columns there are and their types.

    A column that several tables have is written `table.column`. As in SQL, a row for which the
    condition is unknown (null, and not-a-number, which polars would take for the largest number)
    doesn't fulfil it.
    """

    def __init__(self, text: str, joined: JoinedTables) -> None:
        self._text = text
        self._joined = joined
        try:
            self._expression = pl.sql_expr(text)
        except PolarsError as error:
            raise self._wrong(str(error)) from error
        if not _row_by_row(self._expression):
            raise self._wrong("it may look at one row only: no aggregate, window or UNNEST")
        self._inputs: list[pl.Expr] = []
        self.columns: set[Column] = set()
        for root in dict.fromkeys(self._expression.meta.root_names()):
            self._add(root)
        self._check()

    def holds(self, frame: pl.DataFrame) -> pl.Series:
        """Whether each row of a joined frame fulfils the condition."""
        try:
            result = frame.select(self._inputs).select(self._expression.alias("holds"))["holds"]
        except PolarsError as error:
            raise self._wrong(str(error)) from error
        return result.fill_null(False) if result.dtype == pl.Boolean else result

    def _add(self, root: str) -> None:
        """Make a name of the expression available: a column, or a table as `table.column`."""
        tables = self._joined.tables
        names = [table.name for table in tables]
        if root not in names or any(root in table.types for table in tables):
            try:
                column = self._joined.find(root)
            except RequestError as error:
                texts = "; a text that is meant stands in single quotes"
                raise RequestError(f"--where {self._text!r}: {error}{texts}") from error
            self.columns.add(column)
            self._inputs.append(self._input(column).alias(root))
            return
        number = names.index(root)
        named = [name for name in tables[number].types if name in self._text]
        if not named:
            raise self._wrong(f"no column of {root} is named as {root}.column")
        columns = [self._joined.column(number, name) for name in named]
        self.columns.update(columns)
        fields = [self._input(column).alias(column.name) for column in columns]
        self._inputs.append(pl.struct(fields).alias(root))

    def _input(self, column: Column) -> pl.Expr:
        value = pl.col(column.inner)
        return value.fill_nan(None) if self._joined.dtype(column).is_float() else value

    def _check(self) -> None:
        """Raise unless the expression can be computed and says yes or no."""
        if not self.columns:
            raise self._wrong("it names no column")
        dtype = self.holds(self._joined.empty(self.columns)).dtype
        if dtype != pl.Boolean:
            raise self._wrong(f"it gives {dtype}, not yes or no: compare it with something")

    def _wrong(self, reason: str) -> RequestError:
        line = " ".join(reason.split("\n\n")[0].split())
        return RequestError(
            f"--where {self._text!r}: {line}; an SQL condition over these columns is needed: "
            f"{column_names(self._joined.tables)}"
        )


def _row_by_row(expression: pl.Expr) -> bool:
    """Whether each row's value depends on that row alone, however the rows are split."""
    meta = expression.meta
    if meta.is_literal():
        return True
    try:
        alone = meta.is_row_separable() and (not meta.root_names() or meta.is_length_preserving())
    except PolarsError:  # a function (IN) that needs the columns' types to say so: see its inputs
        alone = True
    return alone and all(_row_by_row(part) for part in meta.pop())


# The request as it is meant


class FilterPlan:
    """A request that fits its tables; raises RequestError where it doesn't."""

    def __init__(self, options: CutOptions, tables: Sequence[Table], needs_uid: bool) -> None:
        self.options = options
        self.joined = JoinedTables(tables, options.on)
        self.first = tables[0]
        """The table whose rows are decided."""
        self.ids = RowIds(self.first, needs_uid)
        self.statuses = self.joined.statuses()
        where = options.where
        self.condition = None if where is None else Condition(where, self.joined)
        self.score = _score(options, self.joined)
        self.per = None if options.per is None else _group(options.per, self.joined)

    @property
    def columns(self) -> set[Column]:
        """All columns that say whether a row is kept."""
        found = {*self.statuses, *(self.condition.columns if self.condition else ())}
        return found | {column for column in (self.score, self.per) if column is not None}

    @property
    def fingerprint(self) -> dict[str, str]:
        """What was asked for: decisions of another request aren't replaced by accident."""
        asked = {name: str(v) for name, v in asdict(self.options).items() if v is not None}
        by = {} if self.score is None else {"by": self.joined.label(self.score)}
        return asked | by | {"tables": ", ".join(table.name for table in self.joined.tables)}


def _score(options: CutOptions, joined: JoinedTables) -> Column | None:
    """The column of the score; None where a condition alone decides and there is none."""
    if options.by is not None:
        column = joined.find(options.by)
    else:
        having = [i for i, table in enumerate(joined.tables) if SCORE in table.types]
        if not options.is_ranked and options.min_score is None:
            return joined.column(having[0], SCORE) if having else None
        column = joined.find(SCORE) if having else _only_score(joined)
    dtype = joined.dtype(column)
    if not dtype.is_numeric():
        raise RequestError(f"--by {joined.label(column)}: holds {dtype}, a cut needs numbers")
    return column


def _only_score(joined: JoinedTables) -> Column:
    """The score where no table has a quality_score; raises RequestError that names the columns."""
    found = [(i, find_score(table.types)) for i, table in enumerate(joined.tables)]
    named = [(i, name) for i, name in found if name is not None]
    if len(named) != 1:
        raise RequestError(
            f"which column is the score? Say --by COLUMN; {column_names(joined.tables)}"
        )
    return joined.column(*named[0])


def _group(name: str, joined: JoinedTables) -> Column:
    column = joined.find(name)
    dtype = joined.dtype(column)
    if dtype.is_nested():
        raise RequestError(f"--per {name}: holds {dtype}, groups need single values")
    return column
