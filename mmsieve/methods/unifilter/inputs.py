"""UniFilter's inputs: a caption pair or a document -> token ids and pixels.

The prompts and the order of cutting are those of the published scorers (data_scoring/*.py and
llava/mm_utils.py of Victorwz/UniFilter); scoring and training both build their inputs here.
"""

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mmsieve.errors import SampleError, Status
from mmsieve.images import Pixels
from mmsieve.methods.base import ArrayItem, TextImagePreparer, caption_image, caption_text
from mmsieve.methods.tokenizer import IMAGE
from mmsieve.sample import Sample, Text

Span: TypeAlias = tuple[int, int]
"""Characters of a prompt: start and end."""

_MARK = "<image>"


@dataclass(frozen=True, slots=True)
class Item(ArrayItem):
    """The inputs of one sample."""

    ids: npt.NDArray[np.int32]
    """Token ids, one IMAGE per image."""
    images: npt.NDArray[np.uint8]
    """[images, size, size, 3], in the order of their IMAGE ids."""
    num_tokens: int
    """Length after each IMAGE has become its embeddings, and after the cut."""
    truncated: bool
    skipped: int
    """Images that could not be used."""


@dataclass(frozen=True, kw_only=True)
class UniFilterPreparer(TextImagePreparer):
    """The CPU half: images to pixels, texts to ids."""

    image_tokens: int
    caption_tokens: int
    document_tokens: int
    max_sequence: int | None

    def prepare(self, sample: Sample) -> Item:
        """The inputs of a sample; raises SampleError where it has no score."""
        if sample.kind != "caption":
            return self._document(sample)
        image, text = caption_image(sample), caption_text(sample)
        prompt = f"{_MARK}\n" + text.replace(_MARK, "image")
        return self._item(prompt, [self.pixels(image)], self.caption_tokens, 0)

    def _document(self, sample: Sample) -> Item:
        pieces: list[str] = []
        images: list[Pixels] = []
        skipped = 0
        for part in sample.parts:
            if isinstance(part, Text):
                pieces.append(part.text.replace(_MARK, "<image-placeholder>"))
            elif len(images) * self.image_tokens >= (self.max_sequence or math.inf):
                break  # what follows is cut off anyway
            else:
                try:
                    images.append(self.pixels(part, min_side=2))
                except SampleError:  # left out, and one a pixel wide too
                    skipped += 1
                else:
                    pieces.append(_MARK)
        if not images:
            raise SampleError(Status.NO_USABLE_IMAGE, f"{skipped} images, none of them usable")
        return self._item("\n\n".join(pieces), images, self.document_tokens, skipped)

    def _item(self, prompt: str, images: list[Pixels], limit: int, skipped: int) -> Item:
        ids, _ = self.encode(prompt)
        truncated = len(ids) > limit
        kept = [token for token in ids[:limit] if token != self.tokenizer.pad]
        shown = kept.count(IMAGE)
        length = len(kept) + shown * (self.image_tokens - 1)
        if self.max_sequence is not None and length > self.max_sequence:
            length, truncated = self.max_sequence, True
            kept, shown = self._cut(kept, length)
        if not kept:
            raise SampleError(Status.TEXT_MISSING, "no token is left of the sample")
        side = self.image.size
        pixels = np.stack(images[:shown]) if shown else np.empty((0, side, side, 3), np.uint8)
        return Item(np.array(kept, np.int32), pixels, length, truncated, skipped)

    def encode(self, prompt: str) -> tuple[list[int], list[Span]]:
        """Ids of a prompt, an IMAGE per `<image>`, and the characters that each stands for.

        As tokenizer_image_token of llava/mm_utils.py; bos and eos stand for no character.
        """
        bos, eos = self.tokenizer.bos, self.tokenizer.eos
        ids: list[int] = []
        spans: list[Span] = []
        start, has_bos = 0, False
        for index, chunk in enumerate(prompt.split(_MARK)):
            encoded = self._backend.encode(chunk)
            skip = 0
            if index == 0:
                has_bos = encoded.ids[:1] == [bos]
            else:
                ids.append(IMAGE)
                spans.append((start - len(_MARK), start))
                skip = int(has_bos)
            ids += encoded.ids[skip:]
            spans += [(start + a, start + b) for a, b in encoded.offsets[skip:]]
            start += len(chunk) + len(_MARK)
        if bos is not None and ids[:1] != [bos]:
            ids, spans = [bos, *ids], [(0, 0), *spans]
        if eos is not None and ids[-1:] != [eos]:
            ids, spans = [*ids, eos], [*spans, (len(prompt), len(prompt))]
        return ids, spans

    def _cut(self, ids: list[int], length: int) -> tuple[list[int], int]:
        """The ids, and the number of images, of which anything is within `length`."""
        kept = 0
        while length > 0:
            length -= self.image_tokens if ids[kept] == IMAGE else 1
            kept += 1
        return ids[:kept], ids[:kept].count(IMAGE)
