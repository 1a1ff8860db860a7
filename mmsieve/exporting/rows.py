"""Rows of Parquet and Arrow files, written as they came.

The same columns, types and metadata, in the order of the file, and, in Parquet, the same codec.
Final captions take the place of theirs; what they were, and their scores, come beside them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mmsieve.errors import RequestError, SampleError, ShardError
from mmsieve.exporting.captions import ORIGINAL, SCORE, CaptionEdit
from mmsieve.read.parquet import ArrowRows, holds_bytes, open_parquet, rows_at_once
from mmsieve.sources import unpacked
from mmsieve.stores.folders import as_local

Places: TypeAlias = npt.NDArray[np.int64]
PARQUET, ARROW = ".parquet", ".arrow"
_GROUP_BYTES = 64 << 20
_GROUP_ROWS = 1 << 14
"""A row group is as large as the first of these lets it be."""


@contextmanager
def read_errors(path: Path) -> Iterator[None]:
    """Name the file that can't be read, in a RequestError."""
    try:
        yield
    except (OSError, ShardError, SampleError, pa.ArrowException) as error:
        raise RequestError(f"{path}: can't be read: {error}") from error


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A file's content, unpacked where it is compressed; RequestError where it can't be read."""
    with (
        read_errors(path),
        as_local(path) as here,
        unpacked(str(here)) as content,
        Path(content).open("rb") as file,
    ):
        yield file


@dataclass(frozen=True)
class ItemsOf:
    """Items, or rows, of a local file, at some places."""

    path: Path
    places: Places
    """Ascending."""
    suffix: str
    """Of what is in the file."""


def no_such_item(place: int) -> ShardError:
    """The error for a place that a file doesn't have."""
    return ShardError(f"has no item {place} any more: make its table again")


# Rows as they came


def read_schema(path: Path) -> pa.Schema:
    """The columns of a Parquet file; raises RequestError where it can't be read."""
    with opened(path) as file:
        return open_parquet(file).schema_arrow


def write_rows(
    out: Path, parts: Sequence[ItemsOf], edit: CaptionEdit | None, as_arrow: bool
) -> None:
    """Write rows of files that have the same columns; with an edit, final captions among them.

    Raises RequestError for a file that can't be read, or has no such row.
    """
    with _source(parts[0]) as (schema, codec, _):
        schema = schema if edit is None else _with_columns(schema)
    with open_rows(out, schema, None if as_arrow else codec) as write:
        for part in parts:
            for table in _chosen(part, edit, schema):
                write(table)


@contextmanager
def _source(part: ItemsOf) -> Iterator[tuple[pa.Schema, str, Iterator[pa.RecordBatch]]]:
    """A file's columns, the codec that most of it has, and its rows."""
    if part.suffix == ARROW:
        with read_errors(part.path):
            rows = ArrowRows(str(part.path))
            yield rows.schema, "snappy", rows.batches()
        return
    with opened(part.path) as file:
        found = open_parquet(file)
        yield found.schema_arrow, _codec(found), _batches(found)


def _codec(file: pq.ParquetFile) -> str:
    if not file.num_row_groups:
        return "snappy"
    group = file.metadata.row_group(0)
    columns = map(group.column, range(group.num_columns))
    largest = max(columns, key=lambda column: int(column.total_compressed_size))
    name = str(largest.compression).lower()
    return {"uncompressed": "none", "lz4_raw": "lz4"}.get(name, name)


def _batches(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    for group in range(file.num_row_groups):
        at_once = rows_at_once(file, group, file.schema_arrow.names)
        yield from file.iter_batches(at_once, row_groups=[group])


def _chosen(part: ItemsOf, edit: CaptionEdit | None, schema: pa.Schema) -> Iterator[pa.Table]:
    first = 0
    with _source(part) as (_, _, batches):
        for batch in batches:
            low, high = np.searchsorted(part.places, [first, first + batch.num_rows])
            if low < high:
                places = part.places[low:high]
                table = pa.table(batch).take(pa.array(places - first))
                table = table if edit is None else _edited(table, places, edit)
                # pyarrow's cast breaks off at lists of objects that have a column of type null
                yield table if table.schema.equals(schema) else table.cast(schema)
            first += batch.num_rows
        if len(part.places) and part.places[-1] >= first:
            raise no_such_item(part.places[-1])


def _with_columns(schema: pa.Schema) -> pa.Schema:
    """The columns, and those that say of a final caption what it was, and its score."""
    for name, type_ in ((ORIGINAL, pa.string()), (SCORE, pa.float32())):
        if name not in schema.names:
            schema = schema.append(pa.field(name, type_))
    return schema


def _edited(table: pa.Table, places: Places, edit: CaptionEdit) -> pa.Table:
    """A table with final captions: only the columns that hold them are made anew."""
    read = [name for name, type_ in _types(table.schema) if not holds_bytes(type_)]
    rows = table.select(read).to_pylist()
    found = [edit.fields(place, row) for place, row in zip(places.tolist(), rows, strict=True)]
    for name in (*dict.fromkeys(name for fields in found for name in fields), ORIGINAL, SCORE):
        is_there = name in table.schema.names
        kept = table[name].to_pylist() if is_there else [None] * len(found)
        values = [fields.get(name, value) for fields, value in zip(found, kept, strict=True)]
        type_ = _with_columns(table.schema).field(name).type
        column = pa.array(values, type_)
        at = table.schema.names.index(name) if is_there else table.num_columns
        table = (
            table.set_column(at, name, column) if is_there else table.append_column(name, column)
        )
    return table


def _types(schema: pa.Schema) -> Iterator[tuple[str, pa.DataType]]:
    return zip(schema.names, schema.types, strict=True)


@contextmanager
def open_rows(
    out: Path, schema: pa.Schema, codec: str | None
) -> Iterator[Callable[[pa.Table], None]]:
    """What takes tables for a new file, in groups of rows of a bounded size: a Parquet file with
    a codec, or, without, an Arrow stream, as `datasets` writes them."""
    waiting: list[pa.Table] = []

    def flush() -> None:
        if waiting:
            writer.write_table(pa.concat_tables(waiting).combine_chunks())
            waiting.clear()

    def write(table: pa.Table) -> None:
        waiting.append(table)
        size, rows = sum(t.nbytes for t in waiting), sum(t.num_rows for t in waiting)
        if size >= _GROUP_BYTES or rows >= _GROUP_ROWS:
            flush()

    with (
        pa.ipc.new_stream(out, schema)
        if codec is None
        else pq.ParquetWriter(out, schema, compression=codec)
    ) as writer:
        yield write
        flush()
