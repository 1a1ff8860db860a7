"""Instruction items: images and a conversation, of JSON, JSONL, Parquet files and tars.

An item has turns in one of the forms of `mmsieve.read.conversations`, its images in one of
`IMAGES`, or named by its turns, and whatever else, which is its metadata.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import pyarrow as pa

from mmsieve.errors import RequestError, SampleError, Status
from mmsieve.images import IMAGE_EXTENSIONS
from mmsieve.read import ImageFolder, ReadOptions, Record
from mmsieve.read.conversations import LISTS, PAIRS, TURNS, Dialogue, form_names, put_answer
from mmsieve.read.image_values import image_bytes, image_path, image_values
from mmsieve.read.json_items import parse_json
from mmsieve.read.parquet import holds_bytes, is_image, json_value, pick
from mmsieve.sample import Sample, Text
from mmsieve.wording import counted

_BASE64 = "image_base64_str"
IMAGES = ("image", "images", _BASE64)
"""Fields that may hold the images, the first that does is read."""

_KEYS = ("idx", "id")
_SOURCES = ("image_source", "data_source")
_FOLDER = re.compile(r"path:([1-9])")


def looks_right(fields: Mapping[str, Any]) -> bool:
    """Whether an item has turns, or a Parquet file columns (name -> type) that can hold them."""
    return any(form.is_in(fields) for form in LISTS)


def looks_like_pairs(fields: Mapping[str, Any]) -> bool:
    """Whether an item has a question and an answer, or a Parquet file such columns."""
    return any(form.is_in(fields) for form in PAIRS)


def looks_like_caption(fields: Mapping[str, Any]) -> bool:
    """Whether an item is an image that one answer is about; a Parquet file's rows may be."""
    if not looks_right(fields):
        return False
    columns = {name for name, value in fields.items() if isinstance(value, pa.DataType)}
    if columns:
        return any(name in columns and is_image(fields[name]) for name in IMAGES)
    dialogue = Dialogue(image_values(fields, IMAGES))
    try:
        dialogue.read(fields)
    except SampleError:
        return False
    roles = [turn.role for turn in dialogue.turns if turn.role != "system"]
    return roles == ["user", "assistant"] and len(dialogue.images) == 1


def item_key(item: Mapping[str, Any], stem: str, number: int) -> str:
    """The key of an item: its `idx`, else `id`, else its file's stem and its number there."""
    return _name(item, _KEYS) or f"{stem}-{number:09d}"


def image_source(
    item: Mapping[str, Any],
    images: list[Any] | None = None,
    folder: Path | None = None,
    asked: str | None = None,
) -> str | None:
    """Where an item comes from: as it says itself, else the first folder of its image's path.

    `images`: its values, where they are known. `folder`: what an absolute path is relative to.
    `asked`: the field that says it, or `path:N` for the N-th folder.
    """
    at = _FOLDER.fullmatch(asked or "path:1")
    if at is None:
        return _name(item, (asked or "",))
    # FineVision's rows say it in `source`, which in other layouts may be anything
    named = _SOURCES if item.get("texts") is None else (*_SOURCES, "source")
    if asked is None and (name := _name(item, named)):
        return name
    values = image_values(item, IMAGES) if images is None else images
    paths = (v.get("path") if isinstance(v, Mapping) else image_path(v) for v in values)
    path = next((path for path in paths if isinstance(path, str) and path), None)
    folders = [] if path is None else _folders(path, folder)
    return folders[int(at[1]) - 1] if len(folders) >= int(at[1]) else None


def _folders(path: str, folder: Path | None) -> list[str]:
    """The folders of a path in its shortest form, below the folder of images if it leads there."""
    found = PurePosixPath(os.path.normpath(path))
    if found.is_absolute() and folder is not None:
        places = (Path(folder).absolute(), Path(folder).resolve())
        bases = [base for base in places if found.is_relative_to(base)]
        found = found.relative_to(bases[0]) if bases else found
    return [part for part in found.parts[:-1] if part != "/"]


def _name(item: Mapping[str, Any], fields: tuple[str, ...]) -> str | None:
    for field in fields:
        value = item.get(field)
        if isinstance(value, (int, str)) and not isinstance(value, bool) and value != "":
            return str(value)
    return None


def image_slots(item: Mapping[str, Any], options: ReadOptions) -> list[Any]:
    """The values that stand for an item's images."""
    names = IMAGES if options.image_column is None else (options.image_column,)
    dialogue = Dialogue(image_values(item, names))
    try:
        dialogue.read(item)
    except SampleError:
        return []
    return dialogue.images


Finish: TypeAlias = Callable[[Sample], Sample]
"""What becomes of an instruction sample; raises SampleError."""


def as_caption(sample: Sample) -> Sample:
    """The caption pair of an item: its image, and the only answer; raises SampleError."""
    answers = [turn.text for turn in sample.turns if turn.role == "assistant"]
    if not sample.images:
        raise SampleError(Status.IMAGE_MISSING, "no image beside the turns")
    if len(answers) != 1 or len(sample.images) != 1:
        found = f"{counted(len(sample.images), 'images')} and {counted(len(answers), 'answers')}"
        raise SampleError(Status.CONVERSATION_INVALID, f"{found}, where a caption is one of each")
    parts = (sample.images[0], Text(answers[0]))
    return replace(sample, parts=parts, kind="caption", turns=())


class InstructionParser:
    """Item -> instruction sample."""

    def __init__(
        self, options: ReadOptions, names: tuple[str, ...] = IMAGES, finish: Finish | None = None
    ) -> None:
        """`names`: the fields of images, the first that holds any is read."""
        self._options, self._finish = options, finish
        self._folder = None if options.images is None else ImageFolder(options.images)
        self._names = names if options.image_column is None else (options.image_column,)

    def __call__(self, record: Record) -> Sample:
        """The sample of one item; raises SampleError."""
        read = None if self._folder is None else self._folder.read_once()
        values = image_values(record.fields, self._names)
        return self._sample(record.key, record.fields, values, read)

    def put_caption(self, item: Mapping[str, Any], text: str) -> dict[str, Any]:
        """The field of an item's only answer, with another in its place; raises SampleError."""
        return put_answer(item, text)

    def _sample(
        self,
        key: str,
        item: Mapping[str, Any],
        images: list[Any],
        read: Callable[[str], bytes] | None,
    ) -> Sample:
        dialogue = Dialogue(images)
        dialogue.read(item)
        if self._options.images_first or not dialogue.is_marked:
            dialogue.put_images_first()
        content = {*form_names(TURNS), *dialogue.fields, *self._names}
        metadata = {n: json_value(value) for n, value in item.items() if n not in content}
        values = [*image_values(item, self._names), *dialogue.images]
        asked = self._options.source_column
        metadata["image_source"] = image_source(item, values, self._options.images, asked)
        data = [image_bytes(value, read) for value in dialogue.images]
        sample = Sample.instruction(data, dialogue.turns, key, metadata)
        return sample if self._finish is None else self._finish(sample)


class InstructionRowParser(InstructionParser):
    """Row of a Parquet file -> instruction sample."""

    def __init__(
        self, types: dict[str, pa.DataType], options: ReadOptions, finish: Finish | None = None
    ) -> None:
        if not looks_right(types) and not looks_like_pairs(types):
            wanted = " or ".join(form_names(TURNS))
            raise RequestError(f"no column of turns: {wanted}; there are {types}")
        names = tuple(name for name in IMAGES if name in types and is_image(types[name]))
        if options.image_column is not None:
            names = (pick(types, options.image_column, (), "image", is_image),)
        super().__init__(options, names, finish)
        self.columns = [n for n, type_ in types.items() if n in names or not holds_bytes(type_)]
        """What is read: other columns of bytes are no metadata, and may be large."""

    def key(self, stem: str, row: Mapping[str, Any], number: int) -> str:
        """The key of a row, of its file's stem and the row's number."""
        return item_key(row, stem, number)


caption_parser = partial(InstructionParser, finish=as_caption)
caption_row_parser = partial(InstructionRowParser, finish=as_caption)


# Tars: a json of turns, and image members of the same key (Infinity-MM, LLaVA-OneVision-1.5)


def tar_item(members: Mapping[str, bytes]) -> dict[str, Any]:
    """The item of a tar's members; raises SampleError where their json is none.

    LLaVA-OneVision-1.5 writes a list of turns alone, or `texts` with the `name` of each member.
    """
    if "json" not in members:
        present = ", ".join(members) or "nothing"
        raise SampleError(Status.JSON_INVALID, f"no json member; there is {present}")
    item = parse_json(members["json"])
    if isinstance(item, list):
        item = {"messages": item}
    if not isinstance(item, dict):
        raise SampleError(Status.JSON_INVALID, f"JSON {type(item).__name__}, not an object")
    return item


def tar_looks_right(members: Mapping[str, bytes]) -> bool:
    """Whether a record's members are those of an instruction sample."""
    try:
        return looks_right(tar_item(members))
    except SampleError:
        return False


class InstructionTarParser(InstructionParser):
    """Members of one key -> instruction sample: those that the json names, else all, in order."""

    def __call__(self, record: Record) -> Sample:
        """The sample of one record; raises SampleError."""
        members, item = record.fields, tar_item(record.fields)
        pickled = [name for name in members if name.rpartition(".")[2] in ("jpgs", "videos", "mp4")]
        if item.get("media") == "video" or pickled:
            message = f"{', '.join(pickled) or 'a video'}: neither video nor pickle is read"
            raise SampleError(Status.UNSUPPORTED_MEDIA, message)
        images = [n for n in members if n.rpartition(".")[2] in IMAGE_EXTENSIONS and members[n]]
        stem = record.key.rpartition("/")[2]
        named = [
            _member(str(name), stem, images) for name in image_values(item, ("name", *self._names))
        ]
        chosen = [name for name in named if name is not None]
        if len(chosen) < len(named) or not named:
            chosen = images
        item.pop("name", None)
        return self._sample(record.key, item, [members[name] for name in chosen], None)


def _member(name: str, stem: str, members: list[str]) -> str | None:
    """The member that a json names: by what follows the key in its name, or by all of it."""
    base = name.rpartition("/")[2]
    wanted = (base.lower(), base.removeprefix(f"{stem}.").lower())
    return next((member for member in members if member in wanted), None)
