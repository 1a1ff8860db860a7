"""Parquet files: which column can hold what, by name and type, and rows as records."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from mmsieve.errors import RequestError, ShardError
from mmsieve.parquet import rows_at_once
from mmsieve.read import Record, duplicate
from mmsieve.sources import one_line


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


def is_image(type_: pa.DataType) -> bool:
    """Whether a column of that type can hold images: bytes, a path, both, or a list."""
    plain = _plain(type_)
    if _is_list(plain):
        return is_image(plain.value_type)
    if pt.is_struct(plain):
        return any(field.name in ("bytes", "path") for field in plain)
    return _is_bytes(plain) or is_text(plain)


def is_turns(type_: pa.DataType) -> bool:
    """Whether a column of that type can hold the turns of conversations."""
    plain = _plain(type_)
    return _is_list(plain) and pt.is_struct(_plain(plain.value_type))


def names_paths(type_: pa.DataType) -> bool:
    """Whether a column of images of that type can hold nothing but paths."""
    plain = _plain(type_)
    if _is_list(plain):
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
    return holds_bytes(plain.value_type) if _is_list(plain) else _is_bytes(plain)


def json_value(value: Any) -> Any:
    """A column's value as metadata: NaN, which JSON doesn't have, is null as in a json member."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_bytes(type_: pa.DataType) -> bool:
    tests = (pt.is_binary, pt.is_large_binary, pt.is_fixed_size_binary, pt.is_binary_view)
    return any(test(type_) for test in tests)


def _is_list(type_: pa.DataType) -> bool:
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


def read_records(
    file: pq.ParquetFile,
    start: int,
    stop: int,
    columns: list[str],
    key_of: Callable[[Mapping[str, Any], int], str],
) -> Iterator[Record]:
    """The rows of a range, `key_of` each by its number; ShardError where a page can't be read."""
    seen: set[str] = set()
    number = start
    try:
        for row in _rows(file, start, stop, columns):
            key = key_of(row, number)
            yield Record(key, row, duplicate(key) if key in seen else None)
            seen.add(key)
            number += 1
    except (pa.ArrowException, OSError) as error:
        raise ShardError(f"unreadable from row {number}: {one_line(error)}") from error
    if number != stop:
        raise ShardError(f"ends at row {number}, expected {stop}: the file has changed")


def _rows(
    file: pq.ParquetFile, start: int, stop: int, columns: list[str]
) -> Iterator[dict[str, Any]]:
    """Rows start..stop, decoding only the row groups that hold them."""
    first = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        begin, end = max(start - first, 0), min(stop - first, rows)
        first += rows
        if begin >= end:
            continue
        position = 0
        at_once = rows_at_once(file, group, columns)
        for batch in file.iter_batches(at_once, row_groups=[group], columns=columns):
            low, high = max(begin - position, 0), min(end - position, batch.num_rows)
            if low < high:
                yield from _to_rows(batch.slice(low, high - low))
            position += batch.num_rows
            if position >= end:
                break


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
