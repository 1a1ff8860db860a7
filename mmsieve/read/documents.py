"""Interleaved documents: `texts` beside images, and MMC4's images matched to texts.

OBELICS keeps images inside (`image_info[].image_base64`), MINT-1T beside (`images[]` names members
of the same key, or the pages of one TIFF in order); in Parquet and JSON files (Textbook, InfiMM,
OmniCorpus) a parallel list has paths or bytes. MMC4 says of each image which text it belongs to.
"""

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any, TypeAlias, cast

import pyarrow as pa

from mmsieve.errors import RequestError, SampleError, Status
from mmsieve.images import IMAGE_EXTENSIONS
from mmsieve.read import ImageFolder, ReadOptions, Record
from mmsieve.read.image_values import image_bytes
from mmsieve.read.json_items import numbered, parse_object
from mmsieve.read.parquet import holds_bytes, is_list, is_texts, row_metadata
from mmsieve.sample import Image, Part, Sample, Text
from mmsieve.wording import counted

_LISTS = (("texts", "images"), ("text_list", "image_list"))
"""Fields of texts and of the images between them."""
_INFO = "image_info"
_BASE64 = "image_base64"
_MARK, _END = "<__dj__image>", "<|__dj__eoc|>"
"""What Data-Juicer's `text` has in the place of each of its `images`, and where a chunk ends."""
_MATCHED = ("text_list", _INFO, "similarity_matrix")
"""What is no metadata of a document of MMC4."""

UNREADABLE = Image(b"")
"""An image that the document has but whose bytes can't be had: counted, and left out later."""

Load: TypeAlias = Callable[[list[Any]], list[Image | None]]
"""The images that the values of a list stand for, None for no image."""


def read_document(document: Mapping[str, Any], load: Load) -> tuple[tuple[Part, ...], set[str]]:
    """The parts of a document, and the fields that they come from; raises SampleError."""
    if is_mmc4(document):
        return _matched(document, load), set(_MATCHED)
    if _is_marked(document):
        return _marked(document, load), {"text", "images"}
    names = next((names for names in _LISTS if names[0] in document), _LISTS[0])
    texts = document.get(names[0])
    if not isinstance(texts, list) or not all(t is None or isinstance(t, str) for t in texts):
        raise SampleError(Status.JSON_INVALID, f"`{names[0]}` is not a list of strings and nulls")
    if isinstance(document.get(_INFO), list):
        images = [_embedded(info) for info in document[_INFO]]
    elif isinstance(document.get(names[1]), list):
        images = load(document[names[1]])
    else:
        raise SampleError(Status.JSON_INVALID, f"neither `{_INFO}` nor `{names[1]}` is a list")
    return _interleave(texts, images), {*names, _INFO}


def parse(record: Record) -> Sample:
    """The document of a record with a `json` member, images inside it or beside it."""
    if "json" not in record.fields:
        present = ", ".join(record.fields) or "nothing"
        raise SampleError(Status.JSON_INVALID, f"no json member; there is {present}")
    document = parse_object(record.fields["json"])
    parts, used = read_document(document, partial(_members, record=record))
    metadata = {name: value for name, value in document.items() if name not in used}
    return Sample(record.key, parts, "document", metadata)


def looks_right(fields: Mapping[str, Any]) -> bool:
    """Whether a record's members, an item's fields or a Parquet file's columns are a document's."""
    if any(isinstance(value, pa.DataType) for value in fields.values()):
        return any(
            is_texts(fields.get(texts, pa.null())) and is_list(fields.get(images, pa.null()))
            for texts, images in _LISTS
        )
    if any(isinstance(value, bytes) for value in fields.values()):
        try:
            fields = parse_object(fields.get("json", b""))
        except SampleError:
            return False
        if is_mmc4(fields):
            return isinstance(fields.get(_INFO), list)
    if is_mmc4(fields):  # of a JSONL file: a layout of its own
        return False
    return _is_marked(fields) or any(
        isinstance(fields.get(texts), list)
        and any(isinstance(fields.get(name), list) for name in (images, _INFO))
        for texts, images in _LISTS
    )


def image_slots(item: Mapping[str, Any], options: ReadOptions) -> list[Any]:
    """The values that stand for an item's images."""
    infos = item.get(_INFO)
    if isinstance(infos, list):
        named = [info for info in infos if isinstance(info, dict) and not info.get(_BASE64)]
        return [info.get("image_name") for info in named]
    found = (item.get(images) for _, images in _LISTS)
    return next((list(values) for values in found if isinstance(values, list)), [])


class DocumentItemParser:
    """Item of a JSON file -> document: its images are files, or inside."""

    def __init__(self, options: ReadOptions) -> None:
        self._folder = None if options.images is None else ImageFolder(options.images)

    def __call__(self, record: Record) -> Sample:
        """The document of one item; raises SampleError."""
        read = None if self._folder is None else self._folder.read_once()
        parts, used = read_document(record.fields, partial(_loaded, read=read))
        metadata = row_metadata(record.fields, used)
        return Sample(record.key, parts, "document", metadata)


def item_key(item: Mapping[str, Any], stem: str, number: int) -> str:
    """The key of an item: its file's stem and its number there."""
    return f"{stem}-{number:09d}"


class DocumentRowParser(DocumentItemParser):
    """Row of a Parquet file -> document."""

    def __init__(self, types: dict[str, pa.DataType], options: ReadOptions) -> None:
        """Raises RequestError where there are no columns of texts and images."""
        if not looks_right(types):
            wanted = " or ".join(" and ".join(names) for names in _LISTS)
            raise RequestError(f"no columns of documents: {wanted}; there are {', '.join(types)}")
        super().__init__(options)
        of_images = {images for _, images in _LISTS}
        self.columns = [n for n, t in types.items() if n in of_images or not holds_bytes(t)]
        """What is read: other columns of bytes are no metadata, and may be large."""

    def key(self, stem: str, row: Mapping[str, Any], number: int) -> str:
        """The key of a row: its file's stem and its number there."""
        return item_key(row, stem, number)


def _loaded(values: list[Any], read: Callable[[str], bytes] | None) -> list[Image | None]:
    return [None if value in (None, "") else _load(value, read) for value in values]


def _load(value: Any, read: Callable[[str], bytes] | None) -> Image:
    """An image; one that can't be had is counted, and left out later."""
    try:
        return Image(image_bytes(value, read))
    except SampleError as error:
        return Image(b"", problem=str(error))


def _is_marked(item: Mapping[str, Any]) -> bool:
    text = item.get("text")
    return isinstance(text, str) and _MARK in text and isinstance(item.get("images"), list)


def _marked(document: Mapping[str, Any], load: Load) -> tuple[Part, ...]:
    """Data-Juicer's text, cut where its images stand."""
    texts = [text.strip() for text in document["text"].replace(_END, "\n").split(_MARK)]
    images = load(document["images"])
    if len(images) != len(texts) - 1:
        found = f"{counted(len(images), 'images')} for {len(texts) - 1} {_MARK}"
        raise SampleError(Status.JSON_INVALID, found)
    pairs = zip([None, *images], texts, strict=True)
    return tuple(p for image, text in pairs for p in (image, Text(text) if text else None) if p)


def _interleave(texts: list[str | None], images: list[Image | None]) -> tuple[Part, ...]:
    """Slot by slot, image then text; texts beyond the images are not read, as published."""
    parts: list[Part] = []
    for image, text in zip(images, chain(texts, repeat(None)), strict=False):
        if image is not None:
            parts.append(image)
        if text is not None:
            parts.append(Text(text))
    return tuple(parts)


def _embedded(info: Any) -> Image | None:
    """The image of one `image_info` slot; None where the slot holds none."""
    encoded = info.get(_BASE64) if isinstance(info, dict) else None
    if not encoded:
        return None
    if isinstance(encoded, str) and encoded.startswith("data:"):
        return _load(encoded, None)
    try:
        return Image(base64.b64decode(encoded))
    except (ValueError, TypeError):
        return UNREADABLE


def _members(names: list[Any], record: Record) -> list[Image | None]:
    """The images that `images` names among the record's own members, or else a TIFF's next page."""
    pages = record.fields.get("tiff", record.fields.get("tif"))
    images: list[Image | None] = []
    page = 0
    for name in names:
        if name is None:
            images.append(None)
        elif (data := _named_member(str(name), record)) is not None:
            images.append(Image(data))
        elif pages is None:
            images.append(Image(b"", problem=f"there is no member {str(name)!r:.200}"))
        else:
            images.append(Image(pages, page))
            page += 1
    return images


def _named_member(name: str, record: Record) -> bytes | None:
    """The member called `name`, with or without extension; never the TIFF, which has all pages."""
    base = name.rpartition("/")[2].lower()
    stem = record.key.rpartition("/")[2].lower()
    base = "" if base == stem else base.removeprefix(stem + ".")
    prefix = base + "." if base else ""
    for candidate in (base, *(prefix + extension for extension in IMAGE_EXTENSIONS)):
        is_image = candidate.rpartition(".")[2] in IMAGE_EXTENSIONS
        if is_image and candidate in record.fields and candidate not in ("tif", "tiff"):
            return cast(bytes, record.fields[candidate])
    return None


# MMC4 JSONL: one document a line, its image files in a folder beside it


def read_lines(lines: Iterable[bytes], start: int, stop: int, stem: str) -> Iterator[Record]:
    """The documents `start` to `stop` (one past it) of a file, from their bytes."""
    for number, line, problem in numbered(lines, start, stop):
        yield Record(f"{stem}-{number:09d}", {"line": line}, problem)


def is_mmc4(item: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a document of MMC4."""
    return "text_list" in item and "image_list" not in item and "texts" not in item


class Mmc4Parser:
    """Line -> document: each image before its matched text, as OpenFlamingo has it, else last."""

    def __init__(self, images: Path | None) -> None:
        """Raises RequestError where there is no such folder of images."""
        if images is not None and not images.is_dir():
            raise RequestError(f"--images {images}: no such folder")
        self._folder = None if images is None else ImageFolder(images)

    def __call__(self, record: Record) -> Sample:
        """The document of one line; raises SampleError."""
        document = parse_object(record.fields["line"])
        read = None if self._folder is None else self._folder.read_once()
        parts = _matched(document, partial(_loaded, read=read))
        metadata = {name: value for name, value in document.items() if name not in _MATCHED}
        return Sample(record.key, parts, "document", metadata)


def _matched(document: Mapping[str, Any], load: Load) -> tuple[Part, ...]:
    texts, infos = document.get("text_list"), document.get(_INFO)
    infos = [] if infos is None else infos
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise SampleError(Status.JSON_INVALID, "`text_list` is not a list of strings")
    if not isinstance(infos, list) or not all(isinstance(info, dict) for info in infos):
        raise SampleError(Status.JSON_INVALID, "`image_info` is not a list of objects")
    before: list[list[Part]] = [[] for _ in range(len(texts) + 1)]
    named = load([None if info.get(_BASE64) else info.get("image_name") for info in infos])
    for info, image in zip(infos, named, strict=True):
        place = info.get("matched_text_index")
        if type(place) is not int or not 0 <= place < len(texts):
            place = len(texts)
        before[place].append(_embedded(info) or image or UNREADABLE)
    parts: list[Part] = []
    for images, text in zip(before, [*texts, None], strict=True):
        parts += images if text is None else [*images, Text(text)]
    return tuple(parts)
