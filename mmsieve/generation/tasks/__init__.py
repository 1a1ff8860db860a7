"""Task: one kind of training data that a teacher is asked for; all that `generate` knows of it.

A task says what a request is about (an item: images, and words beside them), what the prompt says,
what an answer has to hold, and which records become of it. An item is known by its bytes: nobody
pays twice for the same image under two keys.
"""

import hashlib
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from string import Template
from typing import Annotated, Any, ClassVar, TypeAlias

from PIL import Image as PillowImage
from pydantic import BaseModel, ConfigDict, Field

from mmsieve.clients.teacher import AnswerFormat
from mmsieve.errors import RequestError, SampleError, Status
from mmsieve.generation.files import image_names
from mmsieve.images import ImageLimits, decode
from mmsieve.methods.folders import hash_files
from mmsieve.outputs import write_atomically
from mmsieve.sample import Image, Kind, Sample

Fields: TypeAlias = dict[str, Any]
"""Of an answer, or of a record: what JSON can hold."""

_LIMITS = ImageLimits(min_side=2)
"""An image with a side of one pixel shows nothing: the published scorer leaves it out too."""

_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif", "JPEG2000": "jp2"}
"""Of Pillow's formats; all others are named by their format in lower case."""


@dataclass(frozen=True, slots=True)
class RawSample:
    """One sample of a source, or why there is none."""

    source: str
    index: int
    """Its place in the source, from 0."""
    key: str
    sample: Sample | None = None
    problem: SampleError | None = None

    @property
    def images(self) -> tuple[Image, ...]:
        """Its images, none where it can't be read."""
        return () if self.sample is None else self.sample.images


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of a request item."""

    sha256: str
    """Of the bytes that are stored: those of the source, to the byte."""
    suffix: str
    width: int
    height: int
    data: bytes = field(default=b"", repr=False)
    """Empty in a plan, which would not fit in memory with it."""


@dataclass(frozen=True, slots=True)
class RequestItem:
    """What one request is about."""

    id: str
    source: str
    index: int
    key: str
    pictures: tuple[Picture, ...]
    content: Annotated[Fields, Field(alias="said")] = field(default_factory=dict)
    """What the sample says beside its images, where that is asked about. (The alias: plans on disk
    have it under this name.)"""

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
                write_atomically(path, partial(Path.write_bytes, data=picture.data))


@dataclass(frozen=True, slots=True)
class Unusable:
    """A sample that was drawn and can't be asked about, and why."""

    source: str
    key: str
    status: str
    error: str


def item_id(letter: str, pictures: Iterable[Picture], words: str = "") -> str:
    """The id of an item: a letter for its task, then a digest of its images and words."""
    content = "".join(picture.sha256 for picture in pictures) + words
    return f"{letter}{hashlib.sha256(content.encode('utf-8', 'surrogatepass')).hexdigest()[:20]}"


def usable_pictures(images: Iterable[Image], keep: bool, most: int | None = None) -> list[Picture]:
    """The first `most` images that can be shown, as `picture_of`; SampleError: there is none."""
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


BUNDLED = Path(__file__).parents[1] / "prompts"


@dataclass(frozen=True)
class Prompts:
    """The prompt of a task, made of files that a user can replace."""

    whole: Template
    parts: Mapping[str, Template]
    """What stands at places of the whole, filled in by itself before."""
    blocks: Mapping[str, str]
    """What stands at places of the whole just as it is."""
    version: str
    """A hash of the files that it is made of."""

    def compose(self, values: Mapping[str, str], schema: Fields, format: AnswerFormat) -> str:
        """The words of a request about an item, whose answer has to follow a schema."""
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
    texts = [_read_prompt(folder, name, places.get(name, ())) for name in names]
    return texts, hash_files(folder / name for name in names)


def _read_prompt(folder: Path, name: str, places: Sequence[str]) -> str:
    try:
        text = (folder / name).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise RequestError(
            f"--prompts {folder}: {name} is missing or no UTF-8 text; copy {BUNDLED} and change it"
        ) from None
    if missing := [f"${place}" for place in places if f"${place}" not in text]:
        raise RequestError(f"--prompts {folder}: {name} lacks {', '.join(missing)}")
    return text


def not_empty(text: str) -> str:
    """The text; raises ValueError where it says nothing."""
    if not text.strip():
        raise ValueError("it is empty")
    return text


def as_json(value: object, indent: int | None = None) -> str:
    """What stands in a prompt as data: nothing in it can pass for the prompt's own words."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


class StrictModel(BaseModel):
    """Fields of an answer, in the order of writing; others make it unusable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def check_scale(number: int, lowest: int, highest: int) -> int:
    """The number, if it is on a scale, else ValueError: structured outputs don't take bounds."""
    if not lowest <= number <= highest:
        raise ValueError(f"{number} is not from {lowest} to {highest}")
    return number


class TeacherAnswerError(Exception):
    """A teacher's answer can't be used; the message says why in one line."""


class GenerationTask(ABC):
    """One kind of training data."""

    name: ClassVar[str]
    unit: ClassVar[str]
    """What its items are, in words."""
    noun: ClassVar[str]
    """What its records are, in words."""
    each: ClassVar[int]
    """Records over every item."""
    tokens: ClassVar[int]
    """Of an answer, as a guess for models that don't think aloud."""
    kinds: ClassVar[tuple[Kind, ...] | None] = None
    """Of the samples that it is about. None: only the images of any source are read, and a folder
    of image files will do."""
    by_folder: ClassVar[bool] = False
    """The image files of one folder are one sample."""

    def settings(self) -> dict[str, object]:
        """Options of its own that change what is generated."""
        return {}

    @abstractmethod
    def items(self, raw: RawSample, max_images: int, keep: bool = False) -> list[RequestItem]:
        """The request items in a sample; raises SampleError. `keep` keeps the images' bytes."""

    @abstractmethod
    def load_prompts(self, folder: Path | None) -> Prompts:
        """The prompt in a folder of files, the bundled one by default; raises RequestError."""

    @abstractmethod
    def values(self, item: RequestItem) -> dict[str, str]:
        """What the prompt says of an item, by the names of its places."""

    @abstractmethod
    def schema(self) -> Fields:
        """The JSON schema that an answer has to follow."""

    @abstractmethod
    def check(self, fields: Any, item: RequestItem) -> Fields:
        """An answer that can be used, as the journal keeps it.

        Raises TeacherAnswerError, or pydantic's ValidationError where the fields are others.
        """

    @abstractmethod
    def records(self, item: RequestItem, answer: Fields) -> Iterator[Fields]:
        """The records, without their ids, that become of a checked answer."""
