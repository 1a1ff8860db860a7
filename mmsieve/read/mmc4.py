"""MMC4 JSONL: one document a line, its image files in a folder beside it."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mmsieve.errors import RequestError, SampleError, ShardError, Status
from mmsieve.read.captions import parse_object
from mmsieve.read.documents import UNREADABLE
from mmsieve.read.image_folder import ImageFolder
from mmsieve.read.records import MAX_BYTES, Record
from mmsieve.sample import Image, Part, Sample, Text

_CONTENT = ("text_list", "image_info", "similarity_matrix")


def read_records(lines: Iterable[bytes], first: int, last: int, stem: str) -> Iterator[Record]:
    """The lines `first` to `last` (one past it) of a file."""
    number = first
    for line in lines:
        key = f"{stem}-{number:09d}"
        problem = None
        if len(line) > MAX_BYTES:
            problem = SampleError(Status.JSON_INVALID, f"a line of more than {MAX_BYTES} bytes")
        yield Record(key, {"line": b"" if problem else line}, problem)
        number += 1
    if number != last:
        raise ShardError(f"line {number} follows where {last} was expected: the file has changed")


class Parser:
    """Line -> document: each image stands before the text that it is matched to.

    That is where OpenFlamingo, which trained on MMC4, puts it. An image without a text to stand
    before comes last.
    """

    def __init__(self, images: Path) -> None:
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
        for info in infos:
            before[_slot(info, len(texts))].append(self._image(info.get("image_name")))
        parts: list[Part] = []
        for images, text in zip(before, [*texts, None], strict=True):
            parts += images
            parts += [] if text is None else [Text(text)]
        metadata = {name: value for name, value in document.items() if name not in _CONTENT}
        return Sample(record.key, tuple(parts), "document", metadata)

    def _image(self, name: Any) -> Image:
        """The image file of that name; one that can't be had is counted, and left out later."""
        if not isinstance(name, str) or not name:
            return UNREADABLE
        try:
            return Image(self._folder.read(name))
        except SampleError:
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
    if not isinstance(index, int) or isinstance(index, bool):
        return texts
    return index if 0 <= index < texts else texts
