"""What a notebook shows of a run: its first samples, small, with their rows."""

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import PIL.Image

from mmsieve.errors import MmsieveError, SampleError
from mmsieve.images import ImageLimits, decode
from mmsieve.read import ReadOptions, ShardReader, parse_record
from mmsieve.read.shards import open_shard
from mmsieve.sample import Sample, Text
from mmsieve.sources import Shard
from mmsieve.tables import COMMON, METADATA, open_file, read_frames

_ROWS, _COLUMNS = 5, 6
_SIDE = 96
_MOST_TEXT = 160
_HIDDEN = {*COMMON.names, METADATA.name}


@dataclass(frozen=True)
class FirstRows:
    """The shard whose first rows are shown, and its file in the table."""

    shard: Shard
    read: ReadOptions
    file: Path

    def html(self) -> str:
        """A table of pictures, texts and values; without the pictures where they can't be read."""
        frame = next(iter(read_frames([self.file], self._columns(), _ROWS))).head(_ROWS)
        names = [name for name in frame.columns if name not in _HIDDEN][:_COLUMNS]
        try:
            with open_shard(self.shard, self.read) as reader:
                shown = list(islice(_shown(reader), _ROWS))
        except MmsieveError:
            shown = []
        titles = "".join(f"<th>{escape(title)}</th>" for title in ("", "key", "status", *names))
        rows = [f"<tr>{titles}</tr>"]
        for number, row in enumerate(frame.iter_rows(named=True)):
            first = shown[number] if number < len(shown) else ""
            values = [row["key"], row["status"], *(row[name] for name in names)]
            cells = "".join(f"<td>{escape(_short(value))}</td>" for value in values)
            rows.append(f"<tr><td>{first}</td>{cells}</tr>")
        return f"<table>{''.join(rows)}</table>"

    def _columns(self) -> list[str]:
        with open_file(self.file) as file:
            return [str(name) for name in file.schema_arrow.names]


def _shown(reader: ShardReader) -> Iterator[str]:
    """Of each sample its first picture and the beginning of its text."""
    for record in reader.records:
        try:
            sample = parse_record(reader.parse, record)
        except SampleError as error:
            yield escape(str(error.status))
            continue
        yield f"{_thumbnail(sample)}<br>{escape(_short(_text(sample)))}"


def _text(sample: Sample) -> str:
    texts = [part.text for part in sample.parts if isinstance(part, Text)]
    return " ".join([*texts, *(turn.text for turn in sample.turns)])


def _thumbnail(sample: Sample) -> str:
    for image in sample.images[:1]:
        try:
            picture = PIL.Image.fromarray(decode(image.data, ImageLimits(), image.frame))
        except SampleError as error:
            return escape(str(error.status))
        picture.thumbnail((_SIDE, _SIDE))
        file = BytesIO()
        picture.save(file, "JPEG")
        return f'<img src="data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}">'
    return ""


def _short(value: Any) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else "" if value is None else str(value)
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}..."
