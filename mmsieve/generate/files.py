"""Training files: groups of labelled texts to and from disk, in the released layout.

A JSON list of `{"image": path or [paths], "text": "... <image> ...", "label": 0-3}`, image paths
relative to a folder (`weizhiwang/unifilter_train_data`). mmsieve adds keys that the published code
ignores: `id`, and where the teacher knows them `right` and `wrong`, characters of the text.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from mmsieve.errors import RequestError, SampleError, Status
from mmsieve.generate.groups import IMAGE_MARK, Group, LabelledText, kind_of
from mmsieve.read.image_folder import ImageFolder
from mmsieve.read.records import Record
from mmsieve.sample import Sample
from mmsieve.table import write_atomically

IMAGES = "images"
"""Folder of the images, beside the training files."""

_FOLDER = 5
"""Letters of a key that name its folder of images: no folder gets too full."""


class TrainingRecord(BaseModel):
    """One entry of a training file."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    image: str | list[str]
    text: str
    label: float
    id: str | int | None = None

    @property
    def images(self) -> list[str]:
        """Paths of the images, in the order of their marks."""
        return [self.image] if isinstance(self.image, str) else self.image


def read_training_file(path: Path) -> list[TrainingRecord]:
    """The entries of a training file; raises RequestError, naming the first that is wrong."""
    try:
        text = path.read_text("utf-8")
        return _ENTRIES.validate_json(text)
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        wanted = 'a JSON list of {"image": path or [paths], "text": "<image> ...", "label": 0-3}'
        raise RequestError(f"{path}: {where}: {first['msg']}; wanted: {wanted}") from error
    except (OSError, ValueError) as error:
        raise RequestError(f"{path}: {error}") from error


_ENTRIES = TypeAdapter(list[TrainingRecord])


def group_entries(group: Group) -> Iterator[dict[str, Any]]:
    """The entries of a group, its images being the files that `image_files` names."""
    names = list(image_files(group))
    for index, told in enumerate(group.texts):
        shown = [names[image] for image in told.images]
        yield {
            "id": f"{group.key}-{index}",
            "image": shown[0] if told.kind == "caption" else shown,
            "text": told.text,
            "label": int(told.label),
            "right": told.right,
            "wrong": told.wrong,
        }


def image_files(group: Group) -> dict[str, bytes]:
    """Relative path -> bytes of the group's images."""
    return {
        f"{IMAGES}/{group.key[:_FOLDER]}/{group.key}-{index}.png": data
        for index, data in enumerate(group.images)
    }


class TrainingFiles:
    """Writes groups into a folder: train.json, val.json, images; each file whole or absent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lines: dict[str, list[str]] = {TRAIN: [], VAL: []}

    def add(self, group: Group, is_val: bool) -> None:
        """Write a group's images and take its texts into one of the files."""
        for name, data in image_files(group).items():
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        lines = self._lines[VAL if is_val else TRAIN]
        lines += [json.dumps(entry, ensure_ascii=False) for entry in group_entries(group)]

    def finish(self) -> dict[str, int]:
        """Write the files; returns their entries by name."""
        for name, lines in self._lines.items():
            text = "[\n" + ",\n".join(lines) + "\n]\n"
            write_atomically(self._folder / name, partial(_write, text))
        return {name: len(lines) for name, lines in self._lines.items()}


TRAIN, VAL = "train.json", "val.json"


def _write(text: str, path: Path) -> None:
    path.write_text(text, "utf-8")


def parse_training_record(folder: Path, record: Record) -> Sample:
    """The sample of a training record, its images read below `folder`; raises SampleError."""
    entry: TrainingRecord = record.fields["text"]
    if entry.text.count(IMAGE_MARK) != len(entry.images):
        marks = entry.text.count(IMAGE_MARK)
        message = f"{len(entry.images)} images, and {marks} <image> in the text"
        raise SampleError(Status.IMAGE_MISSING, message)
    images = tuple(ImageFolder(folder).read(name) for name in entry.images)
    places = tuple(range(len(images)))
    told = LabelledText(kind_of(entry.text), entry.text, entry.label, places)
    return Group(record.key, images, (told,)).sample(told)
