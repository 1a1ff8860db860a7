"""The rendered teacher: draws scenes and writes over them, truth known, into training files.

Everything follows from a seed and an index, so any group can be made again alone, in any order,
in any process.
"""

from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from mmsieve.generation.files import (
    CAPTION_HEAD,
    DOCUMENT_JOINT,
    IMAGE_MARK,
    Group,
    LabelledText,
    Span,
)
from mmsieve.sample import Sample
from mmsieve.synthetic.assessments import AssessedCaption, assessed_pair
from mmsieve.synthetic.draw import draw_scene
from mmsieve.synthetic.scenes import Scene, sample_scene
from mmsieve.synthetic.texts import Caption, Document, caption_set, document_set, sample_scenes

# What the rendered teacher draws: images, and the records of a training file over them


@dataclass(frozen=True, slots=True)
class Record:
    """A record of a training file, and the same as a sample of a source, for shards."""

    fields: dict[str, Any]
    """Without its id."""
    sample: Sample
    """Without its key."""
    item: dict[str, Any] | None = None
    """The same as an item of a pool of instructions, with nothing known about it."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Images and all the records over them."""

    key: str
    images: tuple[bytes, ...]
    """PNG files."""
    records: tuple[Record, ...]


# The rendered teacher: draws scenes and writes over them at the four levels, truth known

_CAPTIONS, _DOCUMENTS, _ASSESSMENTS = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What is drawn, and how it is kept."""

    family: str = "core"
    """Kind of scenes: a name of WORLDS."""
    encoding: str = "PNG"
    """A lossless format of Pillow's."""
    blank: bool = False
    """Keep the texts and show nothing: a control of what they give away by themselves."""
    aspect: float = 1.0
    """Width over height; objects keep their shape, with more room between them."""

    def draw(self, scene: Scene) -> bytes:
        """The picture of a scene, encoded."""
        image = draw_scene(scene, aspect=self.aspect)
        if self.blank:
            image = PillowImage.new("RGB", image.size)
        buffer = BytesIO()
        image.save(buffer, self.encoding)
        return buffer.getvalue()


def caption_group(seed: int, index: int, drawing: Drawing = Drawing()) -> Group:
    """A scene and its four captions, in the order of the levels."""
    rng = np.random.default_rng((seed, _CAPTIONS, index))
    scene = sample_scene(drawing.family, int(rng.integers(2**62)))
    texts = tuple(_caption(caption) for caption in caption_set(scene, rng))
    return Group(f"c{index:08d}", (drawing.draw(scene),), texts)


def caption_scene(seed: int, index: int, family: str = "core") -> Scene:
    """The scene under the captions of `caption_group`: what is true there."""
    rng = np.random.default_rng((seed, _CAPTIONS, index))
    return sample_scene(family, int(rng.integers(2**62)))


def document_group(seed: int, index: int, drawing: Drawing = Drawing()) -> Group:
    """Two or three scenes and the four documents around them, in the order of the levels."""
    rng = np.random.default_rng((seed, _DOCUMENTS, index))
    scenes = sample_scenes(drawing.family, rng)
    images = tuple(drawing.draw(scene) for scene in scenes)
    texts = tuple(_document(document) for document in document_set(scenes, rng))
    return Group(f"d{index:08d}", images, texts)


@dataclass(frozen=True, slots=True)
class AssessedGroup:
    """A picture, what is in it, and its good and its poor caption as a judge marks them."""

    key: str
    image: bytes
    """Encoded."""
    scene: Scene
    pairs: tuple[AssessedCaption, AssessedCaption]
    """The raw caption, then its partner of the opposite quality."""


def assessment_group(seed: int, index: int, drawing: Drawing = Drawing()) -> AssessedGroup:
    """A scene, a raw caption and its partner, both assessed."""
    rng = np.random.default_rng((seed, _ASSESSMENTS, index))
    scene = sample_scene(drawing.family, int(rng.integers(2**62)))
    return AssessedGroup(f"a{index:08d}", drawing.draw(scene), scene, assessed_pair(scene, rng))


def _caption(caption: Caption) -> LabelledText:
    marked = caption.text
    right, wrong = (_shift(spans, len(CAPTION_HEAD)) for spans in (marked.right, marked.wrong))
    return LabelledText("caption", CAPTION_HEAD + marked.text, caption.level, (0,), right, wrong)


def _document(document: Document) -> LabelledText:
    text, images = "", []
    right: list[Span] = []
    wrong: list[Span] = []
    for part in document.parts:
        text += DOCUMENT_JOINT if text else ""
        if isinstance(part, int):
            images.append(part)
            text += IMAGE_MARK
        else:
            right += _shift(part.right, len(text))
            wrong += _shift(part.wrong, len(text))
            text += part.text
    return LabelledText("document", text, document.level, tuple(images), tuple(right), tuple(wrong))


def _shift(spans: tuple[Span, ...], offset: int) -> tuple[Span, ...]:
    return tuple((start + offset, end + offset) for start, end in spans)
