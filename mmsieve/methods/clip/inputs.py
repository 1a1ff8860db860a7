"""What a CLIP or SigLIP is shown of a sample: its texts as ids, its images as squares."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmsieve.errors import SampleError, Status
from mmsieve.images import Pixels
from mmsieve.methods.base import TextImagePreparer, caption_image, caption_text
from mmsieve.sample import Sample, Text

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
    def nbytes(self) -> int:
        """What it takes in memory, more or less."""
        return self.images.nbytes

    @property
    def num_tokens(self) -> int:
        """Ids of all texts."""
        return sum(len(ids) for ids in self.texts)


@dataclass(frozen=True, kw_only=True)
class ClipPreparer(TextImagePreparer):
    """The CPU half: images to pixels, texts to ids."""

    def prepare(self, sample: Sample) -> ClipItem:
        """The inputs of a sample; raises SampleError where there is nothing to compare."""
        if sample.kind == "document":
            return self._document(sample)
        image, caption = caption_image(sample), caption_text(sample)
        if not caption.strip():
            raise SampleError(Status.TEXT_MISSING, "an image without a caption")
        return self._item([caption], [self.pixels(image)])

    def _document(self, sample: Sample) -> ClipItem:
        texts = [part.text for part in sample.parts if isinstance(part, Text)]
        texts, images = [text for text in texts if text.strip()], sample.images
        if not texts:
            raise SampleError(Status.TEXT_MISSING, "a document without text")
        usable: list[Pixels] = []
        skipped = 0
        for image in images[:_MOST_IMAGES]:
            try:
                usable.append(self.pixels(image))
            except SampleError:
                skipped += 1
        if not usable:
            raise SampleError(Status.NO_USABLE_IMAGE, f"{skipped} images, none of them usable")
        return self._item(texts, usable, len(images) > _MOST_IMAGES, skipped)

    def _item(
        self, texts: list[str], images: list[Pixels], truncated: bool = False, skipped: int = 0
    ) -> ClipItem:
        encoded = [self._backend.encode(text) for text in texts]
        cut = truncated or any(was_cut for _, was_cut in encoded)
        return ClipItem(tuple(ids for ids, _ in encoded), np.stack(images), cut, skipped)
