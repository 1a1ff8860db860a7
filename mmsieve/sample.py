"""Sample: an ordered run of text and undecoded images, with a key and its metadata."""

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["caption", "document"]


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """An image as its file's bytes; `frame` counts the pages of a multi-page file from 0.

    Undecoded on purpose: whoever needs pixels decodes (`mmsieve.images`), an export never does.
    """

    data: bytes = field(repr=False)
    frame: int = 0


Part: TypeAlias = Text | Image


@dataclass(frozen=True, slots=True)
class Sample:
    """One caption pair (an image, then its text) or one document (any interleaving).

    `kind` is kept because a model may be asked about the two in different words.
    """

    key: str
    parts: tuple[Part, ...]
    kind: Kind = "document"
    metadata: dict[str, Any] = field(default_factory=dict)

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


def _image(image: bytes | str | PathLike[str]) -> Image:
    return Image(image if isinstance(image, bytes) else Path(image).read_bytes())
