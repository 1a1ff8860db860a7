"""Several tables as one: the rows of the first, and the columns of all, in bounded memory.

Tables of one run are joined shard by shard. Others are hash joined: both sides are split into
parts by the hash of the join column; each part is joined by itself and kept on disk in the order of
the first table's rows, so that the values can be read back row after row.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Literal, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa

from mmsieve.errors import RequestError, Status
from mmsieve.filtering.ranking import hash_strings
from mmsieve.tables import COMMON, METADATA, Origins, Table, column_names

# What a decision calls a row: its key, its shard, its uid


class RowIds:
    """The columns of a table that say which sample a row is."""

    def __init__(self, table: Table, needs_uid: bool) -> None:
        """Raise RequestError where the table lacks them; a uid serves as key where that is all."""
        is_text = table.types.get("shard") in (pa.string(), pa.large_string())
        has_shard = is_text or (table.is_ours and "shard" in table.types)
        self._shard = "shard" if has_shard else None
        self._uid = "uid" if needs_uid else None
        self._key = "key" if "key" in table.types or not needs_uid else "uid"
        self._place = "place" if table.types.get("place") == pa.int64() else None
        names = (self._key, self._shard, self._uid, self._place)
        self.columns = list(dict.fromkeys(name for name in names if name))
        for column in self.columns:
            if column not in table.types or column in table.mixed:
                raise RequestError(
                    f"{table.name} has no usable column {column} to name samples by: put the "
                    f"table that has it first; {column_names([table])}"
                )

    def of(self, origins: Origins, frame: pl.DataFrame) -> pl.DataFrame:
        """`key`, `shard`, `place` (null where that isn't known) and, where asked for, `uid`."""
        key = frame[self._key].cast(pl.String)
        if self._key == "uid":
            key = key.fill_null("")  # checked where the row is kept
        if key.has_nulls():
            ends = np.cumsum([rows for _, rows in origins])
            first = int(key.is_null().arg_true()[0])
            file = origins[int(np.searchsorted(ends, first, side="right"))][0]
            raise RequestError(f"{file.path}: a row has no {self._key}, so it can't be named")
        names = pl.Series([file.shard for file, _ in origins], dtype=pl.String)
        shard = names.gather(np.repeat(np.arange(len(origins)), [rows for _, rows in origins]))
        if self._shard is not None:
            shard = frame[self._shard].cast(pl.String).fill_null(shard)
        place = pl.repeat(None, frame.height, dtype=pl.Int64, eager=True)
        columns = {
            "key": key,
            "shard": shard,
            "place": frame[self._place] if self._place else place,
        }
        if self._uid is not None:
            columns["uid"] = frame[self._uid].cast(pl.String)
        return pl.DataFrame(columns)


# Hash join: another table's values for rows in order

PART_ROWS = 1 << 19
"""Rows of the other table that one part holds in memory."""
MOST_PARTS = 512
_BUFFER = 1 << 18
_RUN_ROWS = 1 << 13
ON = "on"
"""The join column of both sides."""
ROW = "row"
_PART, _FOUND = "part", "found"


class HashJoin:
    """The joined values, read in the order of the rows."""

    def __init__(self, runs: list[Path], matched: int) -> None:
        self.matched = matched
        """Rows that were found in the other table."""
        self._runs = [_Run(run) for run in runs]
        self._row = 0

    def take(self, count: int) -> pl.DataFrame:
        """The values for the next `count` rows; null where the other table has no such row."""
        self._row += count
        frame = pl.concat([run.take_below(self._row) for run in self._runs]).sort(ROW)
        assert frame.height == count, "every row is in exactly one part"
        return frame.drop(ROW)


def hash_join(
    rows: Iterable[pl.Series],
    other: Iterable[pl.DataFrame],
    empty: pl.DataFrame,
    size: int,
    folder: Path,
) -> HashJoin:
    """Join `rows` (values of the join column) with `other`, which has about `size` rows.

    `other`, and `empty` which shows its types, have the join column as ON, and others to take.
    Raises DuplicateError where one of its values comes twice: which row is meant isn't known.
    """
    parts = min(MOST_PARTS, 1 + size // PART_ROWS)
    none = pl.DataFrame(schema={ON: pl.String, ROW: pl.UInt64})
    right = _partition(_rebatch(other, _BUFFER), empty, parts, folder / "right")
    left = _partition(_rebatch(_numbered(rows), _BUFFER), none, parts, folder / "left")
    runs = [folder / f"run-{part}" for part in range(parts)]
    matched = sum(_join(*files) for files in zip(left, right, runs, strict=True))
    return HashJoin(runs, matched)


class DuplicateError(Exception):
    """A value of the join column that comes more than once."""


class _Run:
    """One part's joined rows, read in order."""

    def __init__(self, path: Path) -> None:
        self._frames = _frames(path)
        self._frame = next(self._frames)

    def take_below(self, row: int) -> pl.DataFrame:
        """The rows not yet taken whose number is below `row`."""
        taken = []
        following: pl.DataFrame | None = self._frame
        while following is not None:
            count = int(following[ROW].search_sorted(row, side="left"))
            taken.append(following.head(count))
            self._frame = following.slice(count)
            following = None if self._frame.height else next(self._frames, None)
        return pl.concat(taken)


def _numbered(rows: Iterable[pl.Series]) -> Iterator[pl.DataFrame]:
    start = 0
    for values in rows:
        numbers = pl.Series(ROW, np.arange(start, start + len(values), dtype=np.uint64))
        yield pl.DataFrame([values.cast(pl.String).alias(ON), numbers])
        start += len(values)


def _rebatch(frames: Iterable[pl.DataFrame], rows: int) -> Iterator[pl.DataFrame]:
    """The same rows in frames of `rows` or somewhat more."""
    waiting: list[pl.DataFrame] = []
    height = 0
    for frame in frames:
        waiting.append(frame)
        height += frame.height
        if height >= rows:
            yield pl.concat(waiting)
            waiting, height = [], 0
    if waiting:
        yield pl.concat(waiting)


def _partition(
    frames: Iterable[pl.DataFrame], empty: pl.DataFrame, parts: int, folder: Path
) -> list[Path]:
    """Append each row to the file of its part."""
    folder.mkdir()
    paths = [folder / str(part) for part in range(parts)]
    with ExitStack() as stack:
        schema = _arrow(empty).schema
        writers = [stack.enter_context(pa.ipc.new_stream(str(path), schema)) for path in paths]
        for frame in frames:
            part = pl.Series(_PART, hash_strings(frame[ON]) % np.uint64(parts))
            for piece in frame.with_columns(part).partition_by(_PART, maintain_order=True):
                writers[piece[_PART][0]].write_table(_arrow(piece.drop(_PART)))
    return paths


def _join(left: Path, right: Path, run: Path) -> int:
    """Join one part and write it in the order of the left rows; returns the number of matches."""
    others = pl.concat(_frames(right)).drop_nulls(ON)
    twice = others.filter(pl.col(ON).is_duplicated())
    if twice.height:
        raise DuplicateError(twice[ON].min())
    others = others.with_columns(pl.lit(True).alias(_FOUND))
    matched = 0
    with ExitStack() as stack:
        writer = None
        for rows in _rebatch(_frames(left), _BUFFER):
            joined = rows.join(others, on=ON, how="left", maintain_order="left").drop(ON)
            matched += joined[_FOUND].count()
            table = _arrow(joined.drop(_FOUND))
            if writer is None:
                writer = stack.enter_context(pa.ipc.new_stream(str(run), table.schema))
            writer.write_table(table, max_chunksize=_RUN_ROWS)
    return matched


def _arrow(frame: pl.DataFrame) -> pa.Table:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def _frames(path: Path) -> Iterator[pl.DataFrame]:
    """The frames of a file, after an empty one that shows its columns."""
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
        yield pl.DataFrame(reader.schema.empty_table())
        for batch in reader:
            yield pl.DataFrame(batch)


# Joined tables: by shard, or by the values of a column

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


class JoinedTables:
    """The tables of a request, joined shard by shard, or by the values of a column."""

    def __init__(self, tables: Sequence[Table], on: On | None) -> None:
        self.tables = tables
        self.on = on
        self.notes: list[str] = []
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

    def scan(self, columns: set[Column], folder: Path) -> Iterator[pl.DataFrame]:
        """All rows of the first table in order, some at a time, with the columns of all.

        `folder` takes what a join by values keeps on disk.
        """
        first, others = self.tables[0], range(1, len(self.tables))
        wanted = [sorted(c.name for c in columns if c.table == i) for i in range(len(self.tables))]
        wanted[0] = wanted[0] or list(first.types)[:1]  # a frame needs a column for rows
        joins: list[HashJoin] = []
        if self.on is not None:
            joins += [self._hash_join(i, self.on, wanted[i], folder) for i in others if wanted[i]]
        by_shard = self.on is None and len(self.tables) > 1
        names = list({*wanted[0], "key"} if by_shard else wanted[0])
        for file in first.files:
            for frame in first.read(file, names, whole=by_shard):
                parts = [_inner(frame, 0), *(join.take(frame.height) for join in joins)]
                if by_shard:
                    keys = frame["key"].cast(pl.String)
                    parts += [self._aligned(i, file.shard, wanted[i], keys) for i in others]
                yield pl.concat(parts, how="horizontal")

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

    def _hash_join(self, number: int, on: On, names: list[str], parent: Path) -> HashJoin:
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
            join = hash_join(
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
        if not join.matched:
            raise RequestError(
                f"no row of {first.name} is in {table.name} by its {on}: join --on the other of "
                "key and uid, or give tables of the same samples"
            )
        self.notes.append(f"{join.matched} of {first.rows} rows found in {table.name} by {on}")
        return join


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


def _check_shards(tables: Sequence[Table]) -> None:
    """Raise unless the other tables have a file for each file of the first."""
    first = tables[0]
    for table in tables[1:]:
        for file in first.files:
            if file.shard not in table.by_shard:
                raise RequestError(
                    f"{table.name} has no file {file.shard}.parquet as {first.name} has: it isn't "
                    "finished, or is split in another way; say --on key or --on uid to join it"
                )
