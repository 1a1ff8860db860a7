"""Parquet files: which column can hold what, by name and type, and rows as records."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pt

from mmsieve.errors import MmsieveError, RequestError, SampleError, ShardError, is_order_to_end
from mmsieve.read import Record
from mmsieve.read.json_items import parse_object
from mmsieve.stores.asking import one_line
from mmsieve.stores.paths import is_stored


def pick(
    types: dict[str, pa.DataType],
    asked: str | None,
    usual: tuple[str, ...],
    what: str,
    fits: Callable[[pa.DataType], bool],
) -> str:
    """The column that was asked for, or the first with a usual name; its type must be right."""
    names = ", ".join(f"{name} ({str(type_)[:40]})" for name, type_ in types.items())
    if asked is not None and asked not in types:
        raise RequestError(f"no column {asked!r} for --{what}-column; there are {names}")
    if asked is not None and not fits(types[asked]):
        raise RequestError(f"--{what}-column {asked}: of type {types[asked]}, no {what}")
    found = asked or next((name for name in usual if name in types and fits(types[name])), None)
    if found is None:
        raise RequestError(f"which column is the {what}? Say --{what}-column; there are {names}")
    return found


def is_text(type_: pa.DataType) -> bool:
    """Whether a column of that type holds texts (or nulls only)."""
    plain = _plain(type_)
    tests = (pt.is_string, pt.is_large_string, pt.is_string_view, pt.is_null)
    return any(test(plain) for test in tests)


def is_texts(type_: pa.DataType) -> bool:
    """Whether a column of that type holds lists of texts."""
    plain = _plain(type_)
    return is_list(plain) and is_text(plain.value_type) and not pt.is_null(plain.value_type)


def is_image(type_: pa.DataType) -> bool:
    """Whether a column of that type can hold images: bytes, a path, both, or a list."""
    plain = _plain(type_)
    if is_list(plain):
        return is_image(plain.value_type)
    if pt.is_struct(plain):
        return any(field.name in ("bytes", "path") for field in plain)
    return _is_bytes(plain) or is_text(plain)


def is_turns(type_: pa.DataType) -> bool:
    """Whether a column of that type can hold the turns of conversations."""
    plain = _plain(type_)
    return is_list(plain) and pt.is_struct(_plain(plain.value_type))


def names_paths(type_: pa.DataType) -> bool:
    """Whether a column of images of that type can hold nothing but paths."""
    plain = _plain(type_)
    if is_list(plain):
        return names_paths(plain.value_type)
    return is_text(plain) and not pt.is_null(plain)


def is_key(type_: pa.DataType) -> bool:
    """Whether a column of that type can name its rows."""
    plain = _plain(type_)
    return pt.is_integer(plain) or (is_text(plain) and not pt.is_null(plain))


def holds_bytes(type_: pa.DataType) -> bool:
    """Whether there are bytes anywhere in a column of that type."""
    plain = _plain(type_)
    if pt.is_struct(plain):
        return any(holds_bytes(field.type) for field in plain)
    if pt.is_map(plain):
        return holds_bytes(plain.key_type) or holds_bytes(plain.item_type)
    return holds_bytes(plain.value_type) if is_list(plain) else _is_bytes(plain)


def json_value(value: Any) -> Any:
    """A column's value as metadata: NaN, which JSON doesn't have, is null as in a json member."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return None if isinstance(value, float) and not math.isfinite(value) else value


def row_metadata(fields: Mapping[str, Any], used: Collection[str]) -> dict[str, Any]:
    """The fields that aren't used, as metadata; a column `json` has the metadata of a pair in a
    tar, or of a document, where its rows were made of such."""
    metadata = {name: json_value(value) for name, value in fields.items() if name not in used}
    told = metadata.get("json")
    with suppress(SampleError):
        told = parse_object(told.encode()) if isinstance(told, str) else told
    if isinstance(told, Mapping):
        del metadata["json"]
        metadata |= told
    return metadata


def _is_bytes(type_: pa.DataType) -> bool:
    tests = (pt.is_binary, pt.is_large_binary, pt.is_fixed_size_binary, pt.is_binary_view)
    return any(test(type_) for test in tests)


def is_list(type_: pa.DataType) -> bool:
    """Whether a type is one of lists."""
    tests = (pt.is_list, pt.is_large_list, pt.is_fixed_size_list)
    return any(test(type_) for test in tests)


def _plain(type_: pa.DataType) -> pa.DataType:
    """The type under an extension type or a dictionary."""
    if isinstance(type_, pa.BaseExtensionType):
        return _plain(type_.storage_type)
    return _plain(type_.value_type) if pt.is_dictionary(type_) else type_


# Rows of a range, decoded in bounded pieces


def open_parquet(file: Any) -> pq.ParquetFile:
    """A Parquet file, read in bounded pieces: a column of images may be larger than memory."""
    try:
        return pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise ShardError(f"not a Parquet file: {one_line(error)}") from error


class ParquetRows:
    """The rows of a Parquet file."""

    def __init__(self, file: Any) -> None:
        """Raises ShardError where it is none."""
        self._file = open_parquet(file)
        metadata = self._file.metadata
        self.schema: pa.Schema = self._file.schema_arrow
        self.groups = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
        """Rows of each row group."""

    def rows(self, start: int, stop: int, columns: list[str]) -> Iterator[dict[str, Any]]:
        """Rows start..stop, decoding only the row groups that hold them."""
        first = 0
        for group, rows in enumerate(self.groups):
            begin, end = max(start - first, 0), min(stop - first, rows)
            first += rows
            if begin >= end:
                continue
            position = 0
            at_once = rows_at_once(self._file, group, columns)
            for batch in self._file.iter_batches(at_once, row_groups=[group], columns=columns):
                low, high = max(begin - position, 0), min(end - position, batch.num_rows)
                if low < high:
                    yield from _to_rows(batch.slice(low, high - low))
                position += batch.num_rows
                if position >= end:
                    break


class ArrowRows:
    """An Arrow file as `datasets` keeps them (save_to_disk, its caches), mapped into memory."""

    def __init__(self, path: str) -> None:
        """Raises ShardError where it is none."""
        try:
            file = pa.memory_map(path)
            try:
                self._table = pa.ipc.open_stream(file).read_all()
            except pa.ArrowInvalid:
                self._table = pa.ipc.open_file(file).read_all()
        except (pa.ArrowException, OSError) as error:
            raise ShardError(f"not an Arrow file: {one_line(error)}") from error
        self.schema: pa.Schema = self._table.schema
        self.groups = [self._table.num_rows]

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows, a bounded number at a time."""
        yield from self._table.to_batches(_BATCH_ROWS)

    def rows(self, start: int, stop: int, columns: list[str]) -> Iterator[dict[str, Any]]:
        """Rows start..stop, of some columns."""
        for batch in self._table.slice(start, stop - start).select(columns).to_batches(_BATCH_ROWS):
            yield from _to_rows(batch)


def read_records(
    file: ParquetRows | ArrowRows,
    start: int,
    stop: int,
    columns: list[str],
    key_of: Callable[[Mapping[str, Any], int], str],
) -> Iterator[Record]:
    """The rows of a range, `key_of` each by its number; ShardError where a page can't be read."""
    number = start
    try:
        for row in file.rows(start, stop, columns):
            yield Record(key_of(row, number), row)
            number += 1
    except (pa.ArrowException, OSError) as error:
        raise ShardError(f"unreadable from row {number}: {one_line(error)}") from error
    if number != stop:
        raise ShardError(f"ends at row {number}, expected {stop}: the file has changed")


def _to_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    try:
        return list(batch.to_pylist())
    except (ValueError, ArithmeticError, pa.ArrowException):  # a value that Python can't hold
        columns = [map(_value, column) for column in batch.columns]
        names = batch.schema.names
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _value(scalar: Any) -> Any:
    """A value as Python's; text that isn't UTF-8 as bytes, what Python can't hold as text."""
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return scalar.as_buffer().to_pybytes() if hasattr(scalar, "as_buffer") else None
    except (ValueError, ArithmeticError, pa.ArrowException):
        try:
            return scalar.cast(pa.string()).as_py()
        except (ValueError, pa.ArrowException):
            return None


# Any Parquet file: what goes wrong is named, what it expands to is bounded: a page may stand
# for a thousand times its size, a dictionary for one large value in every row

_BATCH_ROWS = 32
_BATCH_BYTES = 256 << 20
"""What a batch may take: a dictionary can stand for one large value in every row."""
_MOST_EXPANSION = 1000
"""Beyond this and _BATCH_BYTES a value a column is made to fill memory: images don't compress."""
_MOST_OF_A_GROUP = 3 << 30
"""What such a column of a group may come to: it may stand in one page, which is read at once."""


@contextmanager
def naming_file(path: Path, fix: str) -> Iterator[None]:
    """Turn whatever a library raises over a file, a panic too, into a RequestError with the fix."""
    try:
        yield
    except RequestError:
        raise
    except MmsieveError as error:
        raise RequestError(f"{path}: {error}: {fix}") from error
    except BaseException as error:
        if is_order_to_end(error):
            raise
        if is_stored(path) and isinstance(error, OSError):  # it is the store, and not the file
            fix = "is it there, and may you read it? The same command tries again"
        raise RequestError(f"{path}: can't be read ({one_line(error)}): {fix}") from error


def rows_at_once(file: pq.ParquetFile, group: int, columns: Collection[str]) -> int:
    """How many rows of a group surely fit in memory; raises ShardError where not one may."""
    largest = 1
    for column in _columns(file, group, columns):
        _check_packed(group, column)
        largest = max(largest, column.total_uncompressed_size)
    return min(max(_BATCH_BYTES // largest, 1), _BATCH_ROWS)


def check_expansion(
    path: Path | IO[bytes], file: pq.ParquetFile, group: int, columns: Collection[str]
) -> None:
    """Raise ShardError where a group's columns take far more memory than room in the file."""
    rows = file.metadata.row_group(group).num_rows
    for column in _columns(file, group, columns):
        _check_packed(group, column)
        size, packed = column.total_uncompressed_size, column.total_compressed_size
        if column.physical_type != "BYTE_ARRAY" or not column.has_dictionary_page:
            continue
        most = max(_BATCH_BYTES, _MOST_EXPANSION * packed)
        if max(rows, column.num_values) * size <= most:
            continue
        if (found := _plain_size(path, group, column.path_in_schema, most)) > most:
            raise _packed(group, column, found)


def _columns(
    file: pq.ParquetFile, group: int, columns: Collection[str]
) -> Iterator[pq.ColumnChunkMetaData]:
    metadata = file.metadata.row_group(group)
    for number in range(metadata.num_columns):
        column = metadata.column(number)
        if column.path_in_schema.partition(".")[0] in columns:
            yield column


def _check_packed(group: int, column: pq.ColumnChunkMetaData) -> None:
    size = column.total_uncompressed_size
    most = _MOST_EXPANSION * column.total_compressed_size
    # many values that may each be an image come one at a time
    most = max(most, min(_BATCH_BYTES * max(column.num_values, 1), _MOST_OF_A_GROUP))
    if size > most:
        raise _packed(group, column, size)


def _packed(group: int, column: pq.ColumnChunkMetaData, size: int) -> ShardError:
    name = column.path_in_schema.partition(".")[0]
    packed = f"{column.total_compressed_size:,} bytes of column {name} expand to {size:,}"
    return ShardError(f"row group {group}: {packed}")


def _plain_size(path: Path | IO[bytes], group: int, name: str, most: int) -> int:
    """Bytes of a column's texts without their dictionary, or a number beyond `most`."""
    total = 0
    with pq.ParquetFile(path, read_dictionary=[name]) as packed:
        for batch in packed.iter_batches(1 << 16, row_groups=[group], columns=[name]):
            array = batch.column(0)
            while not pa.types.is_dictionary(array.type):
                array = array.flatten()[0] if pa.types.is_struct(array.type) else array.flatten()
            lengths = pc.binary_length(array.dictionary).take(array.indices)
            total += pc.sum(lengths).as_py() or 0
            if total > most:
                break
    return total
