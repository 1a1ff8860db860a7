"""UniFilter (arXiv 2510.15162): one score for a caption pair or an interleaved document.

A regression trained on levels 0 (unrelated or unreadable) to 3 (high quality). The inputs are
those of the published scorers (Victorwz/UniFilter, data_scoring/*.py), each sample scored as if
it were alone: docs/unifilter.md lists where the two differ, and why.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmsieve.annotator import Runner, RunnerOptions
from mmsieve.devices import Dtype
from mmsieve.errors import SampleError, Status
from mmsieve.fingerprint import hash_files
from mmsieve.images import ImageFit, ImageLimits, ImageSpec, Pixels, decode, fit
from mmsieve.models.released import Checkpoint
from mmsieve.models.tokenizer import FILES, TokenizerSpec, load_tokenizer
from mmsieve.sample import Image, Sample, Text

IMAGE = -200
"""The id of an image in `Item.ids`, as published."""

_MARK = "<image>"
_CAPTION_TOKENS, _DOCUMENT_TOKENS = 75, 16384
_LEVELS = 3


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """How to score; whatever is None is as the checkpoint asks."""

    image_fit: Literal["stretch", "pad"] | None = None
    """How an image becomes a square: the published scorers stretch, their training padded."""
    max_text_tokens: int | None = None
    """Cut a text after this many ids, an image counting one (published: 75, documents 16384)."""
    plain_text: bool | None = None
    """Read control strings such as `<|endoftext|>` in a text as ordinary text."""
    apply_orientation: bool = False
    """Turn images as their EXIF data says (the published scorers do not)."""
    fast_images: bool = False
    """Decode and resize with simplejpeg and torch: faster, off by a few grey levels."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto is float32 on a CPU and bfloat16 on a GPU."""
    image_limits: ImageLimits = field(default_factory=ImageLimits)
    """Beyond these an image is refused."""


@dataclass(frozen=True, slots=True)
class Item:
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


@dataclass(frozen=True)
class UniFilterPreparer:
    """The CPU half: images to pixels, texts to ids. Needs no torch, unless images are fast."""

    tokenizer: TokenizerSpec
    image: ImageSpec
    image_tokens: int
    fit: ImageFit | None
    caption_tokens: int
    document_tokens: int
    max_sequence: int | None
    plain_text: bool
    orient: bool
    fast: bool
    limits: ImageLimits

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_backend"}

    @cached_property
    def _backend(self) -> Any:
        return self.tokenizer.build(self.plain_text)

    def prepare(self, sample: Sample) -> Item:
        """The inputs of a sample; raises SampleError where it has no score."""
        return self._caption(sample) if sample.kind == "caption" else self._document(sample)

    def cost(self, item: Item) -> int:
        """Tokens that the item takes in a batch."""
        return item.num_tokens

    def _caption(self, sample: Sample) -> Item:
        texts = [part.text for part in sample.parts if isinstance(part, Text)]
        if not sample.images:
            raise SampleError(Status.IMAGE_MISSING, "a caption without an image")
        if not texts:
            raise SampleError(Status.TEXT_MISSING, "an image without a caption")
        pixels = self._pixels(sample.images[0])
        prompt = f"{_MARK}\n" + "\n".join(texts).replace(_MARK, "image")
        return self._item(prompt, [pixels], self.caption_tokens, 0)

    def _document(self, sample: Sample) -> Item:
        pieces: list[str] = []
        images: list[Pixels] = []
        skipped = 0
        for part in sample.parts:
            if isinstance(part, Text):
                pieces.append(part.text.replace(_MARK, "<image-placeholder>"))
            elif self._full(len(images)):
                break
            elif (pixels := self._usable(part)) is None:
                skipped += 1
            else:
                pieces.append(_MARK)
                images.append(pixels)
        if not images:
            raise SampleError(Status.NO_USABLE_IMAGE, f"{skipped} images, none of them usable")
        return self._item("\n\n".join(pieces), images, self.document_tokens, skipped)

    def _full(self, images: int) -> bool:
        """Whether that many images fill the sequence: what follows is cut off anyway."""
        return self.max_sequence is not None and images * self.image_tokens >= self.max_sequence

    def _usable(self, image: Image) -> Pixels | None:
        """An image of a document, or None: a broken one is left out, and one a pixel wide too."""
        try:
            return self._pixels(image, min_side=2)
        except SampleError:
            return None

    def _pixels(self, image: Image, min_side: int = 1) -> Pixels:
        pixels = decode(image.data, self.limits, image.frame, self.orient, self.fast)
        if min(pixels.shape[:2]) < min_side:
            raise SampleError(Status.IMAGE_TOO_SMALL, "one pixel wide or high")
        return fit(pixels, self.image, self.fit, self.fast)

    def _item(self, prompt: str, images: list[Pixels], limit: int, skipped: int) -> Item:
        ids = self._encode(prompt)
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

    def _encode(self, prompt: str) -> list[int]:
        """Ids of a prompt, an IMAGE per mark, as llava/mm_utils.py (tokenizer_image_token)."""
        bos, eos = self.tokenizer.bos, self.tokenizer.eos
        chunks: list[list[int]] = [self._backend.encode(chunk).ids for chunk in prompt.split(_MARK)]
        starts = bool(chunks[0]) and chunks[0][0] == bos
        ids = chunks[0]
        for chunk in chunks[1:]:
            ids = [*ids, IMAGE, *chunk[starts:]]
        if bos is not None and ids[:1] != [bos]:
            ids = [bos, *ids]
        if eos is not None and ids[-1:] != [eos]:
            ids = [*ids, eos]
        return ids

    def _cut(self, ids: list[int], length: int) -> tuple[list[int], int]:
        """The ids, and the number of images, of which anything is within `length`."""
        room, kept = length, 0
        while room > 0:
            room -= self.image_tokens if ids[kept] == IMAGE else 1
            kept += 1
        return ids[:kept], ids[:kept].count(IMAGE)


SCHEMA = pa.schema(
    [
        ("quality_score", pa.float32()),
        ("quality_level", pa.int8()),
        ("num_images", pa.int32()),
        ("num_tokens", pa.int32()),
        ("truncated", pa.bool_()),
        ("num_skipped_images", pa.int32()),
    ]
)
"""Score (unbounded; trained on 0-3), level (0-3), images and tokens that the model saw, whether
anything was cut, and images that were left out because they could not be used."""


class UniFilter:
    """A quality classifier as an annotator: its table's columns, its fingerprint, its halves."""

    kind: Literal["quality"] = "quality"

    def __init__(
        self, checkpoint: Checkpoint, options: ScoringOptions, device: str, dtype: Dtype
    ) -> None:
        """`device` and `dtype` are those of the options, resolved."""
        self.checkpoint = checkpoint
        self.options = options
        self.device = device
        self.dtype = dtype
        self.schema = SCHEMA
        self._settings = _settings(options, checkpoint.own or {})
        self.fingerprint = self._fingerprint()

    @property
    def notes(self) -> list[str]:
        """What a user should know of how this checkpoint is used, a line each."""
        labels = self.checkpoint.num_labels
        notes = [self.checkpoint.tower.note]
        if labels > 2 and self.checkpoint.own is None:
            notes.append(
                f"the checkpoint has {labels} labels: as in the published scorer, quality_score "
                "is the probability of label 1, not of the best one"
            )
        return notes

    def _fingerprint(self) -> dict[str, str]:
        checkpoint, options = self.checkpoint, self.options
        folder, preparer = checkpoint.folder, self._settings
        tower = {file for file, _ in checkpoint.tower.tensors.values()}
        spec = checkpoint.image
        return {
            "method": "unifilter 1",
            "weights": hash_files({*checkpoint.tensors.values(), folder / "config.json"}),
            "tower": hash_files(tower),
            "tokenizer": hash_files(folder / name for name in FILES),
            "dtype": self.dtype,
            "image_path": "fast" if options.fast_images else "exact",
            "image_fit": preparer["fit"] or spec.fit,
            "image_values": f"{spec.size} {spec.resample} {spec.mean} {spec.std} {spec.scale:.6g}",
            "image_limits": str(options.image_limits),
            "apply_orientation": str(options.apply_orientation),
            "text_tokens": f"{preparer['caption_tokens']} {preparer['document_tokens']}",
            "plain_text": str(preparer["plain_text"]),
        }

    def preparer(self) -> UniFilterPreparer:
        """The CPU half."""
        return UniFilterPreparer(
            tokenizer=load_tokenizer(self.checkpoint.folder),
            image=self.checkpoint.image,
            image_tokens=self.checkpoint.image_tokens,
            max_sequence=self.checkpoint.max_sequence,
            orient=self.options.apply_orientation,
            fast=self.options.fast_images,
            limits=self.options.image_limits,
            **self._settings,
        )

    def runner(self, options: RunnerOptions) -> Runner:
        """The device half; imports torch and loads the weights."""
        from mmsieve.methods.unifilter_runner import UniFilterRunner

        return UniFilterRunner(self.checkpoint, self.dtype, options)


def _settings(options: ScoringOptions, own: dict[str, Any]) -> dict[str, Any]:
    """The options, with what they leave open taken from the checkpoint's own wishes."""
    limit = options.max_text_tokens or own.get("max_text_tokens")
    plain = options.plain_text if options.plain_text is not None else own.get("plain_text")
    return {
        "fit": options.image_fit or own.get("image_fit"),
        "caption_tokens": limit or _CAPTION_TOKENS,
        "document_tokens": limit or _DOCUMENT_TOKENS,
        "plain_text": bool(plain),
    }


Scoring: TypeAlias = Literal["regression", "published", "expected"]


def quality(logits: npt.NDArray[np.float32], scoring: Scoring) -> tuple[float, int]:
    """Score and level of one sample from its logits [labels].

    `regression`: the logit itself; `published`: the probability of label 1 and the most probable
    label (data_scoring/*.py); `expected`: the mean label under the probabilities.
    """
    if scoring == "regression":
        score = float(logits[0])
    else:
        odds = np.exp(logits.astype(np.float64) - logits.max())
        odds /= odds.sum()
        if scoring == "published":
            return float(odds[1]), int(logits.argmax())
        score = float(odds @ np.arange(len(odds)))
    return score, int(np.rint(np.clip(score, 0, _LEVELS))) if np.isfinite(score) else 0
