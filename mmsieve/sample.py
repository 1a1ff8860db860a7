"""Sample: an ordered run of text and undecoded images, with a key and its metadata."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from io import BytesIO
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, TypeAlias

import PIL.Image
from pydantic import BaseModel, TypeAdapter

from mmsieve.errors import RequestError, SampleError, Status, check_machine
from mmsieve.stores.asking import one_line
from mmsieve.validated import say_invalid

Kind: TypeAlias = Literal["caption", "document", "instruction"]
Role: TypeAlias = Literal["system", "user", "assistant"]
Picture: TypeAlias = bytes | str | PathLike[str] | PIL.Image.Image
"""An image as a caller has it: its file's bytes, the path of its file, or a picture of Pillow."""


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image as its file's bytes, decoded by who needs pixels; `frame` counts pages from 0."""

    data: bytes = field(repr=False)
    frame: int = 0
    problem: str = field(default="", compare=False)
    """Why there are no bytes, where that is known."""


Part: TypeAlias = Text | Image


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation; its text has an `<image>` wherever an image stands."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One caption pair (an image, then its text), one document (any interleaving), or one
    instruction sample: its images, and the turns of a conversation about them."""

    key: str
    parts: tuple[Part, ...]
    kind: Kind = "document"
    """A model may be asked about each in different words."""
    metadata: dict[str, Any] = field(default_factory=dict)
    turns: tuple[Turn, ...] = ()

    @property
    def images(self) -> tuple[Image, ...]:
        """The images, in order."""
        return tuple(part for part in self.parts if isinstance(part, Image))

    @property
    def uid(self) -> str | None:
        """The `uid` of the metadata (DataComp's sample id), if there is one."""
        uid = self.metadata.get("uid")
        return None if uid is None else str(uid)

    def explained(self, error: SampleError) -> SampleError:
        """The error of an image that can't be used, or why there are no bytes of one."""
        lost = next((image.problem for image in self.images if image.problem), "")
        if not lost or error.status not in (Status.IMAGE_UNDECODABLE, Status.NO_USABLE_IMAGE):
            return error
        return SampleError(Status.IMAGE_MISSING, lost, error.known)

    @classmethod
    def caption(cls, image: Picture, text: str, key: str = "") -> "Sample":
        """A caption pair from an image (its bytes, its path, or a picture) and its text."""
        return cls(key, (_image(image), Text(_checked("text", text))), "caption")

    @classmethod
    def document(cls, parts: Sequence[Picture], key: str = "") -> "Sample":
        """A document: a str is text; bytes, a Path or a picture are an image."""
        given = _checked("parts", parts)
        return cls(key, tuple(Text(p) if isinstance(p, str) else _image(p) for p in given))

    @classmethod
    def instruction(
        cls,
        images: Sequence[Picture],
        turns: Sequence[Turn],
        key: str = "",
        metadata: dict[str, Any] | None = None,
    ) -> "Sample":
        """An instruction sample: its images in the order of their `<image>`, and its turns."""
        parts = tuple(_image(image) for image in _checked("images", images))
        return cls(key, parts, "instruction", metadata or {}, tuple(turns))

    @classmethod
    def of(cls, value: "Sample | Mapping[str, Any]") -> "Sample":
        """A sample as it is, or of a mapping: `image` and `text`; `parts`; `images` and `messages`
        of `role` and `content`; a `key` with each. Raises RequestError for any other value."""
        if isinstance(value, Sample):
            return value
        names = set(value) - {"key"} if isinstance(value, Mapping) else set()
        if not isinstance(value, Mapping) or names not in ({*form} for form in _FORMS):
            has = (
                f"a dict of {', '.join(map(str, value))}"
                if names
                else f"of type {type(value).__name__}"
            )
            forms = "; ".join(" and ".join(form) for form in _FORMS)
            raise RequestError(f"a sample is a Sample or a dict of {forms}; this is {has}")
        key = str(value.get("key", ""))
        if "text" in value:
            return cls.caption(value["image"], value["text"], key)
        if "parts" in value:
            return cls.document(value["parts"], key)
        messages = _checked("messages", value["messages"])
        turns = [Turn(one.role, one.content) for one in messages]
        return cls.instruction(value["images"], turns, key)


_FORMS = (("image", "text"), ("parts",), ("images", "messages"))
"""What dicts that are samples hold, beside a key."""


class _Message(BaseModel):
    role: Role
    content: str


_GIVEN: dict[str, TypeAdapter[Any]] = {
    "text": TypeAdapter(str),
    "parts": TypeAdapter(list[Any]),
    "images": TypeAdapter(list[Any]),
    "messages": TypeAdapter(list[_Message]),
}
"""Images are looked at one by one."""


def _checked(name: str, value: object) -> Any:
    """A part of a sample as a caller gives it; RequestError that names what is of another type."""
    try:
        return _GIVEN[name].validate_python(value)
    except ValueError as error:
        raise RequestError(f"{name!r} of a sample: {say_invalid(error)}") from None


_notes: ContextVar[set[str] | None] = ContextVar("notes", default=None)


@contextmanager
def collect_notes() -> Iterator[set[str]]:
    """What `add_note` is told inside the block, in this thread: oddities that cost no sample."""
    found: set[str] = set()
    token = _notes.set(found)
    try:
        yield found
    finally:
        _notes.reset(token)


def add_note(text: str) -> None:
    """Say something about the sample that is being read or prepared, to be counted by the run."""
    found = _notes.get()
    if found is not None:
        found.add(text)


def _image(image: object) -> Image:
    if isinstance(image, bytes):
        return Image(image)
    if isinstance(image, str | PathLike):
        return _read(fspath(image))
    if not isinstance(image, PIL.Image.Image):
        kinds = "bytes, the path of a file, or a PIL.Image"
        raise RequestError(f"an image is {kinds}; this is of type {type(image).__name__}")
    for converted in (False, True):  # PNG hasn't all modes: not CMYK
        file = BytesIO()
        with suppress(OSError, SyntaxError, ValueError):
            (image.convert("RGB") if converted else image).save(file, "PNG")
            return Image(file.getvalue())
    return Image(b"")  # it is damaged: who needs its pixels says so


def _read(name: str) -> Image:
    """The image in a file; without bytes where it can't be read."""
    why = "no such file"
    try:
        if "://" in name:
            why = "an address, and these are never fetched: give bytes, or the path of a file"
        elif Path(name).is_file():  # a pipe has no end
            return Image(Path(name).read_bytes())
    except OSError as error:
        check_machine(error, f"{name!r} can't be read")
        why = one_line(error)
    return Image(b"", problem=f"{name!r}: {why}")
