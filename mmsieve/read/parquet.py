"""Parquet files of image-text pairs: which column is what, and rows as records."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from mmsieve.errors import RequestError, SampleError, ShardError, Status
from mmsieve.read.captions import decode_text
from mmsieve.read.records import ImageFolder, ReadOptions, Record, duplicate
from mmsieve.sample import Image, Kind, Sample, Text
from mmsieve.sources import one_line

# Columns of a Parquet file: which one is the image, the text, the key, by name and type


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


# Image-text Parquet, as on the Hugging Face hub: an image column and a text column

_IMAGE_NAMES = ("image", "images", "jpg", "img")
_TEXT_NAMES = ("caption", "text", "txt", "TEXT", "alt_text", "caption_text")
_KEY_NAMES = ("__key__", "key", "id", "idx")
_BATCH_ROWS = 32


def open_parquet(file: Any) -> pq.ParquetFile:
    """A Parquet file, read in bounded pieces: a column of images may be larger than memory."""
    try:
        return pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise ShardError(f"not a Parquet file: {one_line(error)}") from error


class Rows(Protocol):
    """What a layout takes of a Parquet file."""

    columns: list[str]
    """The columns that are read."""

    def key(self, row: Mapping[str, Any], stem: str, number: int) -> str:
        """The key of a row, of which it is given the file's stem and the row's number too."""
        ...


def read_records(
    file: pq.ParquetFile, start: int, stop: int, stem: str, rows: Rows
) -> Iterator[Record]:
    """The rows of a range; raises ShardError where a page can't be read."""
    seen: set[str] = set()
    number = start
    try:
        for row in _rows(file, start, stop, rows.columns):
            key = rows.key(row, stem, number)
            yield Record(key, row, duplicate(key) if key in seen else None)
            seen.add(key)
            number += 1
    except (pa.ArrowException, OSError) as error:
        raise ShardError(f"unreadable from row {number}: {one_line(error)}") from error
    if number != stop:
        raise ShardError(f"ends at row {number}, expected {stop}: the file has changed")


class Parser:
    """Row -> caption pair, or a document where a row has several images."""

    def __init__(self, schema: pa.Schema, options: ReadOptions) -> None:
        types = dict(zip(schema.names, schema.types, strict=True))
        self.image_column = pick(types, options.image_column, _IMAGE_NAMES, "image", is_image)
        self.text_column = (
            None
            if options.images_only
            else pick(types, options.text_column, _TEXT_NAMES, "text", is_text)
        )
        self.key_column = next((n for n in _KEY_NAMES if n in types and is_key(types[n])), None)
        other = [name for name, type_ in types.items() if not holds_bytes(type_)]
        read = [self.image_column, *([self.text_column] if self.text_column else []), *other]
        self.columns = list(dict.fromkeys(read))
        """What is read: other columns of bytes are no metadata, and may be large."""
        self._folder = None if options.images is None else ImageFolder(options.images)

    def key(self, row: Mapping[str, Any], stem: str, number: int) -> str:
        """The key of a row: that of its column of keys, else the file's stem and the number."""
        value = row.get(self.key_column) if self.key_column else None
        if value is None:
            return f"{stem}-{number:09d}"
        return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)

    def __call__(self, record: Record) -> Sample:
        """The sample of one row; raises SampleError."""
        value = record.fields[self.image_column]
        text = record.fields[self.text_column] if self.text_column else ""
        images = [self._image(item) for item in (value if isinstance(value, list) else [value])]
        if not images:
            raise SampleError(Status.IMAGE_MISSING, f"column {self.image_column} is empty")
        if text is None:
            raise SampleError(Status.TEXT_MISSING, f"column {self.text_column} is null")
        text = decode_text(text) if isinstance(text, bytes) else str(text)
        columns = (self.image_column, self.text_column)
        metadata = {n: json_value(v) for n, v in record.fields.items() if n not in columns}
        kind: Kind = "caption" if len(images) == 1 else "document"
        return Sample(record.key, (*images, Text(text)), kind, metadata)

    def _image(self, value: Any) -> Image:
        fields = value if isinstance(value, dict) else {}
        data = value if isinstance(value, bytes) else fields.get("bytes")
        path = value if isinstance(value, str) else fields.get("path")
        if isinstance(data, bytes):
            return Image(data)
        if not isinstance(path, str) or self._folder is None:
            fix = "" if path is None else f", only the path {path!r}: say --images DIR"
            raise SampleError(
                Status.IMAGE_MISSING, f"column {self.image_column} holds no bytes{fix}"
            )
        return Image(self._folder.read(path))


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
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns):
            low, high = max(begin - position, 0), min(end - position, batch.num_rows)
            if low < high:
                yield from _to_rows(batch.slice(low, high - low))
            position += batch.num_rows
            if position >= end:
                break


def _to_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
    except (ValueError, ArithmeticError, pa.ArrowException):  # a value that Python can't hold
        columns = [[_value(scalar) for scalar in column] for column in batch.columns]
        return [
            dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True)
        ]
    return rows


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
