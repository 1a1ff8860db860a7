"""MMC4 JSONL: one document a line, its image files in a folder beside it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mmsieve.errors import RequestError, SampleError, ShardError, Status
from mmsieve.read.captions import parse_object
from mmsieve.read.documents import UNREADABLE
from mmsieve.read.records import Record
from mmsieve.sample import Image, Part, Sample, Text

_CONTENT = ("text_list", "image_info", "similarity_matrix")


def read_records(file: BinaryIO, span: tuple[int, int], first: int, stem: str) -> Iterator[Record]:
    """The lines of a byte range; `first` is the number of the first line in its file."""
    file.seek(span[0])
    number = first
    while file.tell() < span[1]:
        line = file.readline()
        if not line:
            raise ShardError(f"ends at byte {file.tell()}, expected {span[1]}: it has changed")
        yield Record(f"{stem}-{number:09d}", {"line": line})
        number += 1


class Parser:
    """Line -> document: each image stands before the text that it is matched to.

    That is where OpenFlamingo, which trained on MMC4, puts it.
    """

    def __init__(self, images: Path) -> None:
        self.root = os.path.realpath(images)

    def __call__(self, record: Record) -> Sample:
        """The document of one line; raises SampleError."""
        document = parse_object(record.fields["line"])
        texts, infos = document.get("text_list"), document.get("image_info", [])
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise SampleError(Status.JSON_INVALID, "`text_list` is not a list of strings")
        if not isinstance(infos, list) or not all(isinstance(info, dict) for info in infos):
            raise SampleError(Status.JSON_INVALID, "`image_info` is not a list of objects")
        before: list[list[Part]] = [[] for _ in range(len(texts) + 1)]
        for info in infos:
            before[_slot(info, len(texts))].append(self._image(info.get("image_name")))
        parts: list[Part] = []
        for images, text in zip(before, [*texts, None], strict=True):
            parts += images
            parts += [] if text is None else [Text(text)]
        metadata = {name: value for name, value in document.items() if name not in _CONTENT}
        return Sample(record.key, tuple(parts), "document", metadata)

    def _image(self, name: Any) -> Image:
        """The image file of that name; no path may leave the folder."""
        if not isinstance(name, str) or not name or "\0" in name:
            return UNREADABLE
        path = os.path.realpath(os.path.join(self.root, name))  # noqa: PTH118
        if os.path.commonpath([path, self.root]) != self.root:
            return UNREADABLE
        try:
            return Image(Path(path).read_bytes())
        except OSError:
            return UNREADABLE


def parser(images: Path | None) -> Parser:
    """The parser for a folder of images; raises RequestError where there is none."""
    if images is None:
        raise RequestError("MMC4 documents name image files: say where they are with --images DIR")
    if not images.is_dir():
        raise RequestError(f"--images {images}: no such folder")
    return Parser(images)


def _slot(info: dict[str, Any], texts: int) -> int:
    index = info.get("matched_text_index")
    return index if isinstance(index, int) and 0 <= index < texts else texts
