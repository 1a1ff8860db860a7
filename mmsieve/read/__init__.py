"""What every layout's reader gives: records, samples parsed from them, and files that they name."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from cyclopts import Parameter

from mmsieve.errors import SampleError, Status, check_machine
from mmsieve.images import ImageLimits, read_size
from mmsieve.options import INPUT, LIMITS, AboveZero, Options, Positive
from mmsieve.sample import Image, Kind, Sample, Text
from mmsieve.stores.asking import one_line
from mmsieve.stores.folders import LONGEST
from mmsieve.stores.paths import StorePath, as_path, is_stored, place_of

BROKEN_JSON = "its json is no JSON object: taken as no metadata"
"""Note on a pair whose json costs it nothing."""
MAX_BYTES = 1 << 30
"""Size of a member, line or image file beyond which it isn't read: it has to fit in memory."""

Layout: TypeAlias = Literal[
    "captions",
    "documents",
    "image-parquet",
    "mmc4",
    "instructions",
    "instruction-tar",
    "question-answer",
    "turn-captions",
]


@Parameter(name="*", group=INPUT)
@dataclass(frozen=True, kw_only=True)
class ReadOptions(Options):
    """How sources are read, where their content doesn't say it."""

    layout: Layout | None = None
    """Layout of all sources; recognised from the content by default."""
    images: Path | None = None
    """Folder that the image paths of JSON, JSONL and Parquet files are relative to."""
    image_column: str | None = None
    """Column, field or tar member that holds the images; by default the first usual one."""
    text_column: str | None = None
    """That of the captions: also json:caption (a field inside it) or captions[1] (the second)."""
    key_column: str | None = None
    """Column or field of keys; rows that share one are then duplicates."""
    images_first: Annotated[bool, Parameter(negative="")] = False
    """Of an instruction item without `<image>` in its text, show the images before the first
    question; by default so only in layouts without such marks."""
    source_column: str | None = None
    """Field that says where an instruction item comes from, or path:N for the N-th folder of its
    image's path; by default image_source, data_source or path:1."""
    images_only: Annotated[bool, Parameter(parse=False)] = False
    """Set by callers to whom texts are nothing: a Parquet file needs no column of them."""
    places_only: Annotated[bool, Parameter(parse=False)] = False
    """Set by callers who copy items as they stand, to whom it is nothing where images are."""
    needs_text: Annotated[bool, Parameter(parse=False)] = False
    """Set by callers to whom an empty caption, or a word for a missing one, is no sample."""
    kinds: Annotated[tuple[Kind, ...] | None, Parameter(parse=False)] = None
    """Set by callers who can do with samples of some kinds only."""


@Parameter(name="*", group=LIMITS)
@dataclass(frozen=True, kw_only=True)
class SampleLimits(Options):
    """What a sample may take: beyond it, it is a row that says so."""

    max_images: Positive = 1000
    """Most images of a sample."""
    max_text_chars: Positive = 1_000_000
    """Most characters of a sample's texts: a tokenizer may need 400 bytes for one."""
    max_sample_pixels: Positive = 10**9
    """Most pixels of a sample's images together, one that is there twice counted once."""
    sample_timeout: AboveZero = 300
    """Seconds after which a sample that is still being prepared is given up."""

    def check(self, sample: Sample) -> None:
        """Raise SampleError for a sample beyond them; of images, headers alone are read."""
        texts = [part.text for part in sample.parts if isinstance(part, Text)]
        chars = sum(map(len, texts)) + sum(len(turn.text) for turn in sample.turns)
        if chars > self.max_text_chars:
            message = f"{chars:,} characters, at most {self.max_text_chars:,} (--max-text-chars)"
            raise SampleError(Status.TEXT_TOO_LONG, message)
        images = sample.images
        if len(images) > self.max_images:
            message = f"{len(images):,} images, the limit is {self.max_images:,} (--max-images)"
            raise SampleError(Status.TOO_MANY_IMAGES, message)
        if len(images) > 1:
            self._check_pixels(set(images))

    def _check_pixels(self, images: set[Image]) -> None:
        pixels = 0
        for image in images:
            with suppress(SampleError):  # what can't be used isn't decoded either
                width, height = read_size(image.data, ImageLimits(), image.frame)
                pixels += width * height
        if pixels > self.max_sample_pixels:
            limit = f"the limit is {self.max_sample_pixels:,} (--max-sample-pixels)"
            raise SampleError(Status.IMAGE_TOO_LARGE, f"{pixels:,} pixels in its images, {limit}")


@dataclass(frozen=True, slots=True)
class Record:
    """One sample as it stands in its file: raw values, nothing parsed or decoded yet."""

    key: str
    fields: dict[str, Any] = field(repr=False)
    """Tar: member extension -> bytes (none for extensions that no layout reads), in archive order.
    Parquet: column -> value. JSONL documents: line. Instructions: the item's own fields."""
    problem: SampleError | None = None
    """Set where the record is known to be bad before it is parsed."""


Parse: TypeAlias = Callable[[Record], Sample]
"""Record -> sample, in a worker process: picklable; raises SampleError."""


@dataclass(frozen=True)
class ShardReader:
    """An open shard."""

    count: int
    """Samples that the shard's index promises; the table must have as many rows."""
    records: Iterator[Record]
    """The records in order; raises ShardError where the rest can't be read."""
    parse: Parse
    layout: str = ""
    """What it was recognised as."""


def parse_record(parse: Parse, record: Record) -> Sample:
    """The sample of a record; raises SampleError where either is bad."""
    if record.problem is not None:
        raise record.problem
    return parse(record)


def duplicate(key: str) -> SampleError:
    """The reason of a record whose key came before in its shard."""
    return SampleError(Status.DUPLICATE_KEY, f"key {key!r} came before in this shard")


def decode_text(data: bytes) -> str:
    """UTF-8 text; raises SampleError where it isn't."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SampleError(Status.TEXT_UNDECODABLE, f"the text is not UTF-8: {error}") from error


class ImageFolder:
    """The folder that image paths are relative to; no path leaves it, by `..` or by a link."""

    def __init__(self, folder: Path) -> None:
        place = place_of(folder)
        self._store = place if is_stored(place) else None
        self._root = Path(os.path.realpath(folder))

    def read_once(self) -> Callable[[str], bytes]:
        """`read` for the images of one sample: each file once, MAX_BYTES in all."""
        left = MAX_BYTES

        @cache
        def read(name: str) -> bytes:
            nonlocal left
            data = self.read(name)
            left -= len(data)
            if left < 0:
                message = f"its image files have more than {MAX_BYTES:,} bytes together"
                raise SampleError(Status.IMAGE_TOO_LARGE, message)
            return data

        return read

    def read(self, name: str) -> bytes:
        """The bytes of an image file; raises SampleError, or ShardError as `check_machine` does."""
        try:
            return self.find(name).read_bytes()
        except OSError as error:
            check_machine(error, f"{name!r} can't be read")
            message = f"{name!r} can't be read: {one_line(error)}"
            raise SampleError(Status.IMAGE_MISSING, message) from error

    def find(self, name: str) -> Path:
        """The path of an image file, without links; raises errors as `read` does."""
        try:
            if self._store is not None:
                return _find_stored(self._store, name)
            # A name may be absolute, and a link may lead out: only the resolved path shows it.
            path = Path(os.path.realpath(self._root / name))
            if not path.is_relative_to(self._root):
                raise SampleError(Status.IMAGE_MISSING, f"{name!r} leaves the folder of images")
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):  # to read a pipe would wait for ever
                raise SampleError(Status.IMAGE_MISSING, f"{name!r} is not a file")
            _check_size(name, found.st_size)
            return path
        except (OSError, ValueError) as error:
            check_machine(error, f"{name!r} can't be read")
            message = f"{name!r} can't be read: {one_line(error)}"
            raise SampleError(Status.IMAGE_MISSING, message) from error


def _find_stored(root: StorePath, name: str) -> Path:
    if name.startswith("/") or ".." in name.split("/"):
        raise SampleError(Status.IMAGE_MISSING, f"{name!r} leaves the folder of images")
    path = root / name
    if len(os.fsencode("/".join(path.parts[1:]))) > LONGEST:
        raise SampleError(Status.IMAGE_MISSING, f"{name!r:.99}: no store has so long a name")
    _check_size(name, path.stat().st_size)
    return as_path(path)


def _check_size(name: str, size: int) -> None:
    if size > MAX_BYTES:
        message = f"{name!r} has {size:,} bytes, {MAX_BYTES:,} can be read"
        raise SampleError(Status.IMAGE_TOO_LARGE, message)
