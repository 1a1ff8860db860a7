"""Training files in the published layouts -> records with their levels, the odd ones with a reason.

Stage 2: a JSON list of `{"image": path or [paths], "text": "... <image> ...", "label": ...}`
(`weizhiwang/unifilter_train_data`, train_classifier.py of Victorwz/UniFilter). Stage 1: LLaVA's
`{"image": path, "conversations": [..., {"from": "gpt", "value": caption}]}` (LLaVA-Pretrain).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError, field_validator

from mmsieve.errors import RequestError
from mmsieve.generation.files import CAPTION_HEAD, IMAGE_MARK, TrainingRecord
from mmsieve.labels import LEVELS, POSITIVE


@dataclass(frozen=True, slots=True)
class Record:
    """A text over images, at a level."""

    index: int
    """Its place in the file, from 0."""
    images: tuple[str, ...]
    """Paths, one per `<image>`."""
    text: str
    label: float


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A record that can't be trained on."""

    index: int
    reason: str


class _Labelled(TrainingRecord):
    @field_validator("label", mode="before")
    @classmethod
    def _word(cls, label: object) -> object:
        """A str as the published code reads it: `positive` is 1, any other word 0."""
        if not isinstance(label, str):
            return label
        try:
            return float(label)
        except ValueError:
            return float(label == "positive")


class _Turn(BaseModel):
    value: str


class _Conversation(BaseModel):
    image: str
    conversations: list[_Turn]


def read_list(file: Path) -> list[Any]:
    """The entries of a training file; raises RequestError where it is not a JSON list of some."""
    try:
        entries = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"--data {file}: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise RequestError(f"--data {file}: not a JSON list of records")
    return entries


def note_records(file: Path, usable: int, left_out: Sequence[LeftOut]) -> str:
    """What a user should know of a file: how many records it has, and how many are left out."""
    total = usable + len(left_out)
    if not left_out:
        return f"{file}: {total:,} records"
    first = left_out[0]
    return (
        f"{file}: {total:,} records, {len(left_out):,} left out (left_out.jsonl; record "
        f"{first.index}: {first.reason})"
    )


def write_left_out(folder: Path, left_out: Sequence[LeftOut]) -> None:
    """Name what is left out in the folder's left_out.jsonl."""
    lines = "".join(json.dumps(asdict(one)) + "\n" for one in left_out)
    (folder / "left_out.jsonl").write_text(lines, "utf-8")


def read_records(file: Path) -> Iterator[Record | LeftOut]:
    """Every record of a training file, in order; raises RequestError where it is not a JSON list.

    A record with `conversations` is a caption of the highest level, its last turn.
    """
    for index, entry in enumerate(read_list(file)):
        try:
            yield _record(index, entry)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            yield LeftOut(index, f"{where}: {first['msg']}" if where else first["msg"])
        except ValueError as error:
            yield LeftOut(index, str(error))


def _record(index: int, entry: Any) -> Record:
    if isinstance(entry, dict) and "conversations" in entry:
        told = _Conversation.model_validate(entry)
        if not told.conversations:
            raise ValueError("conversations: no turn in it")
        caption = told.conversations[-1].value.replace(IMAGE_MARK, "image").strip()
        return Record(index, (told.image,), CAPTION_HEAD + caption, POSITIVE)
    found = _Labelled.model_validate(entry)
    if not LEVELS[0] <= found.label <= LEVELS[-1]:
        raise ValueError(f"label: {found.label:g} is not from {LEVELS[0]} to {LEVELS[-1]}")
    marks = found.text.count(IMAGE_MARK)
    if marks != len(found.images) or not marks:
        raise ValueError(f"text: {marks} <image> in it for {len(found.images)} images")
    return Record(index, tuple(found.images), found.text, found.label)
