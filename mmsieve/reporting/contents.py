"""Samples as they read: texts and small pictures, fetched from the shards that tables are about."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TypeAlias

from PIL import Image as PillowImage

from mmsieve.errors import RequestError, SampleError, ShardError
from mmsieve.generation.files import TrainingRecord, parse_training_record
from mmsieve.identity import SourceShards, TableSource
from mmsieve.images import ImageLimits, decode
from mmsieve.read import ReadOptions, Record, parse_record
from mmsieve.read.shards import open_shard, split_files
from mmsieve.reporting.inputs import ReportTable
from mmsieve.reporting.sections import GallerySample, Groups
from mmsieve.reporting.texts import clipped
from mmsieve.sample import Image, Sample, Text
from mmsieve.sources import Shard, find_files
from mmsieve.wording import counted

_SMALL = 64
"""Pictures up to this side are kept to the pixel."""
_MOST_PARTS = 24


@dataclass(frozen=True)
class PictureSize:
    """How small pictures are made."""

    side: int
    """The longest, in pixels."""
    quality: int
    """Of the WebP file."""


LARGE, MANY = PictureSize(320, 75), PictureSize(192, 50)
"""Of a few hundred samples, about 10 kB each; of some thousands, about 5 kB."""


@dataclass(frozen=True)
class ContentPart:
    """A part of a sample: a text, or a picture as a data URI."""

    text: str = ""
    picture: str = ""
    problem: str = ""
    """Why a picture can't be shown."""

    @property
    def kind(self) -> tuple[str, str]:
        """What it is, and it."""
        named = (("picture", self.picture), ("problem", self.problem))
        return next((pair for pair in named if pair[1]), ("text", self.text))


@dataclass(frozen=True)
class SampleContent:
    """A sample as it reads."""

    pieces: tuple[ContentPart, ...] = ()
    more: str = ""
    """What was left out."""


WantedSample: TypeAlias = tuple[ReportTable, GallerySample]
"""A sample, and a table that it is a row of."""
ContentName: TypeAlias = tuple[Path, str, str, int | None]


def name_of(path: Path, one: GallerySample) -> ContentName:
    """Where what it is about lies; shard, key and place of the sample."""
    return path, one.shard, one.key, one.place


def read_labelled(
    path: Path,
    groups: Groups,
    records: Mapping[int, TrainingRecord],
    images: Path | None,
    size: PictureSize,
) -> dict[ContentName, SampleContent]:
    """How labelled texts read, by their names; without a folder of `images` their texts alone.

    `records`: the text of each sample's place.
    """
    contents: dict[ContentName, SampleContent] = {}
    for one in chain.from_iterable(groups.values()):
        record = records[one.place or 0]
        content = SampleContent((ContentPart(text=clipped(record.text)),))
        if images is not None:
            try:
                sample = parse_training_record(images, Record(one.key, {"text": record}))
                content = _content(sample, size)
            except SampleError as error:
                content = SampleContent((*content.pieces, ContentPart(problem=str(error))))
        contents[name_of(path, one)] = content
    return contents


def read_contents(
    wanted: Sequence[WantedSample], sources: Sequence[str], read: ReadOptions, size: PictureSize
) -> tuple[dict[ContentName, SampleContent], list[str]]:
    """How samples read, by their names, and notes on what was not found; each shard is read once.

    Raises RequestError where the sources hold none of the shards.
    """
    found, notes = _find(wanted, split_files(find_files(sources).files, read))
    if notes and not found:
        raise RequestError(f"{notes[0]}: give the same ones as to make it")
    contents: dict[ContentName, SampleContent] = {}
    for shard, samples in found.items():
        try:
            for name, content in _read(shard, set(samples), read, size):
                contents.update({name_of(table.path, one): content for table, one in samples[name]})
        except ShardError as error:
            notes.append(f"shard {shard.name} could not be read to its end: {error}")
    return contents, notes


_Name: TypeAlias = int | str
"""A sample in its shard: by its place in the file, or by its key where that is all."""


def _find(
    wanted: Sequence[WantedSample], shards: Sequence[Shard]
) -> tuple[dict[Shard, dict[_Name, list[WantedSample]]], list[str]]:
    """Shard -> name -> the samples to read in it; and what was not found."""
    known = SourceShards(shards)
    found: dict[Shard, dict[_Name, list[WantedSample]]] = {}
    problems = []
    for table, one in wanted:
        source = table.sources.get(one.shard) or TableSource(one.shard, 0, 0, None)
        shard, problem = known.find(source)
        if shard is None or problem:
            problems.append(f"{shard.address} {problem}" if shard else problem)
            continue
        name = one.key if one.place is None else one.place
        found.setdefault(shard, {}).setdefault(name, []).append((table, one))
    return found, list(dict.fromkeys(problems))


def _read(
    shard: Shard, wanted: set[_Name], read: ReadOptions, size: PictureSize
) -> Iterator[tuple[_Name, SampleContent]]:
    """The content of a shard's samples; of a key that comes twice, the first."""
    with open_shard(shard, read) as reader:
        for place, record in enumerate(reader.records, shard.start):
            for name in wanted & {place, record.key}:
                wanted.remove(name)
                try:
                    yield name, _content(parse_record(reader.parse, record), size)
                except SampleError as error:
                    yield name, SampleContent((ContentPart(problem=str(error)),))
            if not wanted:
                break


def _content(sample: Sample, size: PictureSize) -> SampleContent:
    turns = (Text(f"{turn.role}: {turn.text}") for turn in sample.turns)
    parts = (*sample.parts, *turns)
    pieces = tuple(
        ContentPart(text=clipped(part.text)) if isinstance(part, Text) else _picture(part, size)
        for part in parts[:_MOST_PARTS]
    )
    left = len(parts) - len(pieces)
    return SampleContent(pieces, counted(left, "more parts") if left else "")


def _picture(part: Image, size: PictureSize) -> ContentPart:
    try:
        pixels = decode(part.data, ImageLimits(), part.frame, orient=True, fast=False)
    except SampleError as error:
        return ContentPart(problem=f"{error.status}: {error}")
    image = PillowImage.fromarray(pixels)
    kind = "png" if max(image.size) <= _SMALL else "webp"
    image.thumbnail((size.side, size.side))
    buffer = BytesIO()
    image.save(buffer, kind, quality=size.quality)  # which PNG ignores
    data = base64.b64encode(buffer.getvalue()).decode()
    return ContentPart(picture=f"data:image/{kind};base64,{data}")
