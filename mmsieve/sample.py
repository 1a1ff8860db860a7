"""Sample: an ordered run of text and undecoded images, with a key and its metadata."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["caption", "document", "instruction"]
Role: TypeAlias = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image as its file's bytes, decoded by who needs pixels; `frame` counts pages from 0."""

    data: bytes = field(repr=False)
    frame: int = 0


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

    @classmethod
    def caption(cls, image: bytes | str | PathLike[str], text: str, key: str = "") -> "Sample":
        """A caption pair from an image (its bytes, or the path of its file) and its text."""
        return cls(key, (_image(image), Text(text)), "caption")

    @classmethod
    def document(cls, parts: list[str | bytes | PathLike[str]], key: str = "") -> "Sample":
        """A document: a str is text; bytes, or a Path, are an image."""
        return cls(key, tuple(Text(p) if isinstance(p, str) else _image(p) for p in parts))

    @classmethod
    def instruction(
        cls,
        images: Sequence[bytes | str | PathLike[str]],
        turns: Sequence[Turn],
        key: str = "",
        metadata: dict[str, Any] | None = None,
    ) -> "Sample":
        """An instruction sample: its images in the order of their `<image>`, and its turns."""
        parts = tuple(_image(image) for image in images)
        return cls(key, parts, "instruction", metadata or {}, tuple(turns))


def _image(image: bytes | str | PathLike[str]) -> Image:
    return Image(image if isinstance(image, bytes) else Path(image).read_bytes())
