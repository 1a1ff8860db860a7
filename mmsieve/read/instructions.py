"""Instruction items: images and a conversation's turns, of JSON, JSONL and Parquet files.

An item has `conversations` or `messages`, an optional `image` (or `images`): a path, bytes, an
object of both, or a list of those, and whatever else, which is its metadata.
"""

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from mmsieve.errors import RequestError, SampleError, Status
from mmsieve.read import ImageFolder, ReadOptions, Record, decode_text, duplicate
from mmsieve.read.json_items import numbered, parse_object
from mmsieve.read.parquet import holds_bytes, is_image, is_turns, json_value, names_paths, pick
from mmsieve.sample import Role, Sample, Turn

TURNS = ("conversations", "messages")
"""Fields that may hold the turns, the first that does is read."""

IMAGES = ("image", "images")
"""Fields that may hold the images, the first that does is read."""

_KEYS = ("idx", "id")
_SOURCES = ("image_source", "data_source")

MARK = "<image>"
"""What stands in a turn's text wherever an image does."""

_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}
_TEXT_PARTS = ("text", "input_text", "output_text")
_IMAGE_PARTS = ("image", "image_url", "input_image")


def read_turns(item: Mapping[str, Any]) -> tuple[list[Turn], list[Any]]:
    """The turns of an item, and the images that they name themselves; raises SampleError.

    A turn is {`from`, `value`} or {`role`, `content`}. A content that is a list of parts becomes a
    text with the parts on lines of their own, each image as its mark.
    """
    name = next((name for name in TURNS if item.get(name) is not None), None)
    if name is None:
        raise SampleError(Status.TEXT_MISSING, f"neither {' nor '.join(TURNS)}")
    turns, images = item[name], list[Any]()
    if not isinstance(turns, list):
        raise SampleError(Status.JSON_INVALID, f"`{name}` is not a list of turns")
    if not turns:
        raise SampleError(Status.TEXT_MISSING, f"`{name}` is empty")
    return [_turn(turn, number, images) for number, turn in enumerate(turns)], images


def _turn(turn: Any, number: int, images: list[Any]) -> Turn:
    if not isinstance(turn, Mapping):
        raise SampleError(Status.JSON_INVALID, f"turn {number} is not an object")
    role = turn.get("role") if turn.get("from") is None else turn["from"]
    content = turn.get("content") if turn.get("value") is None else turn["value"]
    if not isinstance(role, str) or role not in _ROLES:
        message = f"turn {number} is from {role!r:.40}, not one of {', '.join(_ROLES)}"
        raise SampleError(Status.JSON_INVALID, message)
    if content is None:
        raise SampleError(Status.TEXT_MISSING, f"turn {number} has no text")
    parts = content if isinstance(content, list) else [content]
    return Turn(_ROLES[role], "\n".join(_part(part, number, images) for part in parts))


def _part(part: Any, number: int, images: list[Any]) -> str:
    """A part's text; the image that it names is added to `images`."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in _IMAGE_PARTS:
        named = [part[name] for name in ("image", "image_url", "url", "path") if part.get(name)]
        images += [n["url"] if isinstance(n, Mapping) and "url" in n else n for n in named[:1]]
        return MARK
    text = part.get("text") if kind in _TEXT_PARTS else part
    if isinstance(text, bytes):  # of a Parquet column that is not UTF-8
        return decode_text(text)
    if not isinstance(text, str):
        what = f"a part of type {kind!r:.40}" if kind is not None else type(part).__name__
        message = f"turn {number} holds {what}, neither text nor image"
        raise SampleError(Status.JSON_INVALID, message)
    return text


def looks_right(fields: Mapping[str, Any]) -> bool:
    """Whether an item has turns, or a Parquet file a column (name -> type) that can hold them."""
    found = [fields[name] for name in TURNS if name in fields]
    return any(is_turns(v) if isinstance(v, pa.DataType) else isinstance(v, list) for v in found)


def item_key(item: Mapping[str, Any], stem: str, number: int) -> str:
    """The key of an item: its `idx`, else `id`, else its file's stem and its number there."""
    return _name(item, _KEYS) or f"{stem}-{number:09d}"


def image_source(item: Mapping[str, Any]) -> str | None:
    """Where an item comes from: as it says itself, else the first folder of its image's path."""
    if named := _name(item, _SOURCES):
        return named
    images = _images(item, IMAGES)
    path = _path(images[0]) if images else None
    if path is None or path.startswith("data:"):
        return None
    return next((part for part in PurePosixPath(path).parts[:-1] if part != "/"), None)


def _name(item: Mapping[str, Any], fields: tuple[str, ...]) -> str | None:
    for field in fields:
        value = item.get(field)
        if isinstance(value, (int, str)) and not isinstance(value, bool) and value != "":
            return str(value)
    return None


def names_image_files(item: Mapping[str, Any]) -> bool:
    """Whether an item's images are files elsewhere, to be found with --images."""
    try:
        images = _images(item, IMAGES) or read_turns(item)[1]
    except SampleError:
        return False
    return any(_is_file(image) for image in images)


def read_items(items: Iterable[bytes], start: int, stop: int, stem: str) -> Iterator[Record]:
    """Items `start` to `stop` (one past it), parsed here and not in a worker: the key is inside."""
    seen: set[str] = set()
    for number, data, problem in numbered(items, start, stop):
        fields: dict[str, Any] = {}
        try:
            fields = fields if problem else parse_object(data)
        except SampleError as error:
            problem = error
        key = item_key(fields, stem, number)
        if problem is None and key in seen:
            problem = duplicate(key)
        yield Record(key, fields, problem)
        seen.add(key)


class InstructionParser:
    """Item -> instruction sample."""

    def __init__(self, images: Path | None, image_names: tuple[str, ...] = IMAGES) -> None:
        self._folder = None if images is None else ImageFolder(images)
        self._image_names = image_names

    def __call__(self, record: Record) -> Sample:
        """The sample of one item; raises SampleError."""
        item = record.fields
        turns, named = read_turns(item)
        read = None if self._folder is None else self._folder.read_once()
        images = [_image(value, read) for value in _images(item, self._image_names) or named]
        content = (*TURNS, *self._image_names)
        metadata = {n: json_value(value) for n, value in item.items() if n not in content}
        metadata["image_source"] = image_source(item)
        return Sample.instruction(images, turns, record.key, metadata)


class InstructionRowParser(InstructionParser):
    """Row of a Parquet file -> instruction sample."""

    def __init__(self, types: dict[str, pa.DataType], options: ReadOptions) -> None:
        if not looks_right(types):
            raise RequestError(f"no column of turns: {' or '.join(TURNS)}; there are {types}")
        names = tuple(name for name in IMAGES if name in types and is_image(types[name]))
        if options.image_column is not None:
            names = (pick(types, options.image_column, (), "image", is_image),)
        if options.images is None and any(names_paths(types[name]) for name in names):
            raise RequestError(f"column {names[0]} has paths: say with --images DIR where they are")
        super().__init__(options.images, names)
        self.columns = [n for n, type_ in types.items() if n in names or not holds_bytes(type_)]
        """What is read: other columns of bytes are no metadata, and may be large."""

    def key(self, stem: str, row: Mapping[str, Any], number: int) -> str:
        """The key of a row, of its file's stem and the row's number."""
        return item_key(row, stem, number)


def _image(value: Any, read: Callable[[str], bytes] | None) -> bytes:
    """The bytes of an image: as they are, behind a data: address, or in a file."""
    data = value.get("bytes") if isinstance(value, Mapping) else value
    if isinstance(data, bytes):
        return data
    path = _path(value)
    if path is None:
        raise SampleError(Status.JSON_INVALID, f"an image is {value!r:.60}, no path or bytes")
    if path.startswith("data:"):
        return _decoded(path)
    if "://" in path:
        raise SampleError(Status.IMAGE_MISSING, f"{path!r:.200} is an address, not a file")
    if read is None:
        message = f"only the path {path!r:.200} is there: say --images DIR"
        raise SampleError(Status.IMAGE_MISSING, message)
    return read(path)


def _images(item: Mapping[str, Any], names: tuple[str, ...]) -> list[Any]:
    """The values that stand for an item's images; none for null, an empty path or list."""
    for name in names:
        value = item.get(name)
        if isinstance(value, list) and value:
            return value
        if value not in (None, "", [], {"bytes": None, "path": None}):
            return [value]
    return []


def _path(value: Any) -> str | None:
    path = value.get("path") if isinstance(value, Mapping) else value
    return path if isinstance(path, str) and path else None


def _is_file(value: Any) -> bool:
    has_bytes = isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes)
    path = None if has_bytes else _path(value)
    return path is not None and not path.startswith("data:") and "://" not in path


def _decoded(address: str) -> bytes:
    head, _, data = address.partition(",")
    try:
        if not head.endswith(";base64"):
            raise ValueError("not base64")
        return base64.b64decode(data, validate=True)
    except ValueError as error:
        message = f"{address[:40]!r} can't be decoded: {error}"
        raise SampleError(Status.IMAGE_UNDECODABLE, message) from error
