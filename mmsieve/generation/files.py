"""Training files: labelled texts over images, to and from disk, in the released layout.

That is as in `weizhiwang/unifilter_train_data` (train_classifier.py of Victorwz/UniFilter): a JSON
list of `{"image": path or [paths], "text": "... <image> ...", "label": 0-3}`, one `<image>` per
image where it stands, and paths relative to a folder. mmsieve adds keys that the published code
ignores: `id`, and where the teacher knows them `right` and `wrong`, characters of the text; over
real images also `provenance`.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, field_validator

from mmsieve.errors import RequestError, SampleError, ShardError, Status
from mmsieve.outputs import check_local, write_text
from mmsieve.read import ImageFolder, Record
from mmsieve.read.json_items import read_file
from mmsieve.sample import Image, Part, Sample, Text
from mmsieve.validated import say_invalid
from mmsieve.wording import counted

IMAGE_MARK = "<image>"
CAPTION_HEAD = f"{IMAGE_MARK}\n"
DOCUMENT_JOINT = "\n\n"

TextKind: TypeAlias = Literal["caption", "document"]
Span: TypeAlias = tuple[int, int]
"""Characters of a text: start and end."""


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text over images, its level, and, where a teacher knows them, its right and wrong words."""

    kind: TextKind
    text: str
    label: float
    images: tuple[int, ...]
    """One per `<image>`, as indices into the images of its group."""
    right: tuple[Span, ...] = ()
    wrong: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Images and all the texts that were written over them."""

    key: str
    images: tuple[bytes, ...]
    texts: tuple[LabelledText, ...]

    def sample(self, labelled: LabelledText) -> Sample:
        """A text with its images, as the sample that a scorer would read."""
        if labelled.kind == "caption":
            image = self.images[labelled.images[0]]
            return Sample.caption(image, labelled.text[len(CAPTION_HEAD) :])
        parts: list[Part] = []
        images = iter(labelled.images)
        for index, piece in enumerate(labelled.text.split(IMAGE_MARK)):
            if index:
                parts.append(Image(self.images[next(images)]))
            if text := piece.removeprefix(DOCUMENT_JOINT).removesuffix(DOCUMENT_JOINT):
                parts.append(Text(text))
        return Sample(self.key, tuple(parts))


def kind_of(text: str) -> TextKind:
    """A caption starts with its only image on a line of its own; all else is a document."""
    starts = text.startswith(CAPTION_HEAD) and not text.startswith(IMAGE_MARK + DOCUMENT_JOINT)
    return "caption" if starts and text.count(IMAGE_MARK) == 1 else "document"


TRAIN, VAL, POOL = "train.json", "val.json", "qas.json"
IMAGES = "images"
"""Folder of the images, beside the training files."""

SHARDS = "shards"
"""Folder of tars of the same samples, where a teacher writes them too."""

_FOLDER = 5  # letters of a key that name its folder of images: no folder gets too full


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A record of a training file that can't be used."""

    index: int
    """Its place in the file, from 0."""
    reason: str


class TrainingRecord(BaseModel):
    """One entry of a training file."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    image: str | list[str]
    text: str
    label: float
    id: str | int | None = None

    @field_validator("label", mode="before")
    @classmethod
    def _word(cls, label: object) -> object:
        """A str as the published code reads it: `positive` is 1, any other word 0."""
        try:
            return float(label) if isinstance(label, str) else label
        except ValueError:
            return float(label == "positive")

    @property
    def images(self) -> list[str]:
        """Paths of the images, in the order of their marks."""
        return [self.image] if isinstance(self.image, str) else self.image


R = TypeVar("R")
_WANTED = '{"image": path or [paths], "text": "<image> ...", "label": 0-3}, a list or one a line'


def read_entries(file: Path, parse: Callable[[int, Any], R]) -> Iterator[R | LeftOut]:
    """The records of a JSON list or JSONL file, in order; `parse` raises ValueError for a bad one.

    Raises RequestError where the file can't be read on.
    """
    try:
        for index, _, entry in read_file(file):
            try:
                if isinstance(entry, SampleError):
                    raise ValueError(str(entry))
                found: R | LeftOut = parse(index, entry)
            except ValueError as error:
                found = LeftOut(index, say_invalid(error))
            yield found
    except ShardError as error:
        raise RequestError(f"{file}: {error}; wanted: a JSON list, or an object a line") from error


def parse_training_entry(index: int, entry: Any) -> TrainingRecord:
    """The record of an entry of a training file; raises ValueError where it is none."""
    return TrainingRecord.model_validate(entry)


def read_training_file(
    path: Path, parse: Callable[[int, Any], TrainingRecord] = parse_training_entry
) -> tuple[list[TrainingRecord], list[LeftOut]]:
    """The records of a training file, and those that are none; RequestError where all are."""
    if not path.is_file():
        check_local(path, "--data")
        raise RequestError(f"{path}: no such file")
    found = list(read_entries(path, parse))
    left_out = [one for one in found if isinstance(one, LeftOut)]
    if found and len(left_out) == len(found):
        first = f"record {left_out[0].index}: {left_out[0].reason}"
        raise RequestError(f"{path}: no record can be used; {first}; wanted: {_WANTED}")
    return [one for one in found if not isinstance(one, LeftOut)], left_out


def text_fields(names: Sequence[str], texts: Iterable[LabelledText]) -> Iterator[dict[str, Any]]:
    """The entries, without their ids, of texts over images, the files `names`.

    Raises ValueError for a text over another image.
    """
    for one in texts:
        if (highest := max(one.images, default=-1)) >= len(names):
            raise ValueError(f"it is over image {highest + 1}, and the plan has {len(names)}")
        shown = [names[image] for image in one.images]
        yield {
            "image": shown[0] if one.kind == "caption" else shown,
            "text": one.text,
            "label": int(one.label),
            "right": one.right,
            "wrong": one.wrong,
        }


def image_names(key: str, suffixes: Sequence[str]) -> list[str]:
    """Relative paths of the images of one key."""
    folder = f"{IMAGES}/{key[:_FOLDER]}"
    return [f"{folder}/{key}-{index}.{suffix}" for index, suffix in enumerate(suffixes)]


class TrainingFiles:
    """Writes records into a folder: train.json, val.json, images; each file whole or absent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lines: dict[str, list[str]] = {TRAIN: [], VAL: []}

    def add_images(self, key: str, images: Sequence[bytes]) -> None:
        """Write PNG files under the names that entries of this key have for them."""
        names = image_names(key, ["png"] * len(images))
        for name, data in zip(names, images, strict=True):
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    def add(
        self,
        key: str,
        entries: Iterable[dict[str, Any]],
        is_val: bool,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        """Take entries into one of the files, each with an id (KEY-0, ...) and `provenance`."""
        last = {} if provenance is None else {"provenance": provenance}
        lines = self._lines[VAL if is_val else TRAIN]
        lines += [
            json.dumps({"id": f"{key}-{index}", **entry, **last}, ensure_ascii=False)
            for index, entry in enumerate(entries)
        ]

    def add_to_pool(self, items: Iterable[dict[str, Any]]) -> None:
        """Take items into qas.json, which is only there where there are any."""
        lines = [json.dumps(item, ensure_ascii=False) for item in items]
        if lines:
            self._lines.setdefault(POOL, []).extend(lines)

    def finish(self) -> dict[str, int]:
        """Write the files; returns how many entries the first two have."""
        for name, lines in self._lines.items():
            text = "[\n" + ",\n".join(lines) + "\n]\n"
            write_text(self._folder / name, text)
        return {name: len(self._lines[name]) for name in (TRAIN, VAL)}


def parse_training_record(folder: Path, record: Record) -> Sample:
    """The sample of a training record, its images read below `folder`; raises SampleError."""
    entry: TrainingRecord = record.fields["text"]
    if entry.text.count(IMAGE_MARK) != len(entry.images):
        marks = entry.text.count(IMAGE_MARK)
        message = f"{counted(len(entry.images), 'images')}, and {marks} <image> in the text"
        raise SampleError(Status.IMAGE_MISSING, message)
    images = tuple(ImageFolder(folder).read(name) for name in entry.images)
    places = tuple(range(len(images)))
    text = LabelledText(kind_of(entry.text), entry.text, entry.label, places)
    return Group(record.key, images, (text,)).sample(text)


def choose_val(images: Sequence[Sequence[str]], fraction: float, seed: int) -> list[bool]:
    """For each item, given by the sha256 of its images, whether it is for validation.

    Items that are tied by images stay together: at least `fraction` of the items is for validation,
    and more only by what the last ones are tied to.
    """
    members: dict[int, list[int]] = {}
    for item, root in enumerate(tie_by_image(images)):
        members.setdefault(root, []).append(item)
    groups = list(members.values())
    is_val = [False] * len(images)
    wanted = round(fraction * len(images))
    for index in np.random.default_rng((seed, 7)).permutation(len(groups)).tolist():
        if wanted <= 0:
            break
        for item in groups[index]:
            is_val[item] = True
        wanted -= len(groups[index])
    return is_val


def tie_by_image(images: Sequence[Sequence[str]]) -> list[int]:
    """For each item the first one that it shares an image with, directly or through others."""
    parent = list(range(len(images)))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = item = parent[parent[item]]
        return item

    first: dict[str, int] = {}
    for item, shown in enumerate(images):
        for sha256 in shown:
            one, other = root(first.setdefault(sha256, item)), root(item)
            parent[max(one, other)] = min(one, other)
    return [root(item) for item in range(len(images))]
