"""Interleaved documents: tars whose `json` has `texts` beside its images, and MMC4's JSONL.

OBELICS keeps the images inside (`image_info[].image_base64`); MINT-1T beside it (`images[]` names
members of the same key, or the pages of one TIFF in order).
"""

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import chain, repeat
from pathlib import Path
from typing import Any, cast

from mmsieve.errors import RequestError, SampleError, Status
from mmsieve.images import IMAGE_EXTENSIONS
from mmsieve.read import ImageFolder, Record
from mmsieve.read.json_items import numbered, parse_object
from mmsieve.sample import Image, Part, Sample, Text

_TAR_FIELDS = ("texts", "image_info", "images")
_MMC4_FIELDS = ("text_list", "image_info", "similarity_matrix")
"""What is no metadata of a document."""

UNREADABLE = Image(b"")
"""An image that the document has but whose bytes can't be had: counted, and left out later."""


def parse(record: Record) -> Sample:
    """The document of a record with a `json` member, images inside it or beside it."""
    if "json" not in record.fields:
        present = ", ".join(record.fields) or "nothing"
        raise SampleError(Status.JSON_INVALID, f"no json member; there is {present}")
    document = parse_object(record.fields["json"])
    texts = document.get("texts")
    if not isinstance(texts, list) or not all(t is None or isinstance(t, str) for t in texts):
        raise SampleError(Status.JSON_INVALID, "`texts` is not a list of strings and nulls")
    if isinstance(document.get("image_info"), list):
        images = [_embedded(info) for info in document["image_info"]]
    elif isinstance(document.get("images"), list):
        images = _members(document["images"], record)
    else:
        raise SampleError(Status.JSON_INVALID, "neither `image_info` nor `images` is a list")
    metadata = {name: value for name, value in document.items() if name not in _TAR_FIELDS}
    return Sample(record.key, _interleave(texts, images), "document", metadata)


def looks_right(members: Mapping[str, bytes]) -> bool:
    """Whether a record's members are those of a document."""
    try:
        document = parse_object(members.get("json", b""))
    except SampleError:
        return False
    has_images = any(isinstance(document.get(name), list) for name in ("image_info", "images"))
    return has_images and isinstance(document.get("texts"), list)


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
    encoded = info.get("image_base64") if isinstance(info, dict) else None
    if not encoded:
        return None
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
            images.append(UNREADABLE)
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
    return "text_list" in item


class Mmc4Parser:
    """Line -> document: each image before its matched text, as OpenFlamingo has it, else last."""

    def __init__(self, images: Path | None) -> None:
        """Raises RequestError where there is no folder of images."""
        if images is None:
            fix = "say where they are with --images DIR"
            raise RequestError(f"MMC4 documents name image files: {fix}")
        if not images.is_dir():
            raise RequestError(f"--images {images}: no such folder")
        self._folder = ImageFolder(images)

    def __call__(self, record: Record) -> Sample:
        """The document of one line; raises SampleError."""
        document = parse_object(record.fields["line"])
        texts, infos = document.get("text_list"), document.get("image_info")
        infos = [] if infos is None else infos
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise SampleError(Status.JSON_INVALID, "`text_list` is not a list of strings")
        if not isinstance(infos, list) or not all(isinstance(info, dict) for info in infos):
            raise SampleError(Status.JSON_INVALID, "`image_info` is not a list of objects")
        before: list[list[Part]] = [[] for _ in range(len(texts) + 1)]
        read = self._folder.read_once()
        for info in infos:
            place = info.get("matched_text_index")
            if type(place) is not int or not 0 <= place < len(texts):
                place = len(texts)
            before[place].append(_file_image(read, info.get("image_name")))
        parts: list[Part] = []
        for images, text in zip(before, [*texts, None], strict=True):
            parts += images if text is None else [*images, Text(text)]
        metadata = {name: value for name, value in document.items() if name not in _MMC4_FIELDS}
        return Sample(record.key, tuple(parts), "document", metadata)


def _file_image(read: Callable[[str], bytes], name: Any) -> Image:
    """The image file of that name; one that can't be had is counted, and left out later."""
    with suppress(SampleError):
        if isinstance(name, str) and name:
            return Image(read(name))
    return UNREADABLE
