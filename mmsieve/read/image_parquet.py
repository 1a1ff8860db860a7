"""Image-text Parquet, as on the Hugging Face hub: an image column and a text column."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from mmsieve.errors import SampleError, ShardError, Status
from mmsieve.listing import one_line
from mmsieve.read.captions import decode_text
from mmsieve.read.columns import holds_bytes, is_image, is_key, is_text, json_value, pick
from mmsieve.read.image_folder import ImageFolder
from mmsieve.read.records import ReadOptions, Record, duplicate
from mmsieve.sample import Image, Kind, Sample, Text

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
