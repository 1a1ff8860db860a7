"""AITQE's inputs: a caption pair -> token ids and pixels.

The prompt is that of the published code (github.com/hanhuang22/AITQE, inference.py and its
processor), token for token: the image, then two newlines tokenised in separate pieces, then the
caption as it is between fixed words. No chat template, no first or last token. Training and
inference both build their inputs here.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from mmsieve.errors import SampleError, Status
from mmsieve.images import ImageFit, ImageLimits, ImageSpec, decode, fit
from mmsieve.methods.aitqe.answers import Assessment, answer_pieces
from mmsieve.methods.aitqe.rows import kept
from mmsieve.methods.tokenizer import TokenizerSpec
from mmsieve.sample import Sample, Text

BEFORE = "Evaluate the caption: "
AFTER = (
    "\nif score is low, give a short description of the image."
    "\nRespond using a dictionary structure."
)
"""The published words around the caption."""

_AFTER_IMAGE = re.compile(r"(?<=<img_end>)(?!\n) *")
"""The published processor puts a newline here, in captions too."""


@dataclass(frozen=True, slots=True)
class Item:
    """The inputs of one sample: the image, then the ids."""

    ids: npt.NDArray[np.int32]
    """Of the text behind the image."""
    image: npt.NDArray[np.uint8]
    """[size, size, 3]."""
    caption: str
    truncated: bool
    """Whether the caption was cut for the model; `caption` is whole."""
    sample: Sample | None = None
    """The sample itself, where something else is to be asked about it."""

    @property
    def nbytes(self) -> int:
        """What it takes in memory, more or less."""
        return self.image.nbytes + self.ids.nbytes


def question(caption: str, plain: bool) -> str:
    """What follows the image and its newline; `plain` leaves control strings alone."""
    text = f"\n{BEFORE}{caption}{AFTER}"
    return text if plain else _AFTER_IMAGE.sub("\n", text)


@dataclass(frozen=True)
class AitqePreparer:
    """The CPU half: the image to pixels, prompt and caption to ids."""

    tokenizer: TokenizerSpec
    image: ImageSpec
    image_tokens: int
    fit: ImageFit | None
    caption_tokens: int
    plain_text: bool
    orient: bool
    fast: bool
    limits: ImageLimits
    keep_sample: bool = False

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_backend"}

    @cached_property
    def _backend(self) -> Any:
        return self.tokenizer.build(self.plain_text)

    def prepare(self, sample: Sample) -> Item:
        """The inputs of a caption pair; raises SampleError where it can't be judged."""
        caption = read_caption(sample)
        try:
            pixels = decode(sample.images[0].data, self.limits, 0, self.orient, self.fast)
            image = fit(pixels, self.image, self.fit, self.fast)
        except SampleError as error:
            raise error.knowing(kept(caption)) from error
        ids, truncated = self.encode(caption)
        whole = sample if self.keep_sample else None
        return Item(np.array(ids, np.int32), image, caption, truncated, whole)

    def cost(self, item: Item) -> int:
        """Tokens of the prompt, those of the image included."""
        return self.image_tokens + len(item.ids)

    def encode(self, caption: str) -> tuple[list[int], bool]:
        """Ids of the prompt behind the image, and whether the caption had to be cut."""
        shown, truncated = caption, False
        encoded = self._backend.encode(caption, add_special_tokens=False)
        if len(encoded.ids) > self.caption_tokens:
            end = encoded.offsets[self.caption_tokens - 1][1]
            shown, truncated = caption[:end], True
        return self._ids("\n", question(shown, self.plain_text)), truncated

    def encode_answer(self, assessment: Assessment) -> list[int]:
        """Ids that a model learns to answer, its end token included."""
        ids = self._ids(*answer_pieces(assessment))
        return ids if self.tokenizer.eos is None else [*ids, self.tokenizer.eos]

    def _ids(self, *pieces: str) -> list[int]:
        encoded = self._backend.encode_batch_fast(pieces, add_special_tokens=False)
        return [token for piece in encoded for token in piece.ids]


def read_caption(sample: Sample) -> str:
    """The caption of a pair as it is; raises SampleError where the sample isn't one."""
    texts = [part.text for part in sample.parts if isinstance(part, Text)]
    if sample.kind != "caption":
        raise SampleError(Status.TEXT_MISSING, f"{sample.kind}: only caption pairs are enhanced")
    if not texts:
        raise SampleError(Status.TEXT_MISSING, "an image without a caption")
    caption = "\n".join(texts)
    if not sample.images:
        raise SampleError(Status.IMAGE_MISSING, "a caption without an image", kept(caption))
    return caption
