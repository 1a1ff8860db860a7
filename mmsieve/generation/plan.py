"""Which images a generation takes, before anything is sent; kept in a file for a rerun."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from pydantic import TypeAdapter

from mmsieve.errors import RequestError, SampleError, ShardError, Status
from mmsieve.generation.files import (
    CAPTION_HEAD,
    IMAGE_MARK,
    LabelledText,
    parse_training_record,
    read_training_file,
)
from mmsieve.generation.images import ImageSource, RawSample
from mmsieve.generation.items import Subject, Unusable, subject_id, usable_pictures
from mmsieve.generation.tasks.task import Task
from mmsieve.labels import POSITIVE
from mmsieve.outputs import write_atomically
from mmsieve.read.layouts import open_shard, split_files
from mmsieve.read.records import Parse, ReadOptions, Record, parse_record
from mmsieve.sample import Sample, Text
from mmsieve.sources import find_files

# Plan: which images are taken, before anything is sent; kept in a file, so that a rerun has it

_MORE = 64
"""Samples that are drawn at a time to replace unusable ones."""


@dataclass(frozen=True)
class Plan:
    """The subjects in the order in which they are read, and what was left out."""

    subjects: tuple[Subject, ...]
    unusable: tuple[Unusable, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    """Source -> why it can't be read, or not to its end."""
    samples: int = 0
    """Of all sources."""
    twice: int = 0
    """Subjects that were drawn once more, under another key."""
    note: str = ""
    """How they were drawn, where there is more to say."""

    def write(self, path: Path) -> None:
        """Keep the plan in a file."""
        write_atomically(path, lambda temporary: temporary.write_bytes(_PLAN.dump_json(self)))


_PLAN = TypeAdapter(Plan)


def read_plan(path: Path) -> Plan:
    """The plan in a file; raises RequestError where it is damaged."""
    try:
        return _PLAN.validate_json(path.read_bytes())
    except ValueError as error:
        raise RequestError(f"{path}: not a plan of this version; use --overwrite") from error


Draw: TypeAlias = Callable[[int], Sequence[int]]
"""From the number of all samples, counted over the sources in their order, those that are taken,
as positions from 0, the first ones first. Another way to choose images is another draw."""


def random_draw(seed: int) -> Draw:
    """A draw in which every sample has the same chance."""
    return lambda count: np.random.default_rng((seed, 11)).permutation(count).tolist()


def make_plan(
    sources: Sequence[ImageSource], task: Task, wanted: int, draw: Draw, max_images: int
) -> Plan:
    """Take `wanted` subjects in the order of a draw; unusable ones are replaced by later ones."""
    failed: dict[str, str] = {}
    counts = [count_samples(source, failed) for source in sources]
    order = draw(sum(counts))
    starts = np.cumsum([0, *counts]).tolist()
    chosen: dict[str, Subject] = {}
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
            for subject in found if isinstance(found, list) else ():
                if len(chosen) < wanted:
                    twice += subject.id in chosen
                    chosen.setdefault(subject.id, subject)
    names = {source.name: number for number, source in enumerate(sources)}
    subjects = sorted(chosen.values(), key=lambda s: (names[s.source], s.index))
    return Plan(tuple(subjects), tuple(unusable), failed, sum(counts), twice)


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
    task: Task,
    max_images: int,
    failed: dict[str, str],
) -> Iterator[tuple[int, list[Subject] | Unusable]]:
    """The drawn samples, counted over all sources, with their subjects or why there are none."""
    for source, start, stop in zip(sources, starts[:-1], starts[1:], strict=True):
        wanted = {sample - start for sample in drawn if start <= sample < stop}
        try:
            for raw in source.read(wanted) if wanted else ():
                yield start + raw.index, _usable(source.name, raw, task, max_images)
        except ShardError as error:
            failed[source.name] = str(error)


def _usable(source: str, raw: RawSample, task: Task, most: int) -> list[Subject] | Unusable:
    try:
        if raw.problem is not None:
            raise raw.problem
        return task.subjects(source, raw, most)
    except SampleError as error:
        return Unusable(source, raw.key, error.status.value, str(error))


# Positives: captions that people wrote, as more texts of the best level

HUMAN = "human"
"""What stands for a teacher's name in their provenance."""


@dataclass
class Positives:
    """Images and what people wrote about them, the images already stored."""

    subjects: dict[str, Subject] = field(default_factory=dict)
    texts: dict[str, list[LabelledText]] = field(default_factory=dict)
    unusable: list[Unusable] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PositiveSource:
    """A training file, of which the texts of the best level are taken, or a SOURCE of captions."""

    name: str
    read: ReadOptions

    def check(self) -> None:
        """Raise RequestError where there is no such thing."""
        if self._is_file() and not self._entries():
            raise RequestError(f"--positives {self.name}: no text of level {POSITIVE} in it")
        if not self._is_file():
            find_files([self.name])

    def take(self, out: Path) -> Positives:
        """Read all, storing the images below `out`."""
        found = Positives()
        for source, record, parse in self._records(found.failed):
            try:
                _add(found, source, parse_record(parse, record), out)
            except SampleError as error:
                unusable = Unusable(source, record.key, error.status.value, str(error))
                found.unusable.append(unusable)
        return found

    def _is_file(self) -> bool:
        return self.name.endswith(".json")

    def _entries(self) -> list[Record]:
        entries = enumerate(read_training_file(Path(self.name)))
        return [
            Record(str(number if entry.id is None else entry.id), {"text": entry})
            for number, entry in entries
            if entry.label == POSITIVE
        ]

    def _records(self, failed: dict[str, str]) -> Iterator[tuple[str, Record, Parse]]:
        if self._is_file():
            folder = Path(self.name).parent

            def parse(record: Record) -> Sample:
                return parse_training_record(folder, record)

            yield from ((Path(self.name).stem, record, parse) for record in self._entries())
            return
        for shard in split_files(find_files([self.name]).files, self.read):
            try:
                with open_shard(shard, self.read) as reader:
                    yield from ((shard.name, record, reader.parse) for record in reader.records)
            except ShardError as error:
                failed[f"--positives {shard.name}"] = str(error)


def _add(found: Positives, source: str, sample: Sample, out: Path) -> None:
    """Take a caption and store its image; raises SampleError."""
    words = " ".join(part.text for part in sample.parts if isinstance(part, Text)).strip()
    if sample.kind != "caption" or not words:
        message = "not a caption of one image" if words else "an empty caption"
        raise SampleError(Status.TEXT_MISSING, message)
    (picture,) = usable_pictures(sample.images, keep=True)
    subject = Subject(subject_id("h", [picture]), source, 0, sample.key, (picture,))
    if subject.id not in found.subjects:
        subject.store_images(out)
        bare = tuple(replace(picture, data=b"") for picture in subject.pictures)
        found.subjects[subject.id] = replace(subject, pictures=bare)
    text = CAPTION_HEAD + words.replace(IMAGE_MARK, "image")
    told = LabelledText("caption", text, POSITIVE, (0,))
    texts = found.texts.setdefault(subject.id, [])
    if told not in texts:
        texts.append(told)
