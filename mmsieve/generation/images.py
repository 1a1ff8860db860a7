"""Sources -> the samples that a teacher may be shown: those of shards, or of a folder of images.

Where only images are wanted, texts are not read: a caption tar without `txt` members or a Parquet
file without a column of texts is as good a source as any.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from mmsieve.errors import RequestError, SampleError, Status
from mmsieve.images import IMAGE_EXTENSIONS
from mmsieve.read.layouts import open_shard, split_files
from mmsieve.read.records import (
    ImageFolder,
    ReadOptions,
    Record,
    ShardReader,
    parse_record,
)
from mmsieve.sample import Image, Kind, Sample
from mmsieve.sources import RANGED, TAR, Shard, find_files, list_files, suffix_of

_IMAGES = tuple(f".{extension}" for extension in IMAGE_EXTENSIONS)


@dataclass(frozen=True, slots=True)
class RawSample:
    """One sample of a source, or why there is none."""

    index: int
    """Its place in the source, from 0."""
    key: str
    sample: Sample | None = None
    problem: SampleError | None = None

    @property
    def images(self) -> tuple[Image, ...]:
        """Its images."""
        return () if self.sample is None else self.sample.images


class ImageSource(Protocol):
    """Samples with images, which can be counted without reading them."""

    name: str

    def count(self) -> int:
        """Its samples; raises ShardError."""
        ...

    def read(self, wanted: set[int]) -> Iterator[RawSample]:
        """The samples at these places, in order; raises ShardError."""
        ...


def find_images(
    sources: Sequence[str], read: ReadOptions, *, kinds: tuple[Kind, ...] | None, by_folder: bool
) -> list[ImageSource]:
    """What the SOURCE strings name; raises RequestError where one names nothing readable.

    Without `kinds` texts are left unread, and folders of image files will do: each file a sample,
    or `by_folder` all files of a (sub)folder together.
    """
    found: list[ImageSource] = []
    shards: list[str] = []
    for source in sources:
        folder = Path(source).expanduser()
        if kinds is None and folder.is_dir() and _is_folder_of_images(source):
            found.append(_Folder(folder, by_folder))
        else:
            shards.append(source)
    if shards or not found:
        options = replace(read, images_only=kinds is None, kinds=kinds)
        parts = split_files(find_files(shards).files, options)
        found += [_Shard(shard, options) for shard in parts]
    names = [source.name for source in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RequestError(f"two SOURCEs are called {twice}: name the folder that holds both")
    return found


def _is_folder_of_images(source: str) -> bool:
    """Whether a folder has image files in it and no shards, beside which they would be nothing."""
    suffixes = {suffix_of(url) for url in list_files(source).files}
    return suffixes.isdisjoint((*TAR, *RANGED)) and not suffixes.isdisjoint(_IMAGES)


class _Shard:
    """A shard as `score` reads it."""

    def __init__(self, shard: Shard, options: ReadOptions) -> None:
        self.name = shard.name
        self._shard, self._options = shard, options

    def count(self) -> int:
        with open_shard(self._shard, self._options) as reader:
            return reader.count

    def read(self, wanted: set[int]) -> Iterator[RawSample]:
        last = max(wanted, default=-1)
        with open_shard(self._shard, self._options) as reader:
            for index, record in enumerate(reader.records):
                if index in wanted:
                    yield _raw(index, record, reader, self._options.images_only)
                if last <= index < reader.count - 1:  # at its end a shard says if it was cut off
                    break


_TEXTUAL = (Status.TEXT_MISSING, Status.TEXT_UNDECODABLE, Status.JSON_INVALID)


def _raw(index: int, record: Record, reader: ShardReader, images_only: bool) -> RawSample:
    try:
        return RawSample(index, record.key, parse_record(reader.parse, record))
    except SampleError as error:
        members = [record.fields[name] for name in IMAGE_EXTENSIONS if name in record.fields]
        is_textual = images_only and error.status in _TEXTUAL
        if is_textual and members and isinstance(members[0], bytes):
            return RawSample(index, record.key, Sample(record.key, (Image(members[0]),)))
        return RawSample(index, record.key, problem=error)


class _Folder:
    """A folder of image files, those of its subfolders too; a document is what one folder holds."""

    def __init__(self, folder: Path, by_folder: bool) -> None:
        self.name = folder.name
        self._folder = ImageFolder(folder)
        names = sorted(
            Path(url).relative_to(folder.absolute()).as_posix()
            for url in list_files(str(folder.absolute())).files
            if suffix_of(url) in _IMAGES
        )
        self._samples: list[tuple[str, list[str]]] = [(name, [name]) for name in names]
        if by_folder:
            together: dict[str, list[str]] = {}
            for name in names:
                together.setdefault(name.rpartition("/")[0] or ".", []).append(name)
            self._samples = list(together.items())

    def count(self) -> int:
        return len(self._samples)

    def read(self, wanted: set[int]) -> Iterator[RawSample]:
        for index in sorted(wanted):
            key, names = self._samples[index]
            images: list[Image] = []
            problem = None
            for name in names:
                try:
                    images.append(Image(self._folder.read(name)))
                except SampleError as error:
                    problem = error
            yield RawSample(index, key, Sample(key, tuple(images)), None if images else problem)
