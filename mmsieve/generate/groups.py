"""Images and the labelled texts over them: what teachers write, and training reads.

A text is as in `weizhiwang/unifilter_train_data` (train_classifier.py of Victorwz/UniFilter):
with one `<image>` per image, where it stands.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from mmsieve.sample import Image, Part, Sample, Text

IMAGE_MARK = "<image>"
CAPTION_HEAD = f"{IMAGE_MARK}\n"
DOCUMENT_JOINT = "\n\n"

TextKind: TypeAlias = Literal["caption", "document"]
Span: TypeAlias = tuple[int, int]
"""Characters of a text: start and end."""


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text over images, its level, and, where a teacher knows them, its right and wrong words."""

    kind: TextKind
    text: str
    label: float
    images: tuple[int, ...]
    """One per `<image>`, as indices into the images of its group."""
    right: tuple[Span, ...] = ()
    wrong: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """Images and all the texts that were written over them."""

    key: str
    images: tuple[bytes, ...]
    """Encoded."""
    texts: tuple[LabelledText, ...]

    def sample(self, labelled: LabelledText) -> Sample:
        """A text with its images, as the sample that a scorer would read."""
        if labelled.kind == "caption":
            return Sample.caption(
                self.images[labelled.images[0]], labelled.text[len(CAPTION_HEAD) :]
            )
        parts: list[Part] = []
        images = iter(labelled.images)
        for index, piece in enumerate(labelled.text.split(IMAGE_MARK)):
            if index:
                parts.append(Image(self.images[next(images)]))
            if text := piece.removeprefix(DOCUMENT_JOINT).removesuffix(DOCUMENT_JOINT):
                parts.append(Text(text))
        return Sample(self.key, tuple(parts))


def kind_of(text: str) -> TextKind:
    """A caption starts with its only image on a line of its own; all else is a document."""
    starts = text.startswith(CAPTION_HEAD) and not text.startswith(IMAGE_MARK + DOCUMENT_JOINT)
    return "caption" if starts and text.count(IMAGE_MARK) == 1 else "document"
