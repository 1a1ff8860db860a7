"""What a CLIP or SigLIP is shown of a sample: its texts as ids, its images as squares."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mmsieve.errors import SampleError, Status
from mmsieve.images import ImageFit, ImageLimits, ImageSpec, Pixels, decode, fit
from mmsieve.methods.clip.checkpoint import ClipTokenizer, Encoder
from mmsieve.sample import Image, Sample, Text

_MOST_IMAGES = 256
"""Of one document: what comes after is not looked at, so that a document fits into memory."""


@dataclass(frozen=True, slots=True)
class ClipItem:
    """The inputs of one sample: each image is compared with each text."""

    texts: tuple[npt.NDArray[np.int32], ...]
    """Ids, not padded."""
    images: npt.NDArray[np.uint8]
    """[images, size, size, 3]."""
    truncated: bool
    skipped: int
    """Images that could not be used."""

    @property
    def num_tokens(self) -> int:
        """Ids of all texts."""
        return sum(len(ids) for ids in self.texts)


@dataclass(frozen=True)
class ClipPreparer:
    """The CPU half: images to pixels, texts to ids."""

    tokenizer: ClipTokenizer
    image: ImageSpec
    fit: ImageFit | None
    plain_text: bool
    orient: bool
    fast: bool
    limits: ImageLimits

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_encoder"}

    @cached_property
    def _encoder(self) -> Encoder:
        return self.tokenizer.build(self.plain_text)

    def prepare(self, sample: Sample) -> ClipItem:
        """The inputs of a sample; raises SampleError where there is nothing to compare."""
        texts = [part.text for part in sample.parts if isinstance(part, Text)]
        if sample.kind == "document":
            return self._document([text for text in texts if text.strip()], sample.images)
        if not sample.images:
            raise SampleError(Status.IMAGE_MISSING, "a caption without an image")
        caption = "\n".join(texts)
        if not caption.strip():
            raise SampleError(Status.TEXT_MISSING, "an image without a caption")
        return self._item([caption], [self._pixels(sample.images[0])])

    def _document(self, texts: list[str], images: tuple[Image, ...]) -> ClipItem:
        if not texts:
            raise SampleError(Status.TEXT_MISSING, "a document without text")
        usable: list[Pixels] = []
        skipped = 0
        for image in images[:_MOST_IMAGES]:
            try:
                usable.append(self._pixels(image))
            except SampleError:
                skipped += 1
        if not usable:
            raise SampleError(Status.NO_USABLE_IMAGE, f"{skipped} images, none of them usable")
        return self._item(texts, usable, len(images) > _MOST_IMAGES, skipped)

    def _pixels(self, image: Image) -> Pixels:
        pixels = decode(image.data, self.limits, image.frame, self.orient, self.fast)
        return fit(pixels, self.image, self.fit, self.fast)

    def _item(
        self, texts: list[str], images: list[Pixels], truncated: bool = False, skipped: int = 0
    ) -> ClipItem:
        encoded = [self._encoder.encode(text) for text in texts]
        cut = truncated or any(was_cut for _, was_cut in encoded)
        return ClipItem(tuple(ids for ids, _ in encoded), np.stack(images), cut, skipped)
