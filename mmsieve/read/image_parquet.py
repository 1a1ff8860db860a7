"""Image-text Parquet, as on the Hugging Face hub: an image column and a text column."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmsieve.errors import RequestError, SampleError, ShardError, Status
from mmsieve.read.records import ReadOptions, Record, duplicate
from mmsieve.sample import Image, Sample, Text

_IMAGE_NAMES = ("image", "images", "jpg", "img")
_TEXT_NAMES = ("caption", "text", "txt", "TEXT", "alt_text", "caption_text")
_KEY_NAMES = ("__key__", "key", "id", "idx")
_BATCH_ROWS = 64


def read_records(
    file: pq.ParquetFile, start: int, stop: int, stem: str, parser: "Parser"
) -> Iterator[Record]:
    """The rows of a range; raises ShardError where a page can't be read."""
    seen: set[str] = set()
    number = start
    try:
        for row in _rows(file, start, stop):
            value = row.get(parser.key_column) if parser.key_column else None
            key = f"{stem}-{number:09d}" if value is None else str(value)
            yield Record(key, row, duplicate(key) if key in seen else None)
            seen.add(key)
            number += 1
    except (pa.ArrowException, OSError) as error:
        raise ShardError(f"unreadable from row {number}: {error}") from error


class Parser:
    """Row -> caption pair."""

    def __init__(self, schema: pa.Schema, options: ReadOptions) -> None:
        self.image_column = _pick(schema, options.image_column, _IMAGE_NAMES, "image")
        self.text_column = _pick(schema, options.text_column, _TEXT_NAMES, "text")
        self.key_column = next((name for name in _KEY_NAMES if name in schema.names), None)
        self.root = None if options.images is None else os.path.realpath(options.images)

    def __call__(self, record: Record) -> Sample:
        """The caption pair of one row; raises SampleError."""
        text = record.fields[self.text_column]
        if text is None:
            raise SampleError(Status.TEXT_MISSING, f"column {self.text_column} is null")
        image = self._image(record.fields[self.image_column])
        columns = (self.image_column, self.text_column)
        metadata = {name: value for name, value in record.fields.items() if name not in columns}
        return Sample(record.key, (image, Text(str(text))), "caption", metadata)

    def _image(self, value: Any) -> Image:
        path = value.get("path") if isinstance(value, dict) else None
        data = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(data, bytes):
            return Image(data)
        if path is None or self.root is None:
            raise SampleError(Status.IMAGE_MISSING, f"column {self.image_column} has no bytes")
        full = os.path.realpath(os.path.join(self.root, str(path)))  # noqa: PTH118
        if os.path.commonpath([full, self.root]) != self.root:
            raise SampleError(Status.IMAGE_MISSING, f"path {path!r} leaves the images folder")
        try:
            return Image(Path(full).read_bytes())
        except (OSError, ValueError) as error:
            raise SampleError(Status.IMAGE_MISSING, f"{path!r} can't be read: {error}") from error


def _rows(file: pq.ParquetFile, start: int, stop: int) -> Iterator[dict[str, Any]]:
    """Rows start..stop, decoding only the row groups that hold them."""
    first = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        begin, end = max(start - first, 0), min(stop - first, rows)
        if begin < end:
            position = 0
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group]):
                low, high = max(begin - position, 0), min(end - position, batch.num_rows)
                if low < high:
                    yield from batch.slice(low, high - low).to_pylist()
                position += batch.num_rows
                if position >= end:
                    break
        first += rows


def _pick(schema: pa.Schema, asked: str | None, usual: tuple[str, ...], what: str) -> str:
    """The column that was asked for, or the first with a usual name."""
    names = list(schema.names)
    if asked is not None and asked not in names:
        raise RequestError(f"no column {asked!r} for --{what}-column; there are {names}")
    found = asked or next((name for name in usual if name in names), None)
    if found is None:
        raise RequestError(f"which column is the {what}? Say --{what}-column; there are {names}")
    return found
