"""Samples of a table to look at: which are shown, and their texts and small pictures.

A shard is named after its file's path below the common parent of all that a verb was given. A
report is given sources of several tables at once, so the common parent, and the names, may be
others: a table's shard is the file whose whole path ends in its name, and which has its size.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Protocol

import polars as pl
from PIL import Image as PillowImage

from mmsieve.errors import RequestError, SampleError, ShardError
from mmsieve.filtering.ranking import hash_samples
from mmsieve.images import ImageLimits, decode
from mmsieve.read.layouts import open_shard
from mmsieve.read.ranges import split_files
from mmsieve.read.records import ReadOptions, parse_record
from mmsieve.reporting.inputs import Judged
from mmsieve.sample import Image, Sample, Text
from mmsieve.sources import Shard, find_files, path_of
from mmsieve.tables import scan_files

# Where a table's samples are among the SOURCEs of a report


class Places:
    """The shards of sources, to be found by a table's names."""

    def __init__(self, sources: Sequence[str], read: ReadOptions) -> None:
        """Raises RequestError for sources that aren't there, or not read."""
        self._shards: dict[str, list[tuple[str, Shard]]] = {}
        """Last part of the name -> whole path without suffix, and shard."""
        for shard in split_files(find_files(sources).files, read):
            last = shard.name.rpartition("/")[2]
            folder = path_of(shard.url).rpartition("/")[0]
            self._shards.setdefault(last, []).append((f"/{folder}/{last}", shard))

    def find(self, name: str, size: int) -> tuple[Shard | None, str]:
        """The shard of a table's name and file size (0: not known), or why there is none."""
        named = self._shards.get(name.rpartition("/")[2], [])
        found = [shard for path, shard in named if path.endswith(f"/{name}")]
        found = [shard for shard in found if shard.size == size] or found
        found = [shard for shard in found if shard.name == name] or found
        if not found:
            return None, f"shard {name!r} of a table is not among the SOURCEs"
        if len(found) > 1:
            return None, f"shard {name!r} of a table may be {found[0].url} or {found[1].url}"
        return found[0], ""


# What every kind of section has: its numbers, and samples of the table to look at

Types = Mapping[str, pl.DataType | type[pl.DataType]]
"""Column -> what it is read as."""

FAILED = "Failed"
"""Title of the samples that have no score."""

_MOST_LETTERS = 2000


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A sample of the gallery: where it is, and what its table says of it."""

    key: str
    shard: str
    score: float | None = None
    keep: bool | None = None
    """None in a table, which decides nothing."""
    reason: str | None = None
    error: str | None = None
    texts: tuple[tuple[str, str], ...] = ()
    """Label and text of what the table holds; where it does, they stand for the sample's own."""
    marks: tuple[tuple[str, ...], ...] = ()
    """Lines of short words about the sample."""


Groups = dict[str, list[Shown]]
"""Title -> samples of the gallery."""


class Numbers(Protocol):
    """All that a section says of its samples."""

    @property
    def template(self) -> str:
        """The template that shows the numbers."""
        ...

    @property
    def groups(self) -> Groups:
        """The samples to show."""
        ...


@dataclass(frozen=True)
class Request:
    """What is asked of a section: all that is on the page, and how many samples a group has."""

    judged: tuple[Judged, ...]
    gallery: int

    def beside(self, one: Judged, kind: str) -> list[Judged]:
        """What else of a kind is on the page about the same shards."""
        others = (other for other in self.judged if other is not one and other.kind == kind)
        return [other for other in others if other.shares_shards(one)]


class Draw:
    """Some of the samples that it is shown, the same ones each time: by a fixed hash of the key."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._drawn: pl.DataFrame | None = None

    def add(self, rows: pl.DataFrame) -> None:
        """Add rows that have `key` and `shard`."""
        hashes = pl.Series("hash", hash_samples(rows["key"], rows["shard"]), pl.UInt64)
        parts = [] if self._drawn is None else [self._drawn]
        both = pl.concat([*parts, rows.with_columns(hashes).top_k(self._most, by="hash")])
        self._drawn = both.sort("hash", "shard", "key").tail(self._most)

    def rows(self) -> Iterator[dict[str, Any]]:
        """What was drawn."""
        if self._drawn is not None:
            yield from self._drawn.iter_rows(named=True)


def frames(judged: Judged, types: Types) -> Iterator[pl.DataFrame]:
    """Columns of these types, a file of the table at a time; polars' errors where they don't fit.

    `nth` counts the rows of one key: a key that comes twice is two rows, of which one failed.
    """
    columns = [pl.col(name).cast(type_) for name, type_ in types.items()]
    for file in judged.files:
        yield (scan_files([file]).select(columns).with_columns(nth=nth_of_key()).collect())


def most_first(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts, the highest first, and those that are the same by name."""
    return dict(sorted(counts.items(), key=lambda named: (-named[1], named[0])))


def nth_of_key() -> pl.Expr:
    """Which of the rows of its key a row is, from 0."""
    return pl.int_range(pl.len()).over("key")


def clipped(text: str) -> str:
    """The text as it can be written to a file, cut where it would fill the page."""
    clean = text.encode("utf-8", "replace").decode("utf-8")
    left = len(clean) - _MOST_LETTERS
    return clean if left <= 0 else f"{clean[:_MOST_LETTERS]} ... ({left:,} more characters)"


# The samples of a gallery, fetched from their shards: texts and small pictures, as they read

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
