"""Training files: read once, each record checked or left out with a reason, split by image.

The same for classifiers and for supervised fine-tuning: what differs, which fields a record has and
what a model reads of it, is a `RecordInputs` (`mmsieve.training.data`).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from pydantic import TypeAdapter
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from mmsieve.errors import RequestError, SampleError
from mmsieve.generation.files import LeftOut, read_entries, tie_by_image
from mmsieve.outputs import write_text
from mmsieve.progress import Advance, show_progress
from mmsieve.read import ImageFolder
from mmsieve.training.options import STAGES, DataFiles, TrainingFile, processes
from mmsieve.validated import read_json_file, say_invalid
from mmsieve.wording import counted


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
        total = f"{file}: {counted(len(self.lengths) + len(self.left_out), 'records')}"
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
class Mixture:
    """Which items of several files come in each pass over them."""

    sizes: tuple[int, ...]
    """Items of each file."""
    weights: tuple[float, ...]
    """How often those of each come in a pass."""

    def counts(self) -> list[int]:
        """Items of each file in a pass."""
        return [round(size * w) for size, w in zip(self.sizes, self.weights, strict=True)]

    def __len__(self) -> int:
        return sum(self.counts())

    def items(self, seed: int, epoch: int) -> list[int]:
        """Their indices in a pass, file by file; passes that take a part take another one each."""
        found: list[int] = []
        before = 0
        for file, (size, count) in enumerate(zip(self.sizes, self.counts(), strict=True)):
            start = epoch * count
            for turn in range(start // max(size, 1), -(-(start + count) // max(size, 1))):
                order = range(size)
                if count != size:
                    order = np.random.default_rng((seed, 8, file, turn)).permutation(size).tolist()
                here = slice(max(0, start - turn * size), start + count - turn * size)
                found += [before + item for item in order[here]]
            before += size
        return found


@dataclass(frozen=True)
class TrainingData:
    """Data sets of a stage; see `mmsieve.training.trainer.Stage`."""

    data: Dataset[Any]
    lengths: list[int] | None = None
    mixture: Mixture | None = None
    held_out: Dataset[Any] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Opened(Generic[R]):
    """A training file that was read."""

    place: TrainingFile
    records: list[R]
    """Those that can be used."""
    checked: CheckedRecords

    def images(self) -> list[tuple[str, ...]]:
        """Of each record the images, by names that are theirs among all files."""
        return [tuple(str(self.place.images / n) for n in r.images) for r in self.records]

    def data(self, inputs: RecordInputs[R], records: Sequence[R], *, alone: bool) -> RecordData:
        """Some of the records as training data."""
        return RecordData(inputs, records, self.place.images, alone=alone)


def open_files(
    files: DataFiles,
    inputs: RecordInputs[R],
    out: Path,
    seed: int,
    *,
    workers: int,
    quiet: bool,
    name: str = "",
) -> TrainingData:
    """The usable records of training files, the held-out ones apart.

    `out` is the folder of the training; `name` tells the files of an earlier stage in it from those
    of the last one.
    """

    def read(places: Sequence[TrainingFile], kind: str) -> list[_Opened[R]]:
        found = []
        for number, place in enumerate(places):
            saved = out / STAGES / f"{name}{kind}{f'-{number + 1}' if number else ''}.json"
            records, checked = _read_checked(place, saved, inputs, workers, quiet)
            found.append(_Opened(place, records, checked))
        return found

    opened = read(files.data, "data")
    notes = [one.checked.note(one.place.file) for one in opened]
    kept = [one.records for one in opened]
    if files.val:
        others = read(files.val, "val")
        notes += [one.checked.note(one.place.file) for one in others]
        apart = [one.records for one in others]
        notes += _shared(opened, others)
    else:
        others, apart = opened, []
        seen = [shown for one in opened for shown in one.images()]
        places = iter(range(len(seen)))
        held = split_by_image(seen, seed)
        for at, one in enumerate(opened):
            here = [(next(places) in held, record) for record in one.records]
            kept[at] = [record for is_apart, record in here if not is_apart]
            apart.append([record for is_apart, record in here if is_apart])
        notes.append(f"{counted(len(held), 'records')} held out, by image")
    _note_left_out(opened, out)
    parts = [one.data(inputs, r, alone=False) for one, r in zip(opened, kept, strict=True)]
    lengths = [
        max(one.checked.lengths[record.index] for record in group)
        for one, part in zip(opened, parts, strict=True)
        for group in part.groups
    ]
    mixture = Mixture(tuple(map(len, parts)), tuple(place.weight for place in files.data))
    alone = [one.data(inputs, r, alone=True) for one, r in zip(others, apart, strict=True) if r]
    held_out: Dataset[Any] | None = ConcatDataset(alone) if alone else None
    return TrainingData(ConcatDataset(parts), lengths, mixture, held_out, tuple(notes))


def _shared(data: Sequence[_Opened[R]], val: Sequence[_Opened[R]]) -> list[str]:
    """A note on images that are on both sides."""
    here, there = ({n for o in side for shown in o.images() for n in shown} for side in (data, val))
    names = [", ".join(str(one.place.file) for one in side) for side in (val, data)]
    count = len(here & there)
    return [f"{counted(count, 'images')} of {names[0]} also in {names[1]}"] if count else []


def _note_left_out(opened: Sequence[_Opened[R]], out: Path) -> None:
    """Write what can't be used to `left_out.jsonl`, with the file where there are several."""
    if not processes().is_main_process:
        return
    lines = ""
    for one in opened:
        file = {} if len(opened) == 1 else {"file": str(one.place.file)}
        lines += "".join(json.dumps(file | asdict(r)) + "\n" for r in one.checked.left_out)
    (out / "left_out.jsonl").write_text(lines, "utf-8")


def _read_checked(
    place: TrainingFile, saved: Path, inputs: RecordInputs[R], workers: int, quiet: bool
) -> tuple[list[R], CheckedRecords]:
    """The usable records of a file; RequestError: there are none.

    The first process checks, the others, and later runs, read what it found in `saved`.
    """
    file, images = place.file, place.images
    quiet = quiet or not processes().is_main_process
    with (
        processes().main_process_first(),
        show_progress(f"check {file.name}", 0, quiet, "records") as advance,
    ):
        found = list(read_entries(file, inputs.parse))
        if saved.is_file():
            checked = CheckedRecords.load(saved)
        else:
            checked = check_records(found, inputs, images, workers, advance)
            if not checked.lengths:
                raise _useless(place, checked.left_out)
            write_text(saved, json.dumps(asdict(checked)))
    usable = [r for r in found if not isinstance(r, LeftOut) and r.index in checked.lengths]
    return usable, checked


def find_usable(files: DataFiles, parse: Callable[[int, Any], FileRecord]) -> None:
    """Raise RequestError for a file without a record of the right form whose images are there.

    It reads no further than to the first one. What a model makes of them is seen when it is there;
    what no model could use is said before anything is trained.
    """
    for place in (*files.data, *files.val):
        folder = ImageFolder(place.images)
        left_out: list[LeftOut] = []
        for record in read_entries(place.file, parse):
            if not isinstance(record, LeftOut):
                try:
                    for name in record.images:
                        folder.find(name)
                    break
                except SampleError as error:
                    record = LeftOut(record.index, f"{error.status}: {error}")
            left_out = left_out or [record]
        else:
            raise _useless(place, left_out)


def _useless(place: TrainingFile, left_out: Sequence[LeftOut]) -> RequestError:
    """Why nothing can be learned from a file."""
    if not left_out:
        return RequestError(f"--data {place.file}: no records in it")
    return RequestError(
        f"--data {place.file}: no record can be used; record {left_out[0].index}: "
        f"{left_out[0].reason} (images are looked for below {place.images}: --images)"
    )


_HELD_OUT, _MOST_HELD_OUT = 0.02, 2000
"""Part of the records that the best state is chosen by where no other file is given; at most."""


def split_by_image(images: Sequence[Sequence[str]], seed: int) -> set[int]:
    """Places of the records to hold out, by the images of each: none is in any other record."""
    families: dict[int, list[int]] = {}
    for place, first in enumerate(tie_by_image(images)):
        families.setdefault(first, []).append(place)
    wanted = min(_MOST_HELD_OUT, round(_HELD_OUT * len(images)))
    members = list(families.values())
    held_out: set[int] = set()
    for place in np.random.default_rng((seed, 5)).permutation(len(members)).tolist():
        if len(held_out) + len(members[place]) <= wanted:
            held_out.update(members[place])
    return held_out
