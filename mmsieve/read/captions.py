"""Caption pairs: an image and its text, of a tar's members or of a Parquet file's rows.

A tar's are members of one key: an image, `txt`, and optionally `json` (webdataset). A Parquet file,
as on the Hugging Face hub, has a column of images and one of texts.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from mmsieve.errors import SampleError, Status
from mmsieve.images import IMAGE_EXTENSIONS
from mmsieve.read import ImageFolder, ReadOptions, Record, decode_text
from mmsieve.read.json_items import parse_object
from mmsieve.read.parquet import holds_bytes, is_image, is_key, is_text, json_value, pick
from mmsieve.sample import Image, Kind, Sample, Text

_IMAGE_NAMES = ("image", "images", "jpg", "img")
_TEXT_NAMES = ("caption", "text", "txt", "TEXT", "alt_text", "caption_text")
_KEY_NAMES = ("__key__", "key", "id", "idx")


def parse(record: Record) -> Sample:
    """The caption pair of a record of image, `txt` and `json` members."""
    members = record.fields
    image = next((members[name] for name in IMAGE_EXTENSIONS if name in members), None)
    present = ", ".join(members) or "nothing"
    if image is None:
        raise SampleError(Status.IMAGE_MISSING, f"no image member; there is {present}")
    if "txt" not in members:
        raise SampleError(Status.TEXT_MISSING, f"no txt member; there is {present}")
    metadata = parse_object(members["json"]) if "json" in members else {}
    parts = Image(image), Text(decode_text(members["txt"]))
    return Sample(record.key, parts, "caption", metadata)


def looks_right(members: Mapping[str, bytes]) -> bool:
    """Whether a record's members are those of a caption pair."""
    return "txt" in members and not members.keys().isdisjoint(IMAGE_EXTENSIONS)


def looks_possible(members: Mapping[str, bytes]) -> bool:
    """Whether a record may be half of a caption pair."""
    return "txt" in members or not members.keys().isdisjoint(IMAGE_EXTENSIONS)


class ImageTextParser:
    """Row -> caption pair, or a document where a row has several images."""

    def __init__(self, types: dict[str, pa.DataType], options: ReadOptions) -> None:
        self.image_column = pick(types, options.image_column, _IMAGE_NAMES, "image", is_image)
        self.text_column: str | None = None
        if not options.images_only:
            self.text_column = pick(types, options.text_column, _TEXT_NAMES, "text", is_text)
        self.key_column = next((n for n in _KEY_NAMES if n in types and is_key(types[n])), None)
        other = [name for name, type_ in types.items() if not holds_bytes(type_)]
        read = [self.image_column, *([self.text_column] if self.text_column else []), *other]
        self.columns = list(dict.fromkeys(read))
        """What is read: other columns of bytes are no metadata, and may be large."""
        self._folder = None if options.images is None else ImageFolder(options.images)

    def key(self, stem: str, row: Mapping[str, Any], number: int) -> str:
        """The key of a row: that of its column of keys, else the file's stem and the number."""
        value = row.get(self.key_column) if self.key_column else None
        if value is None:
            return f"{stem}-{number:09d}"
        return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)

    def __call__(self, record: Record) -> Sample:
        """The sample of one row; raises SampleError."""
        value = record.fields[self.image_column]
        text = record.fields[self.text_column] if self.text_column else ""
        read = None if self._folder is None else self._folder.read_once()
        values = value if isinstance(value, list) else [value]
        images = [self._image(item, read) for item in values]
        if not images:
            raise SampleError(Status.IMAGE_MISSING, f"column {self.image_column} is empty")
        if text is None:
            raise SampleError(Status.TEXT_MISSING, f"column {self.text_column} is null")
        text = decode_text(text) if isinstance(text, bytes) else str(text)
        columns = (self.image_column, self.text_column)
        metadata = {n: json_value(v) for n, v in record.fields.items() if n not in columns}
        kind: Kind = "caption" if len(images) == 1 else "document"
        return Sample(record.key, (*images, Text(text)), kind, metadata)

    def _image(self, value: Any, read: Callable[[str], bytes] | None) -> Image:
        fields = value if isinstance(value, dict) else {}
        data = value if isinstance(value, bytes) else fields.get("bytes")
        path = value if isinstance(value, str) else fields.get("path")
        if isinstance(data, bytes):
            return Image(data)
        if not isinstance(path, str) or read is None:
            fix = "" if path is None else f", only the path {path!r}: say --images DIR"
            message = f"column {self.image_column} holds no bytes{fix}"
            raise SampleError(Status.IMAGE_MISSING, message)
        return Image(read(path))
