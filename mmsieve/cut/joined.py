"""Several tables as one: the rows of the first, and the columns of all."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Literal, TypeAlias

import polars as pl
import pyarrow as pa

from mmsieve.cut.inputs import Table, TableFile, column_names
from mmsieve.cut.lookup import ON, DuplicateError, Lookup, look_up
from mmsieve.errors import RequestError, Status
from mmsieve.table import COMMON, METADATA

On: TypeAlias = Literal["key", "uid"]

_SHARED = frozenset([*COMMON.names, METADATA.name])
"""Columns that every table of ours has: without a prefix they are the first table's."""
_KEY, _NTH = "#key", "#nth"


@dataclass(frozen=True, slots=True, order=True)
class Column:
    """A column of one of the tables."""

    table: int
    name: str

    @property
    def inner(self) -> str:
        """Its name in the joined frames, where no two columns share one."""
        return f"{self.table}:{self.name}"


class Joined:
    """The tables of a request, joined shard by shard, or by the values of a column."""

    def __init__(self, tables: Sequence[Table], on: On | None) -> None:
        self.tables = tables
        self.on = on
        self.notes: list[str] = []
        if on is None:
            _check_cuts(tables)
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
        raise RequestError(f"no column {name}: {column_names(self.tables)}")

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

    def scan(self, columns: set[Column], folder: Path) -> Iterator[tuple[TableFile, pl.DataFrame]]:
        """All rows in order, each frame with the file of the first table that it is from.

        A file may come in several frames. `folder` takes what a join by values keeps on disk.
        """
        wanted = [sorted(c.name for c in columns if c.table == i) for i in range(len(self.tables))]
        wanted[0] = wanted[0] or list(self.tables[0].types)[:1]  # a frame needs a column for rows
        lookups: dict[int, Lookup] = {}
        if self.on is not None:
            used = [i for i in range(1, len(self.tables)) if wanted[i]]
            lookups = {i: self._look_up(i, self.on, wanted[i], folder) for i in used}
        whole = self.on is None and len(self.tables) > 1
        for file in self.tables[0].files:
            names = list({*wanted[0], "key"} if whole else wanted[0])
            for frame in self.tables[0].read(file, names, whole):
                parts = [_inner(frame, 0)]
                if whole:
                    parts += [
                        self._aligned(i, file.shard, wanted[i], frame["key"].cast(pl.String))
                        for i in range(1, len(self.tables))
                    ]
                parts += [lookup.take(frame.height) for lookup in lookups.values()]
                yield file, pl.concat(parts, how="horizontal")

    def _aligned(self, number: int, shard: str, names: list[str], keys: pl.Series) -> pl.DataFrame:
        """Another table's rows of the same shard, in the order of the first table's keys."""
        table = self.tables[number]
        (frame,) = table.read(table.by_shard[shard], list({*names, "key"}), whole=True)
        frame = frame.with_columns(frame["key"].cast(pl.String))
        if not frame["key"].equals(keys):
            aligned = _reordered(frame, keys)
            if aligned is None:
                raise RequestError(
                    f"{shard} has other samples in {table.name} than in {self.tables[0].name}: "
                    "score the same SOURCEs, or say --on key or --on uid"
                )
            frame = aligned
        return _inner(frame.select(names), number)

    def _look_up(self, number: int, on: On, names: list[str], parent: Path) -> Lookup:
        """Another table's columns by the values of the join column."""
        first, table = self.tables[0], self.tables[number]
        ours = table.is_ours and "status" in table.types
        read = list({*names, on, *(["status"] if ours else [])})

        def others() -> Iterator[pl.DataFrame]:
            for file in table.files:
                for frame in table.read(file, read, whole=False):
                    if ours:
                        frame = frame.filter(pl.col("status") != Status.DUPLICATE_KEY)
                    values = frame[on].cast(pl.String).alias(ON)
                    yield _inner(frame.select(names), number).with_columns(values)

        empty = self.empty(self.column(number, name) for name in names)
        rows = (frame[on] for file in first.files for frame in first.read(file, [on], whole=False))
        try:
            lookup = look_up(
                rows,
                others(),
                empty.with_columns(pl.Series(ON, [], pl.String)),
                table.rows,
                Path(mkdtemp(dir=parent)),
            )
        except DuplicateError as error:
            raise RequestError(
                f"{table.name} has {on} {error} more than once, so it isn't known which row is "
                "meant: make its values unique, or join --on the other of key and uid"
            ) from error
        if not lookup.matched:
            raise RequestError(
                f"no row of {first.name} is in {table.name} by its {on}: join --on the other of "
                "key and uid, or give tables of the same samples"
            )
        self.notes.append(f"{lookup.matched} of {first.rows} rows found in {table.name} by {on}")
        return lookup


def _inner(frame: pl.DataFrame, table: int) -> pl.DataFrame:
    return frame.rename({name: Column(table, name).inner for name in frame.columns})


def _reordered(frame: pl.DataFrame, keys: pl.Series) -> pl.DataFrame | None:
    """The frame's rows in the order of `keys`, a repeated key's rows in their own order.

    None where the frame doesn't have exactly these keys.
    """
    nth = pl.int_range(pl.len(), dtype=pl.UInt32).over(_KEY).alias(_NTH)
    left = pl.DataFrame({_KEY: keys}).with_columns(nth)
    right = frame.with_columns(pl.col("key").alias(_KEY)).with_columns(nth)
    joined = left.join(right, on=[_KEY, _NTH], how="inner", maintain_order="left")
    if not joined.height == left.height == right.height:
        return None
    return joined.drop(_KEY, _NTH)


def _check_cuts(tables: Sequence[Table]) -> None:
    """Raise unless the other tables have a file for each file of the first."""
    first = tables[0]
    for table in tables[1:]:
        for file in first.files:
            if file.shard not in table.by_shard:
                raise RequestError(
                    f"{table.name} has no file {file.shard}.parquet as {first.name} has: it isn't "
                    "finished, or is cut in another way; say --on key or --on uid to join it"
                )
