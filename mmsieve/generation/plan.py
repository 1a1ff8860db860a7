"""The plan: which images of the sources a generation takes, before anything is sent.

It is kept in a file, so that a rerun takes the same. Where only images are wanted, texts are not
read, and may be missing. Captions that people wrote are mixed in beside what is planned.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Protocol, TypeAlias

import numpy as np
from pydantic import Field, TypeAdapter

from mmsieve.errors import RequestError, SampleError, ShardError, Status
from mmsieve.generation.files import (
    CAPTION_HEAD,
    IMAGE_MARK,
    LabelledText,
    parse_training_record,
    read_training_file,
)
from mmsieve.generation.tasks import (
    GenerationTask,
    RawSample,
    RequestItem,
    Unusable,
    item_id,
    usable_pictures,
)
from mmsieve.images import IMAGE_EXTENSIONS
from mmsieve.labels import POSITIVE
from mmsieve.outputs import write_atomically
from mmsieve.read import ImageFolder, Parse, ReadOptions, Record, parse_record
from mmsieve.read.shards import open_shard, split_files
from mmsieve.sample import Image, Kind, Sample, Text
from mmsieve.sources import RANGED, TAR, Shard, find_files, list_files, suffix_of
from mmsieve.validated import read_json_file

HUMAN = "human"
"""What stands for a teacher's name in the provenance of captions that people wrote."""

_MORE = 64  # samples that are drawn at a time to replace unusable ones
_IMAGES = tuple(f".{extension}" for extension in IMAGE_EXTENSIONS)
_TEXTUAL = (Status.TEXT_MISSING, Status.TEXT_UNDECODABLE, Status.JSON_INVALID)
"""Errors of a sample whose images may be fine."""


class ImageSource(Protocol):
    """Samples with images, which can be counted without reading them."""

    @property
    def name(self) -> str:
        """What it is called."""

    def count(self) -> int:
        """Its samples; raises ShardError."""

    def read(self, wanted: set[int]) -> Iterator[RawSample]:
        """The samples at these places, in order; raises ShardError."""

    def only(self, wanted: set[int]) -> "ImageSource":
        """What is needed to read the samples at these places, which may go to another machine."""


def find_images(
    sources: Sequence[str], read: ReadOptions, *, kinds: tuple[Kind, ...] | None, by_folder: bool
) -> list[ImageSource]:
    """What the SOURCE strings name; raises RequestError where one names nothing readable.

    Without `kinds` folders of image files will do: each file a sample, or `by_folder` all together.
    """
    found: list[ImageSource] = []
    shards: list[str] = []
    for source in sources:
        folder = Path(source).expanduser()
        if kinds is None and folder.is_dir() and _is_folder_of_images(source):
            found.append(_FolderSource.find(folder, by_folder))
        else:
            shards.append(source)
    if shards or not found:
        options = replace(read, images_only=kinds is None, kinds=kinds)
        parts = split_files(find_files(shards).files, options)
        found += [_ShardSource(shard, options) for shard in parts]
    names = [source.name for source in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RequestError(f"two SOURCEs are called {twice}: name the folder that holds both")
    return found


def _is_folder_of_images(source: str) -> bool:
    """Whether a folder has image files in it and no shards, beside which they would be nothing."""
    suffixes = {suffix_of(url) for url in list_files(source).files}
    return suffixes.isdisjoint((*TAR, *RANGED)) and not suffixes.isdisjoint(_IMAGES)


class _ShardSource:
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
                    yield self._raw(index, record, reader.parse)
                if last <= index < reader.count - 1:  # at its end a shard says if it was cut off
                    break

    def only(self, wanted: set[int]) -> ImageSource:
        return self

    def _raw(self, index: int, record: Record, parse: Parse) -> RawSample:
        try:
            return RawSample(self.name, index, record.key, parse_record(parse, record))
        except SampleError as error:
            members = [record.fields[name] for name in IMAGE_EXTENSIONS if name in record.fields]
            is_textual = self._options.images_only and error.status in _TEXTUAL
            if is_textual and members and isinstance(members[0], bytes):
                sample = Sample(record.key, (Image(members[0]),))
                return RawSample(self.name, index, record.key, sample)
            return RawSample(self.name, index, record.key, problem=error)


@dataclass(frozen=True)
class _FolderSource:
    """A folder of image files, those of its subfolders too; a document is what one folder holds."""

    name: str
    folder: ImageFolder
    samples: dict[int, tuple[str, list[str]]]
    """Place -> key and the files' names."""

    @classmethod
    def find(cls, folder: Path, by_folder: bool) -> "_FolderSource":
        """What is in a folder."""
        names = sorted(
            Path(url).relative_to(folder.absolute()).as_posix()
            for url in list_files(str(folder.absolute())).files
            if suffix_of(url) in _IMAGES
        )
        samples: dict[str, list[str]] = {}
        for name in names:
            key = (name.rpartition("/")[0] or ".") if by_folder else name
            samples.setdefault(key, []).append(name)
        return cls(folder.name, ImageFolder(folder), dict(enumerate(samples.items())))

    def count(self) -> int:
        return len(self.samples)

    def only(self, wanted: set[int]) -> ImageSource:
        return replace(self, samples={index: self.samples[index] for index in wanted})

    def read(self, wanted: set[int]) -> Iterator[RawSample]:
        for index in sorted(wanted):
            key, names = self.samples[index]
            images: list[Image] = []
            problem = None
            for name in names:
                try:
                    images.append(Image(self.folder.read(name)))
                except SampleError as error:
                    problem = error
            sample = Sample(key, tuple(images))
            yield RawSample(self.name, index, key, sample, None if images else problem)


@dataclass(frozen=True)
class GenerationPlan:
    """The request items in the order in which they are read, and what was left out."""

    items: Annotated[tuple[RequestItem, ...], Field(alias="subjects")]
    """(The alias: plans on disk have them under this name.)"""
    unusable: tuple[Unusable, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    """Source -> why it can't be read, or not to its end."""
    samples: int = 0
    """Of all sources."""
    twice: int = 0
    """Items that were drawn once more, under another key."""
    note: str = ""
    """How they were drawn, where there is more to say."""

    def write(self, path: Path) -> None:
        """Keep the plan in a file."""
        data = _PLAN.dump_json(self, by_alias=True)
        write_atomically(path, lambda temporary: temporary.write_bytes(data))


_PLAN = TypeAdapter(GenerationPlan)


def read_plan(path: Path) -> GenerationPlan:
    """The plan in a file; raises RequestError where it is damaged."""
    return read_json_file(path, _PLAN, "not a plan of this version; use --overwrite")


Draw: TypeAlias = Callable[[int], Sequence[int]]
"""From the number of all samples, counted over the sources in their order, those that are taken,
as positions from 0, the first ones first. Another way to choose images is another draw."""


def random_draw(seed: int) -> Draw:
    """A draw in which every sample has the same chance."""
    return lambda count: np.random.default_rng((seed, 11)).permutation(count).tolist()


def make_plan(
    sources: Sequence[ImageSource], task: GenerationTask, wanted: int, draw: Draw, max_images: int
) -> GenerationPlan:
    """Take `wanted` items in the order of a draw; unusable ones are replaced by later ones."""
    failed: dict[str, str] = {}
    counts = [count_samples(source, failed) for source in sources]
    order = draw(sum(counts))
    starts = np.cumsum([0, *counts]).tolist()
    chosen: dict[str, RequestItem] = {}
    unusable: list[Unusable] = []
    at = twice = 0
    while len(chosen) < wanted and at < len(order):
        drawn = order[at : at + max(wanted - len(chosen), _MORE)]
        at += len(drawn)
        read = dict(_read(sources, starts, set(drawn), task, max_images, failed))
        for sample in drawn:
            found = read.get(sample, [])
            if isinstance(found, Unusable) and len(chosen) < wanted:
                unusable.append(found)
            for item in found if isinstance(found, list) else ():
                if len(chosen) < wanted:
                    twice += item.id in chosen
                    chosen.setdefault(item.id, item)
    numbers = {source.name: number for number, source in enumerate(sources)}
    items = sorted(chosen.values(), key=lambda item: (numbers[item.source], item.index))
    return GenerationPlan(tuple(items), tuple(unusable), failed, sum(counts), twice)


def count_samples(source: ImageSource, failed: dict[str, str]) -> int:
    """The samples of a source; 0 where it can't be read, which `failed` takes."""
    try:
        return source.count()
    except ShardError as error:
        failed[source.name] = str(error)
        return 0


def _read(
    sources: Sequence[ImageSource],
    starts: Sequence[int],
    drawn: set[int],
    task: GenerationTask,
    max_images: int,
    failed: dict[str, str],
) -> Iterator[tuple[int, list[RequestItem] | Unusable]]:
    """The drawn samples, counted over all sources, with their items or why there are none."""
    for source, start, stop in zip(sources, starts[:-1], starts[1:], strict=True):
        wanted = {sample - start for sample in drawn if start <= sample < stop}
        try:
            for raw in source.read(wanted) if wanted else ():
                try:
                    if raw.problem is not None:
                        raise raw.problem
                    yield start + raw.index, task.items(raw, max_images)
                except SampleError as error:
                    status = error.status.value
                    yield start + raw.index, Unusable(source.name, raw.key, status, str(error))
        except ShardError as error:
            failed[source.name] = str(error)


@dataclass
class HumanCaptions:
    """Images and what people wrote about them, the images already stored."""

    items: dict[str, RequestItem] = field(default_factory=dict)
    texts: dict[str, list[LabelledText]] = field(default_factory=dict)
    unusable: list[Unusable] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HumanCaptionSource:
    """A training file, of which the texts of the best level are taken, or a SOURCE of captions."""

    name: str
    read: ReadOptions

    def check(self) -> None:
        """Raise RequestError where there is no such thing."""
        if not self.name.endswith(".json"):
            find_files([self.name])
        elif not self._entries(HumanCaptions()):
            raise RequestError(f"--positives {self.name}: no text of level {POSITIVE} in it")

    def take(self, out: Path) -> HumanCaptions:
        """Read all, storing the images below `out`."""
        found = HumanCaptions()
        for source, record, parse in self._records(found):
            try:
                _add(found, source, parse_record(parse, record), out)
            except SampleError as error:
                status = error.status.value
                found.unusable.append(Unusable(source, record.key, status, str(error)))
        return found

    def _entries(self, found: HumanCaptions) -> list[Record]:
        """The texts of the best level; what is no record is noted in `found`."""
        file = Path(self.name)
        entries, left_out = read_training_file(file)
        invalid = Status.JSON_INVALID.value
        found.unusable += [
            Unusable(file.stem, str(one.index), invalid, one.reason) for one in left_out
        ]
        return [
            Record(str(number if entry.id is None else entry.id), {"text": entry})
            for number, entry in enumerate(entries)
            if entry.label == POSITIVE
        ]

    def _records(self, found: HumanCaptions) -> Iterator[tuple[str, Record, Parse]]:
        if self.name.endswith(".json"):
            file = Path(self.name)
            parse = partial(parse_training_record, file.parent)
            yield from ((file.stem, record, parse) for record in self._entries(found))
            return
        for shard in split_files(find_files([self.name]).files, self.read):
            try:
                with open_shard(shard, self.read) as reader:
                    yield from ((shard.name, record, reader.parse) for record in reader.records)
            except ShardError as error:
                found.failed[f"--positives {shard.name}"] = str(error)


def _add(found: HumanCaptions, source: str, sample: Sample, out: Path) -> None:
    """Take a caption and store its image; raises SampleError."""
    words = " ".join(part.text for part in sample.parts if isinstance(part, Text)).strip()
    if sample.kind != "caption" or not words:
        message = "not a caption of one image" if words else "an empty caption"
        raise SampleError(Status.TEXT_MISSING, message)
    (picture,) = usable_pictures(sample.images, keep=True)
    item = RequestItem(item_id("h", [picture]), source, 0, sample.key, (picture,))
    if item.id not in found.items:
        item.store_images(out)
        bare = tuple(replace(picture, data=b"") for picture in item.pictures)
        found.items[item.id] = replace(item, pictures=bare)
    text = CAPTION_HEAD + words.replace(IMAGE_MARK, "image")
    caption = LabelledText("caption", text, POSITIVE, (0,))
    texts = found.texts.setdefault(item.id, [])
    if caption not in texts:
        texts.append(caption)
