"""Training files: read once, each record checked or left out with a reason, split by image.

The same for classifiers and for supervised fine-tuning: what differs, which fields a record has and
what a model reads of it, is a `RecordInputs` (`mmsieve.training.data`).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from pydantic import TypeAdapter
from torch.utils.data import DataLoader, Dataset

from mmsieve.errors import RequestError, SampleError
from mmsieve.generation.files import LeftOut, read_entries, tie_by_image
from mmsieve.outputs import write_text
from mmsieve.progress import Advance, show_progress
from mmsieve.training.options import STAGES, DataFiles, processes
from mmsieve.validated import read_json_file, say_invalid


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One record of a training file; what a model learns of it is in subclasses."""

    index: int
    """Its place in the file, from 0."""
    images: tuple[str, ...]
    """Paths; none for a sample without an image."""


R = TypeVar("R", bound=FileRecord)


class RecordInputs(Protocol[R]):
    """Records -> what a model reads in training; picklable, so that worker processes can."""

    @property
    def shares_images(self) -> bool:
        """Whether records over the same images are one item, which holds each image once."""

    def parse(self, index: int, entry: Any) -> R:
        """The record of an entry of the file; raises ValueError where it is none."""

    def prepare(self, records: Sequence[R], images: Path) -> list[Any]:
        """One item of training data; raises SampleError or ValueError where there can be none."""

    def measure(self, record: R, prepared: list[Any]) -> int:
        """Tokens of a record that was prepared alone; raises ValueError where it is too long."""


class RecordData(Dataset[list[Any]]):
    """Records as training data, an item per index."""

    def __init__(
        self, inputs: RecordInputs[R], records: Sequence[R], images: Path, *, alone: bool = False
    ) -> None:
        """`alone`: an item of each record, also where records share images."""
        self._inputs, self._images = inputs, images
        groups: dict[tuple[str, ...], list[R]] = {}
        for record in records:
            together = inputs.shares_images and not alone
            key = tuple(sorted(set(record.images))) if together else (str(record.index),)
            groups.setdefault(key, []).append(record)
        self.groups = list(groups.values())

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> list[Any]:
        return self._inputs.prepare(self.groups[index], self._images)


@dataclass(frozen=True)
class CheckedRecords:
    """What of a file can be trained on, and what can't."""

    lengths: dict[int, int]
    """Index of a usable record -> its tokens."""
    left_out: list[LeftOut]

    @classmethod
    def load(cls, file: Path) -> "CheckedRecords":
        """What an earlier run of the same training found."""
        saved = read_json_file(file, _SAVED, "remove it, and the same command checks again")
        lengths = saved.lengths
        if isinstance(lengths, list):  # a classifier's, by an earlier version
            lengths = dict(zip((one.index for one in saved.records), lengths, strict=False))
        return cls(lengths, saved.left_out)

    def note(self, file: Path) -> str:
        """What a user should know of the file."""
        total = f"{file}: {len(self.lengths) + len(self.left_out):,} records"
        if not self.left_out:
            return total
        reason = f"record {self.left_out[0].index}: {self.left_out[0].reason}"
        return f"{total}, {len(self.left_out):,} left out (left_out.jsonl; {reason})"


@dataclass(frozen=True)
class _Place:
    index: int


@dataclass(frozen=True)
class _Saved:
    """A file of checked records."""

    lengths: dict[int, int] | list[int]
    left_out: list[LeftOut]
    records: list[_Place] = field(default_factory=list)


_SAVED = TypeAdapter(_Saved)


class _Lengths(Dataset[int | str]):
    """Of each record the tokens, or why it can't be trained on."""

    def __init__(self, inputs: RecordInputs[R], records: Sequence[R], images: Path) -> None:
        self._inputs, self._records, self._images = inputs, records, images

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> int | str:
        record = self._records[index]
        try:
            return self._inputs.measure(record, self._inputs.prepare([record], self._images))
        except SampleError as error:
            return f"{error.status}: {error}"
        except ValueError as error:
            return say_invalid(error)


def check_records(
    found: Sequence[R | LeftOut],
    inputs: RecordInputs[R],
    images: Path,
    workers: int,
    advance: Advance,
) -> CheckedRecords:
    """Prepare every record once, as training will."""
    records = [one for one in found if not isinstance(one, LeftOut)]
    left_out = [one for one in found if isinstance(one, LeftOut)]
    lengths: dict[int, int] = {}
    loader = DataLoader(_Lengths(inputs, records, images), batch_size=None, num_workers=workers)
    for record, length in zip(records, loader, strict=True):
        advance(1, 1)
        if isinstance(length, str):
            left_out.append(LeftOut(record.index, length))
        else:
            lengths[record.index] = int(length)
    return CheckedRecords(lengths, sorted(left_out, key=lambda one: one.index))


@dataclass(frozen=True)
class TrainingData:
    """Data sets of a stage; see `mmsieve.training.trainer.Stage`."""

    data: Dataset[Any]
    lengths: list[int] | None = None
    held_out: Dataset[Any] | None = None
    notes: tuple[str, ...] = ()


def open_files(
    files: DataFiles, inputs: RecordInputs[R], out: Path, seed: int, *, workers: int, quiet: bool
) -> TrainingData:
    """The usable records of training files, the held-out ones apart; `out`: of the training."""

    def read(file: Path, name: str) -> tuple[list[R], CheckedRecords]:
        place = out / STAGES / f"{name}.json"
        return _read_checked(file, place, inputs, files.images, workers, quiet)

    records, checked = read(files.data, "data")
    notes = [checked.note(files.data)]
    if files.val is not None:
        held_out, others = read(files.val, "val")
        notes.append(others.note(files.val))
        here, there = ({name for r in part for name in r.images} for part in (records, held_out))
        if shared := here & there:
            notes.append(f"{len(shared):,} images of {files.val} are in {files.data} too")
    else:
        apart = split_by_image(records, seed)
        held_out = [record for record in records if record.index in apart]
        records = [record for record in records if record.index not in apart]
        notes.append(f"{len(held_out):,} records held out, by image")
    if processes().is_main_process:
        lines = "".join(json.dumps(asdict(one)) + "\n" for one in checked.left_out)
        (out / "left_out.jsonl").write_text(lines, "utf-8")
    data = RecordData(inputs, records, files.images)
    lengths = [max(checked.lengths[record.index] for record in group) for group in data.groups]
    apart_data = RecordData(inputs, held_out, files.images, alone=True) if held_out else None
    return TrainingData(data, lengths, apart_data, tuple(notes))


def _read_checked(
    file: Path, place: Path, inputs: RecordInputs[R], images: Path, workers: int, quiet: bool
) -> tuple[list[R], CheckedRecords]:
    """The usable records of a file; RequestError: there are none.

    The first process checks, the others, and later runs, read what it found in `place`.
    """
    quiet = quiet or not processes().is_main_process
    with (
        processes().main_process_first(),
        show_progress(f"check {file.name}", 0, quiet, "records") as advance,
    ):
        found = list(read_entries(file, inputs.parse))
        if not found:
            raise RequestError(f"--data {file}: no records in it")
        if place.is_file():
            checked = CheckedRecords.load(place)
        else:
            checked = check_records(found, inputs, images, workers, advance)
            if not checked.lengths:
                first = checked.left_out[0]
                raise RequestError(
                    f"--data {file}: no record can be used; record {first.index}: {first.reason} "
                    f"(images are looked for below {images}: --images)"
                )
            write_text(place, json.dumps(asdict(checked)))
    usable = [r for r in found if not isinstance(r, LeftOut) and r.index in checked.lengths]
    return usable, checked


_HELD_OUT, _MOST_HELD_OUT = 0.02, 2000
"""Part of the records that the best state is chosen by where no other file is given; at most."""


def split_by_image(records: Sequence[FileRecord], seed: int) -> set[int]:
    """Indices of the records to hold out: no image of theirs is in any other record."""
    families: dict[int, list[int]] = {}
    for record, first in zip(records, tie_by_image([r.images for r in records]), strict=True):
        families.setdefault(first, []).append(record.index)
    wanted = min(_MOST_HELD_OUT, round(_HELD_OUT * len(records)))
    members = list(families.values())
    held_out: set[int] = set()
    for place in np.random.default_rng((seed, 5)).permutation(len(members)).tolist():
        if len(held_out) + len(members[place]) <= wanted:
            held_out.update(members[place])
    return held_out
