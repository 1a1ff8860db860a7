"""AITQE's inputs: a caption pair -> token ids and pixels.

The prompt is that of the published code (github.com/hanhuang22/AITQE, inference.py and its
processor), token for token: the image, then two newlines tokenised in separate pieces, then the
caption as it is between fixed words. No chat template, no first or last token. Training and
inference both build their inputs here.
"""

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmsieve.errors import SampleError, Status
from mmsieve.methods.aitqe.answers import Assessment, answer_pieces, kept
from mmsieve.methods.base import ArrayItem, TextImagePreparer, caption_image, caption_text
from mmsieve.sample import Sample

BEFORE = "Evaluate the caption: "
AFTER = (
    "\nif score is low, give a short description of the image."
    "\nRespond using a dictionary structure."
)
"""The published words around the caption."""

_AFTER_IMAGE = re.compile(r"(?<=<img_end>)(?!\n) *")
"""The published processor puts a newline here, in captions too."""


@dataclass(frozen=True, slots=True)
class AitqeItem(ArrayItem):
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


def question(caption: str, plain: bool) -> str:
    """What follows the image and its newline; `plain` leaves control strings alone."""
    text = f"\n{BEFORE}{caption}{AFTER}"
    return text if plain else _AFTER_IMAGE.sub("\n", text)


@dataclass(frozen=True, kw_only=True)
class AitqePreparer(TextImagePreparer):
    """The CPU half: the image to pixels, prompt and caption to ids."""

    image_tokens: int
    caption_tokens: int
    keep_sample: bool = False

    def prepare(self, sample: Sample) -> AitqeItem:
        """The inputs of a caption pair; raises SampleError where it can't be judged."""
        caption = read_caption(sample)
        try:
            image = self.pixels(sample.images[0])
        except SampleError as error:
            raise error.knowing(kept(caption)) from error
        ids, truncated = self.encode(caption)
        whole = sample if self.keep_sample else None
        return AitqeItem(np.array(ids, np.int32), image, caption, truncated, whole)

    def encode(self, caption: str) -> tuple[list[int], bool]:
        """Ids of the prompt behind the image, and whether the caption had to be cut."""
        words, truncated = self.write(caption)
        return self._ids("\n", words), truncated

    def write(self, caption: str) -> tuple[str, bool]:
        """What follows the image and its newline, and whether the caption had to be cut."""
        shown = self._cut(caption)
        return question(shown, self.plain_text), shown != caption

    def encode_caption(self, caption: str) -> tuple[list[int], int]:
        """Ids behind an image of which a model learns to say the caption, and how many of them."""
        ids = self._with_end(self._ids(self._cut(caption)))
        return [*self._ids("\n"), *ids], len(ids)

    def _cut(self, caption: str) -> str:
        encoded = self._backend.encode(caption, add_special_tokens=False)
        if len(encoded.ids) <= self.caption_tokens:
            return caption
        return caption[: encoded.offsets[self.caption_tokens - 1][1]]

    def encode_answer(self, assessment: Assessment) -> list[int]:
        """Ids that a model learns to answer, its end token included."""
        return self._with_end(self._ids(*answer_pieces(assessment)))

    def _with_end(self, ids: list[int]) -> list[int]:
        return ids if self.tokenizer.eos is None else [*ids, self.tokenizer.eos]

    def _ids(self, *pieces: str) -> list[int]:
        encoded = self._backend.encode_batch_fast(pieces, add_special_tokens=False)
        return [token for piece in encoded for token in piece.ids]


def read_caption(sample: Sample) -> str:
    """The caption of a pair as it is; raises SampleError where the sample isn't one."""
    if sample.kind != "caption":
        raise SampleError(Status.TEXT_MISSING, f"{sample.kind}: only caption pairs are enhanced")
    caption = caption_text(sample)
    try:
        caption_image(sample)
    except SampleError as error:
        raise error.knowing(kept(caption)) from error
    return caption
