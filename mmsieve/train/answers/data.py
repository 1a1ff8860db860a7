"""Data sets of examples: drawn while they are used, or the records of a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import DataLoader, Dataset

from mmsieve.errors import RequestError, SampleError
from mmsieve.shard_job import Progress as Advance
from mmsieve.train.answers.examples import Example
from mmsieve.train.recipe import Scenes
from mmsieve.train.records import LeftOut, read_list
from mmsieve.train.rendered import choose_family


class Examples(Protocol):
    """Makes examples of one kind of answer."""

    def draw(self, seed: int, index: int, family: str, scenes: Scenes) -> list[Example]:
        """Those of a rendered scene."""
        ...

    def read(self, entry: dict[str, Any], images: Path) -> list[Example]:
        """Those of a record of a file; raises SampleError or ValueError."""
        ...


class RenderedExamples(Dataset[list[Example]]):
    """A step's worth of drawn examples per index, all of one family; the same ones every time."""

    def __init__(self, examples: Examples, wanted: Scenes, batch: int, seed: int) -> None:
        self._examples, self._wanted = examples, wanted
        self._batch, self._seed = batch, seed

    def __len__(self) -> int:
        return self._wanted.groups // self._batch

    def __getitem__(self, step: int) -> list[Example]:
        """The examples of a step."""
        family = choose_family(self._wanted.families, (self._seed, 3, step))
        first = step * self._batch
        return [
            example
            for index in range(first, first + self._batch)
            for example in self._examples.draw(self._seed, index, family, self._wanted)
        ]


@dataclass(frozen=True, slots=True)
class Entry:
    """A record of a file as it stands there."""

    index: int
    """Its place in the file, from 0."""
    images: tuple[str, ...]
    """Paths; none for a sample without an image."""
    fields: dict[str, Any]


class EntryExamples(Dataset[list[Example]]):
    """The examples of one record per index."""

    def __init__(self, examples: Examples, entries: list[Entry], images: Path) -> None:
        self._examples, self.entries, self._images = examples, entries, images

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> list[Example]:
        """The record's examples; raises SampleError or ValueError where there are none."""
        return self._examples.read(self.entries[index].fields, self._images)


def read_entries(file: Path) -> list[Entry | LeftOut]:
    """The records of a JSON list, in order; raises RequestError where it is none."""
    return [_entry(index, fields) for index, fields in enumerate(read_list(file))]


def _entry(index: int, fields: Any) -> Entry | LeftOut:
    if not isinstance(fields, dict):
        return LeftOut(index, "not an object")
    image = fields.get("image")
    paths = image if isinstance(image, list) else [image]
    return Entry(index, tuple(path for path in paths if isinstance(path, str)), fields)


@dataclass(frozen=True)
class Checked:
    """What can be learnt from of a file, by index, and what can't."""

    lengths: dict[int, int]
    """Record -> tokens of its longest example."""
    left_out: list[LeftOut]


def check_entries(
    file: Path, examples: Examples, images: Path, workers: int, advance: Advance
) -> Checked:
    """Make every record's examples once; raises RequestError where no record can be used."""
    found = read_entries(file)
    left_out = [one for one in found if isinstance(one, LeftOut)]
    entries = [one for one in found if isinstance(one, Entry)]
    made = _Checks(EntryExamples(examples, entries, images))
    lengths: dict[int, int] = {}
    loader = DataLoader(made, batch_size=None, num_workers=workers)
    for entry, said in zip(entries, loader, strict=True):
        advance(1, 1)
        if isinstance(said, str):
            left_out.append(LeftOut(entry.index, said))
        else:
            lengths[entry.index] = int(said)
    left_out.sort(key=lambda one: one.index)
    if not lengths:
        first = left_out[0]
        raise RequestError(
            f"--data {file}: no record can be used; record {first.index}: {first.reason} "
            f"(images are looked for below {images}: --images)"
        )
    return Checked(lengths, left_out)


class _Checks(Dataset[int | str]):
    def __init__(self, made: EntryExamples) -> None:
        self._made = made

    def __len__(self) -> int:
        return len(self._made)

    def __getitem__(self, index: int) -> int | str:
        """Tokens of a record's longest example, or why it can't be trained on."""
        try:
            return max(map(len, self._made[index]))
        except SampleError as error:
            return f"{error.status}: {error}"
        except ValueError as error:
            return str(error)
