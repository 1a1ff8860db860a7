"""A training file as training data: checked once, grouped by image, split by image."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from torch.utils.data import DataLoader, Dataset

from mmsieve.errors import RequestError, SampleError
from mmsieve.generate.groups import Group, LabelledText, kind_of
from mmsieve.methods.unifilter_inputs import UniFilterPreparer
from mmsieve.read.image_folder import ImageFolder
from mmsieve.shard_job import Progress as Advance
from mmsieve.train.data import PreparedGroup, prepare_group
from mmsieve.train.records import LeftOut, Record, note_records, read_records

_HELD_OUT, _MOST_HELD_OUT = 0.02, 2000
"""Part of the records that the best state is chosen by where no other file is given; at most."""


@dataclass(frozen=True)
class CheckedRecords:
    """The usable records of a file with their length in tokens, and the others with a reason."""

    records: tuple[Record, ...]
    lengths: tuple[int, ...]
    left_out: tuple[LeftOut, ...]

    def note(self, file: Path) -> str:
        """What a user should know of the file."""
        return note_records(file, len(self.records), self.left_out)


class RecordGroups(Dataset[list[PreparedGroup]]):
    """Records with the same images, in any order, as one group per index: each is encoded once."""

    def __init__(
        self, preparer: UniFilterPreparer, records: Iterable[Record], images: Path, together: bool
    ) -> None:
        """`together`: a group of all texts over the same images; else of one text each."""
        self._preparer, self._folder = preparer, ImageFolder(images)
        groups: dict[tuple[str, ...], list[Record]] = {}
        for record in records:
            name = tuple(sorted(set(record.images))) if together else (str(record.index),)
            groups.setdefault(name, []).append(record)
        self.groups = list(groups.values())

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> list[PreparedGroup]:
        """The group; raises SampleError where one of its texts can't be trained on."""
        told = self.groups[index]
        places = {name: place for place, name in enumerate(dict.fromkeys(told[0].images))}
        images = tuple(self._folder.read(name) for name in places)
        texts = tuple(_text(record, places) for record in told)
        return [prepare_group(self._preparer, Group(str(told[0].index), images, texts))]


def _text(record: Record, places: dict[str, int]) -> LabelledText:
    shown = tuple(places[name] for name in record.images)
    return LabelledText(kind_of(record.text), record.text, record.label, shown)


class _Checks(Dataset[int | str]):
    def __init__(self, groups: RecordGroups) -> None:
        self._groups = groups

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: int) -> int | str:
        """The length of a text in tokens, or why it can't be trained on."""
        try:
            (prepared,) = self._groups[index]
        except SampleError as error:
            return f"{error.status}: {error}"
        row = prepared.rows[0]
        images = len(self._groups.groups[index][0].images)
        whole = images * self._groups._preparer.image_tokens == len(row.shown)
        return len(row.ids) if whole else "too long: an image would be cut off"


def check_records(
    file: Path, images: Path, preparer: UniFilterPreparer, workers: int, advance: Advance
) -> CheckedRecords:
    """Prepare every record once, as training will; raises RequestError where none is usable."""
    found = list(read_records(file))
    left_out = [record for record in found if isinstance(record, LeftOut)]
    records = [record for record in found if isinstance(record, Record)]
    alone = RecordGroups(preparer, records, images, together=False)
    loader = DataLoader(_Checks(alone), batch_size=None, num_workers=workers)
    usable: list[Record] = []
    lengths: list[int] = []
    for record, said in zip(records, loader, strict=True):
        advance(1, 1)
        if isinstance(said, str):
            left_out.append(LeftOut(record.index, said))
        else:
            usable.append(record)
            lengths.append(int(said))
    left_out.sort(key=lambda one: one.index)
    if not usable:
        first = left_out[0]
        raise RequestError(
            f"--data {file}: no record can be used; record {first.index}: {first.reason} "
            f"(images are looked for below {images}: --images)"
        )
    return CheckedRecords(tuple(usable), tuple(lengths), tuple(left_out))


def keep_checked(place: Path, make: Callable[[], CheckedRecords]) -> CheckedRecords:
    """The checked records that are in a file, else those that are made now and kept there."""
    if place.is_file():
        kept = json.loads(place.read_text("utf-8"))
        return CheckedRecords(
            tuple(Record(**{**r, "images": tuple(r["images"])}) for r in kept["records"]),
            tuple(kept["lengths"]),
            tuple(LeftOut(**one) for one in kept["left_out"]),
        )
    checked = make()
    part = place.with_suffix(".part")
    part.write_text(json.dumps(asdict(checked)), "utf-8")
    part.replace(place)
    return checked


class Shown(Protocol):
    """What can be split by image."""

    @property
    def index(self) -> int:
        """Its place in its file."""
        ...

    @property
    def images(self) -> tuple[str, ...]:
        """Paths."""
        ...


def split_by_image(records: Sequence[Shown], seed: int) -> set[int]:
    """Indices of the records to hold out: no image of theirs is in any other record."""
    owner: dict[str, str] = {}

    def root(name: str) -> str:
        while owner.setdefault(name, name) != name:
            owner[name] = name = owner[owner[name]]
        return name

    for record in records:
        for name in record.images[1:]:
            owner[root(name)] = root(record.images[0])
    families: dict[str, list[int]] = {}
    for record in records:
        name = root(record.images[0]) if record.images else f"record {record.index}"
        families.setdefault(name, []).append(record.index)
    wanted = min(_MOST_HELD_OUT, round(_HELD_OUT * len(records)))
    names = list(families)
    held_out: set[int] = set()
    for place in np.random.default_rng((seed, 5)).permutation(len(names)).tolist():
        if len(held_out) + len(families[names[place]]) <= wanted:
            held_out.update(families[names[place]])
    return held_out
