"""The samples of a gallery, fetched from their shards: texts and small pictures, as they read."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import Image as PillowImage

from mmsieve.errors import RequestError, SampleError, ShardError
from mmsieve.images import ImageLimits, decode
from mmsieve.page.inputs import Judged
from mmsieve.page.places import Places
from mmsieve.page.samples import Shown, clipped
from mmsieve.read import ReadOptions, open_shard, parse_record
from mmsieve.sample import Image, Sample, Text
from mmsieve.sources import Shard

_SIDE = 320
"""Longest side of a picture on the page."""
_SMALL = 128
"""Pictures up to this side are kept to the pixel."""
_QUALITY = 80
_MOST_PARTS = 24


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
    wanted: Sequence[tuple[Judged, Sequence[Shown]]], sources: Sequence[str], read: ReadOptions
) -> tuple[list[dict[Key, Content]], list[str]]:
    """Of each table the content of its samples, and notes on what was not found."""
    found: list[dict[Key, Content]] = [{} for _ in wanted]
    if not sources:
        if not any(shown for _, shown in wanted):
            return found, []
        return found, [
            "no shards were given, so there are no pictures: name them, or instruction files, "
            "after the tables"
        ]
    takers, notes = _places(wanted, Places(sources, read))
    if notes and not takers:
        raise RequestError(f"{notes[0]}: give the same ones as to make it")
    for shard, keys in takers.items():
        try:
            for key, content in _read(shard, set(keys), read):
                for number, place in keys[key]:
                    found[number][place] = content
        except ShardError as error:
            notes.append(f"shard {shard.name} could not be read to its end: {error}")
    return found, notes


def _places(
    wanted: Sequence[tuple[Judged, Sequence[Shown]]], places: Places
) -> tuple[dict[Shard, dict[str, list[tuple[int, Key]]]], list[str]]:
    """Shard -> key -> the table, by its number, and the name of each sample; and what isn't there.

    A shard is read once, however many tables are about it.
    """
    takers: dict[Shard, dict[str, list[tuple[int, Key]]]] = {}
    problems: dict[str, None] = {}
    for number, (judged, shown) in enumerate(wanted):
        for one in shown:
            shard, problem = places.find(one.shard, judged.sizes.get(one.shard, 0))
            if shard is None:
                problems[problem] = None
                continue
            keys = takers.setdefault(shard, {})
            keys.setdefault(one.key, []).append((number, (one.shard, one.key)))
    return takers, list(problems)


def _read(shard: Shard, wanted: set[str], read: ReadOptions) -> Iterator[tuple[str, Content]]:
    """The content of a shard's samples; of a key that comes twice, the first."""
    with open_shard(shard, read) as reader:
        for record in reader.records:
            if record.key not in wanted:
                continue
            wanted.remove(record.key)
            try:
                yield record.key, _content(parse_record(reader.parse, record))
            except SampleError as error:
                yield record.key, Content((Piece(problem=str(error)),))
            if not wanted:
                break


def _content(sample: Sample) -> Content:
    told = (Text(f"{turn.role}: {turn.text}") for turn in sample.turns)
    all_parts = (*sample.parts, *told)
    parts = all_parts[:_MOST_PARTS]
    pieces = tuple(
        Piece(text=clipped(part.text)) if isinstance(part, Text) else _picture(part)
        for part in parts
    )
    left = len(all_parts) - len(parts)
    return Content(pieces, f"{left} more parts" if left else "")


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
