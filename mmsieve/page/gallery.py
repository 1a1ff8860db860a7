"""The samples of a gallery, fetched from their shards: texts and small pictures, as they read."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import Image as PillowImage

from mmsieve.errors import RequestError, SampleError, ShardError
from mmsieve.images import ImageLimits, decode
from mmsieve.page.numbers import Shown
from mmsieve.read import ReadOptions, open_shard, parse_record
from mmsieve.read.ranges import split_files
from mmsieve.sample import Image, Sample, Text
from mmsieve.sources import Shard, find_files

_SIDE = 320
"""Longest side of a picture on the page."""
_SMALL = 128
"""Pictures up to this side are kept to the pixel."""
_QUALITY = 80
_MOST_PARTS = 24
_MOST_LETTERS = 2000


@dataclass(frozen=True)
class Piece:
    """A part of a sample on the page: a text, or a picture as a data URI."""

    text: str = ""
    picture: str = ""
    problem: str = ""
    """Why a picture can't be shown."""


@dataclass(frozen=True)
class Content:
    """A sample as it reads."""

    pieces: tuple[Piece, ...] = ()
    more: str = ""
    """What was left out."""


Key = tuple[str, str]
"""Shard and key of a sample."""


def fetch(
    wanted: Iterable[Shown], sources: Sequence[str], read: ReadOptions
) -> tuple[dict[Key, Content], list[str]]:
    """The content of samples by shard and key, and notes on what was not found.

    Shards are named as when they were scored: give the same SOURCEs.
    """
    by_shard: dict[str, set[str]] = {}
    for shown in wanted:
        by_shard.setdefault(shown.shard, set()).add(shown.key)
    if not sources:
        return {}, ["no shards were given, so there are no pictures: name them after the tables"]
    shards = {shard.name: shard for shard in split_files(find_files(sources).files, read)}
    found: dict[Key, Content] = {}
    notes: list[str] = []
    missing = sorted(by_shard.keys() - shards.keys())
    if len(missing) == len(by_shard) > 0:
        raise RequestError(
            f"shard {missing[0]!r} of the table is not among the SOURCEs ({len(shards)} shards): "
            "give the same ones as to score"
        )
    notes += [f"shard {name} is not among the shards given" for name in missing]
    for name in sorted(by_shard.keys() & shards.keys()):
        try:
            found |= _read(shards[name], by_shard[name], read)
        except ShardError as error:
            notes.append(f"shard {name} could not be read to its end: {error}")
    return found, notes


def _read(shard: Shard, wanted: set[str], read: ReadOptions) -> dict[Key, Content]:
    """The content of a shard's samples; of a key that comes twice, the first."""
    found: dict[Key, Content] = {}
    with open_shard(shard, read) as reader:
        for record in reader.records:
            place = shard.name, record.key
            if record.key not in wanted or place in found:
                continue
            try:
                found[place] = _content(parse_record(reader.parse, record))
            except SampleError as error:
                found[place] = Content((Piece(problem=str(error)),))
            if len(found) == len(wanted):
                break
    return found


def _content(sample: Sample) -> Content:
    told = (Text(f"{turn.role}: {turn.text}") for turn in sample.turns)
    all_parts = (*sample.parts, *told)
    parts = all_parts[:_MOST_PARTS]
    pieces = tuple(
        Piece(text=_clipped(part.text)) if isinstance(part, Text) else _picture(part)
        for part in parts
    )
    left = len(all_parts) - len(parts)
    return Content(pieces, f"{left} more parts" if left else "")


def _clipped(text: str) -> str:
    """The text as it can be written to a file, cut where it would fill the page."""
    clean = text.encode("utf-8", "replace").decode("utf-8")
    left = len(clean) - _MOST_LETTERS
    return clean if left <= 0 else f"{clean[:_MOST_LETTERS]} ... ({left:,} more characters)"


def _picture(part: Image) -> Piece:
    try:
        pixels = decode(part.data, ImageLimits(), part.frame, orient=True, fast=False)
    except SampleError as error:
        return Piece(problem=f"{error.status}: {error}")
    image = PillowImage.fromarray(pixels)
    small = max(image.size) <= _SMALL
    image.thumbnail((_SIDE, _SIDE))
    buffer = BytesIO()
    if small:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=_QUALITY)
    kind = "png" if small else "jpeg"
    return Piece(picture=f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}")
