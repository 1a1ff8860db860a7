"""Request items: the images one request is about, and the words around them.

A subject is known by its bytes: the same image under two keys is one subject, and nobody pays for
it twice.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image as PillowImage

from mmsieve.clients.connection import AnswerFormat
from mmsieve.errors import RequestError, SampleError, Status
from mmsieve.generation.files import image_names
from mmsieve.images import ImageLimits, decode
from mmsieve.methods.files import hash_files
from mmsieve.outputs import write_atomically
from mmsieve.sample import Image

# Prompts: what a request says, made of files that can be replaced

BUNDLED = Path(__file__).parent / "prompts"


@dataclass(frozen=True)
class Prompts:
    """The prompt of a task."""

    whole: Template
    parts: Mapping[str, Template]
    """What stands at places of the whole, filled in by itself before."""
    blocks: Mapping[str, str]
    """What stands at places of the whole just as it is."""
    version: str
    """A hash of the files that it is made of."""

    def compose(
        self, values: Mapping[str, str], schema: dict[str, object], format: AnswerFormat
    ) -> str:
        """The words of a request about a subject, whose answer has to follow a schema."""
        answer = "Answer with one JSON object, and nothing else."
        if format == "json":  # the server is not told the schema, so the words have to say it
            answer += f" It follows this JSON schema:\n{json.dumps(schema)}"
        parts = {name: part.safe_substitute(values) for name, part in self.parts.items()}
        return self.whole.safe_substitute({**self.blocks, **parts, **values, "answer": answer})


def read_prompt_files(
    folder: Path | None, names: Sequence[str], places: Mapping[str, Sequence[str]]
) -> tuple[list[str], str]:
    """The texts of files of a folder, the bundled one by default, and their version.

    `places` are the $names that a file must have. Raises RequestError.
    """
    folder = BUNDLED if folder is None else folder
    texts = [_read(folder, name, places.get(name, ())) for name in names]
    return texts, hash_files(folder / name for name in names)


def _read(folder: Path, name: str, places: Sequence[str]) -> str:
    try:
        text = (folder / name).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise RequestError(
            f"--prompts {folder}: {name} is missing or no UTF-8 text; copy {BUNDLED} and change it"
        ) from None
    if missing := [f"${place}" for place in places if f"${place}" not in text]:
        raise RequestError(f"--prompts {folder}: {name} lacks {', '.join(missing)}")
    return text


# Subjects: what one request is about, and the images that it shows

_LIMITS = ImageLimits(min_side=2)
"""An image with a side of one pixel shows nothing: the published scorer leaves it out too."""

_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif", "JPEG2000": "jp2"}
"""Of Pillow's formats; all others are named by their format in lower case."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of a subject."""

    sha256: str
    """Of the bytes that are stored: those of the source, to the byte."""
    suffix: str
    width: int
    height: int
    data: bytes = field(default=b"", repr=False)
    """Empty in a plan, which would not fit in memory with it."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What one request is about."""

    id: str
    source: str
    index: int
    """Place of its sample in the source, from 0."""
    key: str
    pictures: tuple[Picture, ...]
    said: dict[str, Any] = field(default_factory=dict)
    """What the sample says beside its images, where that is asked about."""

    @property
    def size(self) -> int:
        """Bytes of its images."""
        return sum(len(picture.data) for picture in self.pictures)

    @property
    def names(self) -> Sequence[str]:
        """Relative paths of its images."""
        return image_names(self.id, [picture.suffix for picture in self.pictures])

    def store_images(self, folder: Path) -> None:
        """Write its images, as they are, where the training files will name them."""
        for name, picture in zip(self.names, self.pictures, strict=True):
            path = folder / name
            if picture.data and not path.exists():
                write_atomically(path, partial(_write, picture.data))

    def remove_images(self, folder: Path) -> None:
        """Remove what was stored."""
        for name in self.names:
            (folder / name).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Unusable:
    """A sample that was drawn and can't be asked about, and why."""

    source: str
    key: str
    status: str
    error: str


def subject_id(letter: str, pictures: Iterable[Picture], words: str = "") -> str:
    """The id of a subject: a letter for its task, then a digest of its images and words."""
    content = "".join(picture.sha256 for picture in pictures) + words
    return f"{letter}{hashlib.sha256(content.encode('utf-8', 'surrogatepass')).hexdigest()[:20]}"


def usable_pictures(images: Iterable[Image], keep: bool, most: int | None = None) -> list[Picture]:
    """The first `most` images that can be shown; raises SampleError where there is none.

    `keep` keeps the bytes.
    """
    pictures: list[Picture] = []
    problem = SampleError(Status.NO_USABLE_IMAGE, "no image")
    for image in images:
        try:
            pictures.append(picture_of(image, keep))
        except SampleError as error:
            problem = error
        if len(pictures) == most:
            break
    if not pictures:
        raise problem
    return pictures


def picture_of(image: Image, keep: bool) -> Picture:
    """An image that can be shown; raises SampleError. `keep` keeps the bytes."""
    pixels = decode(image.data, _LIMITS, image.frame)
    if image.frame:  # a page of its own file, which alone can be named by a path
        file = io.BytesIO()
        PillowImage.fromarray(pixels).save(file, "PNG")
        image = Image(file.getvalue())
    with PillowImage.open(io.BytesIO(image.data)) as opened:
        format = opened.format or ""
    return Picture(
        sha256=hashlib.sha256(image.data).hexdigest(),
        suffix=_SUFFIXES.get(format, format.lower()),
        width=pixels.shape[1],
        height=pixels.shape[0],
        data=image.data if keep else b"",
    )


def _write(data: bytes, path: Path) -> None:
    path.write_bytes(data)
