"""Caption pairs: an image and its text, of members, of rows, or of items.

Members are those of one key in a tar (webdataset), or files of one name in a folder: an image, a
text, and optionally `json`. Rows of a Parquet or CSV file and items of a JSON file have a field for
the image (its file, a path, base64) and one for the text.
"""

from collections.abc import Callable, Container, Mapping
from typing import Any

import pyarrow as pa

from mmsieve.errors import RequestError, SampleError, Status
from mmsieve.images import IMAGE_EXTENSIONS
from mmsieve.read import BROKEN_JSON, ImageFolder, ReadOptions, Record
from mmsieve.read.columns import ColumnPath, parse_column, text_of
from mmsieve.read.image_values import image_bytes, image_values
from mmsieve.read.json_items import parse_object
from mmsieve.read.parquet import (
    holds_bytes,
    is_image,
    is_key,
    is_text,
    is_texts,
    pick,
    row_metadata,
)
from mmsieve.sample import Image, Kind, Sample, Text, add_note

IMAGE_NAMES = (
    *("image", "images", "jpg", "img", "png", "image_path", "img_path", "file_name", "filepath"),
    *("image_file", "image_base64", "image_base64_str"),
)
"""Fields of rows and items that hold images, the first that does is read."""

TEXT_NAMES = (
    *("caption", "text", "txt", "TEXT", "alt_text", "caption_text", "captions", "title"),
    "sentences",
)
"""Those of texts."""

_KEY_NAMES = ("__key__", "key", "id", "idx")
DOWNLOAD = "download them first, with img2dataset"
ADDRESSES = ("url", "image_url", "img_url", "urls")

_OTHER_IMAGES = ("img", "image", *(f"{n}.{e}" for n in ("image", "img") for e in IMAGE_EXTENSIONS))
_TEXT_MEMBERS = ("txt", "caption", "cap", "text", "caption.txt", "text.txt")
MEMBERS = frozenset((*_OTHER_IMAGES, *_TEXT_MEMBERS))
"""Members that are read beside those whose extension says what they are."""
_IN_JSON = ColumnPath("json", "caption")
RULE = "a key ends, and a member's name begins, at the first dot (webdataset's rule)"


def as_asked(options: ReadOptions) -> tuple[ColumnPath | None, ColumnPath | None]:
    """The columns of image and text that are asked for; raises RequestError."""
    image = options.image_column and parse_column(options.image_column, "image-column")
    text = options.text_column and parse_column(options.text_column, "text-column")
    return image or None, text or None


class MemberParser:
    """Members -> caption pair."""

    def __init__(self, options: ReadOptions) -> None:
        """Raises RequestError where a column that is asked for is none."""
        self._image, self._text = as_asked(options)

    def __call__(self, record: Record) -> Sample:
        """The pair of a record; raises SampleError."""
        members = record.fields
        image = self._image.value(members) if self._image else _image_member(members)
        if not isinstance(image, bytes):
            wanted = f"no member {self._image.name}" if self._image else "no image member"
            raise SampleError(Status.IMAGE_MISSING, _missing(wanted, members, "image"))
        text = self._find_text(members)
        return Sample(record.key, (Image(image), Text(text)), "caption", _metadata(members))

    def _find_text(self, members: Mapping[str, Any]) -> str:
        if self._text is not None:
            if self._text.name not in members:
                what = _missing(f"no member {self._text.name}", members, "text")
                raise SampleError(Status.TEXT_MISSING, what)
            return text_of(self._text.value(members), f"member {self._text.name}")
        name = next((name for name in _TEXT_MEMBERS if name in members), None)
        if name is not None:
            return text_of(members[name], f"member {name}")
        found = caption_in_json(members)
        if found is None:
            raise SampleError(Status.TEXT_MISSING, _missing("no txt member", members, "text"))
        return text_of(found, "the json's caption")


def _missing(wanted: str, members: Mapping[str, Any], what: str) -> str:
    present = ", ".join(members) or "nothing"
    rule = f"; {RULE}" if any("." in name for name in members) else ""
    fix = f" (--{what}-column names another)" if len(members) > 1 else ""
    return f"{wanted}; there is {present}{fix}{rule}"


def image_member_name(members: Container[str], options: ReadOptions) -> str | None:
    """Which of a pair's members its image is; None where there is none."""
    asked = as_asked(options)[0]
    names = (*IMAGE_EXTENSIONS, *_OTHER_IMAGES) if asked is None else (asked.name,)
    return next((name for name in names if name in members), None)


_AS_USUAL = ReadOptions()


def _image_member(members: Mapping[str, Any]) -> Any:
    name = image_member_name(members, _AS_USUAL)
    return None if name is None else members[name]


def caption_in_json(members: Mapping[str, Any]) -> Any:
    """The caption that a json member holds, where there is one."""
    try:
        return _IN_JSON.value(members)
    except SampleError:
        return None


def _metadata(members: Mapping[str, Any]) -> dict[str, Any]:
    """What the json member says: it is no part of the pair, and a broken one costs nothing."""
    try:
        return parse_object(members["json"]) if "json" in members else {}
    except SampleError:
        add_note(BROKEN_JSON)
        return {}


def looks_right(members: Mapping[str, Any]) -> bool:
    """Whether a record's members, or an item's fields, are those of a caption pair."""
    if not any(isinstance(value, bytes) for value in members.values()):
        return bool(image_values(members, IMAGE_NAMES)) and _first_text(members) is not None
    has_text = not members.keys().isdisjoint(_TEXT_MEMBERS) or caption_in_json(members) is not None
    return has_text and _image_member(members) is not None


def members_asked(options: ReadOptions) -> frozenset[str]:
    """Members that are read beside those whose extension says what they are."""
    return MEMBERS | {column.name for column in as_asked(options) if column}


def has_image_member(members: Mapping[str, Any]) -> bool:
    """Whether any member is an image by the end of its name."""
    return any(name.rpartition(".")[2] in IMAGE_EXTENSIONS for name in members)


def looks_possible(members: Mapping[str, Any], options: ReadOptions) -> bool:
    """Whether a record may be half of a caption pair."""
    asked = {column.name for column in as_asked(options) if column}
    has_text = not members.keys().isdisjoint((*_TEXT_MEMBERS, *asked))
    return has_text or _image_member(members) is not None


def has_columns(types: Mapping[str, pa.DataType]) -> bool:
    """Whether a Parquet file has a column of images and one of texts under usual names."""
    is_there = (
        any(name in types and fits(types[name]) for name in names)
        for names, fits in ((IMAGE_NAMES, is_image), (TEXT_NAMES, is_text))
    )
    return all(is_there)


def _first_text(item: Mapping[str, Any]) -> ColumnPath | None:
    """The first field that may hold captions: a text, or a list of texts."""
    for name in TEXT_NAMES:
        value = item.get(name)
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, (str, bytes)):
            return ColumnPath(name)
    return None


class CaptionItemParser:
    """Item -> caption pair, or a document where it has several images."""

    def __init__(self, options: ReadOptions) -> None:
        """Raises RequestError where a column that is asked for is none."""
        self._image, self._text = as_asked(options)
        self._options = options
        self._folder = None if options.images is None else ImageFolder(options.images)

    def __call__(self, record: Record) -> Sample:
        """The sample of one item; raises SampleError."""
        item = record.fields
        image = self._image or _first_image(item)
        values = [] if image is None else _values(item, image)
        if image is None or not values or None in values:
            where = _where(item, image.name if image else None, "image")
            raise SampleError(Status.IMAGE_MISSING, f"no image {where}")
        column = None if self._options.images_only else self._text or _first_text(item)
        text = "" if self._options.images_only else self._caption(item, column)
        read = None if self._folder is None else self._folder.read_once()
        images = [Image(image_bytes(value, read)) for value in values]
        used = {column.name for column in (image, column) if column and not column.field}
        metadata = row_metadata(item, used)
        kind: Kind = "caption" if len(images) == 1 else "document"
        return Sample(record.key, (*images, Text(text)), kind, metadata)

    def put_caption(self, item: Mapping[str, Any], text: str) -> dict[str, Any]:
        """The field of an item's caption, with another in its place; raises SampleError."""
        column = self._text or _first_text(item)
        if column is None:
            raise SampleError(Status.TEXT_MISSING, "no caption in it")
        return column.put(item, text)

    def _caption(self, item: Mapping[str, Any], column: ColumnPath | None) -> str:
        value = None if column is None else column.value(item)
        where = _where(item, column.name if column else None, "text")
        return text_of(value, where.removeprefix("in "))


def item_key(item: Mapping[str, Any], stem: str, number: int) -> str:
    """The key of an item: that of its field of keys, else the file's stem and the number."""
    found = (key_text(item.get(name)) for name in _KEY_NAMES)
    return next(filter(None, found), None) or f"{stem}-{number:09d}"


def image_slots(item: Mapping[str, Any], options: ReadOptions) -> list[Any]:
    """The values that stand for an item's images."""
    image = as_asked(options)[0] or _first_image(item)
    return [] if image is None else _values(item, image)


def key_text(value: Any) -> str | None:
    """A value as a key; None for one that names nothing."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    is_key = isinstance(value, (str, int)) and not isinstance(value, bool) and value != ""
    return str(value) if is_key else None


def _first_image(item: Mapping[str, Any]) -> ColumnPath | None:
    return next((ColumnPath(name) for name in IMAGE_NAMES if image_values(item, (name,))), None)


def _values(item: Mapping[str, Any], image: ColumnPath) -> list[Any]:
    if image.field is None and image.number is None:
        return image_values(item, (image.name,))
    return [image.value(item)]


def _where(item: Mapping[str, Any], name: str | None, what: str) -> str:
    if name is not None:
        return f"in column {name}"
    return f"in any of {', '.join(item):.100}: name its field with --{what}-column"


class ImageTextParser(CaptionItemParser):
    """Row of a Parquet file -> caption pair or document: its columns are known beforehand."""

    def __init__(self, types: dict[str, pa.DataType], options: ReadOptions) -> None:
        """Raises RequestError where the columns can't be told."""
        super().__init__(options)
        self._image = _pick(types, self._image, IMAGE_NAMES, "image", is_image)
        if not options.images_only:
            self._text = _pick(types, self._text, TEXT_NAMES, "text", _may_be_text)
        chosen = [column.name for column in (self._image, self._text) if column is not None]
        other = [name for name, type_ in types.items() if not holds_bytes(type_)]
        self.columns = list(dict.fromkeys([*chosen, *other]))
        """What is read: other columns of bytes are no metadata, and may be large."""
        self._keys = [name for name in _KEY_NAMES if name in types and is_key(types[name])][:1]

    def key(self, stem: str, row: Mapping[str, Any], number: int) -> str:
        """The key of a row: that of its column of keys, else the file's stem and the number."""
        return item_key({name: row.get(name) for name in self._keys}, stem, number)


def _may_be_text(type_: pa.DataType) -> bool:
    return is_text(type_) or is_texts(type_)


def _pick(
    types: dict[str, pa.DataType],
    asked: ColumnPath | None,
    usual: tuple[str, ...],
    what: str,
    fits: Callable[[pa.DataType], bool],
) -> ColumnPath:
    """The column of a Parquet file that is asked for, or the first usual one that fits."""
    if asked is not None:
        any_type = asked.field is not None
        pick(types, asked.name, (), what, (lambda type_: True) if any_type else fits)
        return asked
    try:
        return ColumnPath(pick(types, None, usual, what, fits))
    except RequestError as error:
        addresses = [name for name in types if name.lower() in ADDRESSES]
        if what != "image" or not addresses:
            raise
        fix = f"column {addresses[0]} has addresses: {DOWNLOAD}"
        raise RequestError(f"no images in it; {fix}; there are {', '.join(types)}") from error
