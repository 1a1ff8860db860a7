"""Positives: captions that people wrote, as more texts of the best level."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmsieve.errors import RequestError, SampleError, ShardError, Status
from mmsieve.generate.files import parse_training_record, read_training_file
from mmsieve.generate.groups import CAPTION_HEAD, IMAGE_MARK, LabelledText
from mmsieve.generate.subjects import Subject, Unusable, subject_id, usable_pictures
from mmsieve.levels import POSITIVE
from mmsieve.read import Parse, ReadOptions, Record, open_shard, parse_record
from mmsieve.read.ranges import split_files
from mmsieve.sample import Sample, Text
from mmsieve.sources import find_files

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
