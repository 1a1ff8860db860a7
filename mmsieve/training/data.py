"""Training data of classifiers: groups of images and texts, checked, and split by image."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmsieve.errors import RequestError, SampleError
from mmsieve.generation.files import Group, LabelledText, Span, kind_of
from mmsieve.methods.tokenizer import IMAGE
from mmsieve.methods.unifilter.inputs import Item, UniFilterPreparer
from mmsieve.progress import Advance
from mmsieve.read.records import ImageFolder
from mmsieve.training.records import LeftOut, Record, note_records, read_records

# Groups of images and texts -> a model's training inputs, made by the method's own Preparer

IGNORED = -100
"""A target that no loss looks at, as torch has it."""
RIGHT, WRONG = 0, 1
KINDS = ("caption", "document")


@dataclass(frozen=True, slots=True)
class Row:
    """One text as a sequence with its targets."""

    ids: npt.NDArray[np.int32]
    """An IMAGE for every embedding of an image."""
    shown: npt.NDArray[np.int32]
    """Per IMAGE id, which of the group's embeddings (image * tokens per image + token) it is."""
    facts: npt.NDArray[np.int8]
    """Per id: WRONG or RIGHT where it ends a word that states a fact, IGNORED elsewhere."""
    label: float
    kind: int


@dataclass(frozen=True, slots=True)
class PreparedGroup:
    """Pixels [images, size, size, 3], and the rows that look at them."""

    pixels: npt.NDArray[np.uint8]
    rows: tuple[Row, ...]


def prepare_group(preparer: UniFilterPreparer, group: Group) -> PreparedGroup:
    """The inputs of a group; an image that several of its texts show is kept once."""
    pixels: dict[int, npt.NDArray[np.uint8]] = {}
    rows = []
    for labelled in group.texts:
        item = preparer.prepare(group.sample(labelled))
        places = [
            list(pixels).index(image)
            for image, values in zip(labelled.images, item.images, strict=False)
            if pixels.setdefault(image, values) is not None
        ]
        rows.append(_row(preparer, labelled, item, places))
    return PreparedGroup(np.stack(list(pixels.values())), tuple(rows))


def text_by_text(group: Group) -> list[Group]:
    """A group for each text of a group."""
    return [replace(group, texts=(told,)) for told in group.texts]


def _row(preparer: UniFilterPreparer, labelled: LabelledText, item: Item, places: list[int]) -> Row:
    """A text's item with each IMAGE spread over its embeddings; `places`: of its images."""
    tokens = preparer.image_tokens
    repeats = np.where(item.ids == IMAGE, tokens, 1)
    ids = np.repeat(item.ids, repeats)[: item.num_tokens]
    facts = np.repeat(_facts(preparer, labelled, item.ids), repeats)[: item.num_tokens]
    shown = (np.array(places, np.int32)[:, None] * tokens + np.arange(tokens)).ravel()
    kept = int((ids == IMAGE).sum())
    return Row(ids, shown[:kept], facts, labelled.label, KINDS.index(labelled.kind))


def _facts(
    preparer: UniFilterPreparer, labelled: LabelledText, ids: npt.NDArray[np.int32]
) -> npt.NDArray[np.int8]:
    """The targets of Row.facts; what lies beyond a cut has none."""
    targets = np.full(len(ids), IGNORED, np.int8)
    if not labelled.right and not labelled.wrong:
        return targets
    encoded, spans = preparer.encode(labelled.text)
    ends = {end: index for index, (start, end) in enumerate(spans) if end > start}
    if encoded[: len(ids)] != ids.tolist():
        raise ValueError("a training text and its scoring input differ in their ids")
    for value, known in ((RIGHT, labelled.right), (WRONG, labelled.wrong)):
        for index in _last_tokens(known, ends):
            if index < len(ids):
                targets[index] = value
    return targets


def _last_tokens(words: Sequence[Span], ends: dict[int, int]) -> list[int]:
    return [ends[end] for _, end in words if end in ends]


def collate(steps: list[list[PreparedGroup]], image_tokens: int) -> dict[str, Tensor]:
    """Groups as one batch: rows padded to the longest, each image once.

    `pixels` [images, size, size, 3] uint8; `shown` [IMAGE ids] says which of their embeddings
    each stands for, in row-major order; `input_ids`, `facts` [rows, longest]; `lengths`,
    `labels`, `kinds` [rows].
    """
    groups = [group for step in steps for group in step]
    rows = [row for group in groups for row in group.rows]
    shown, before = [], 0
    for group in groups:
        shown += [row.shown + before for row in group.rows]
        before += len(group.pixels) * image_tokens
    return {
        "pixels": torch.from_numpy(np.concatenate([group.pixels for group in groups])),
        "shown": torch.from_numpy(np.concatenate(shown)),
        "input_ids": _padded([row.ids for row in rows], 0),
        "facts": _padded([row.facts for row in rows], IGNORED),
        "lengths": torch.tensor([len(row.ids) for row in rows]),
        "labels": torch.tensor([row.label for row in rows]),
        "kinds": torch.tensor([row.kind for row in rows]),
    }


def _padded(arrays: list[npt.NDArray[Any]], fill: int) -> Tensor:
    longest = max(len(array) for array in arrays)
    padded = np.full((len(arrays), longest), fill, np.int64)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(padded)


# A training file as training data: checked once, grouped by image, split by image

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
