"""CLIP and SigLIP similarity: how near an image and a text are in the space that both share.

The score is the cosine of the two embeddings (CLIPScore of Hessel et al., arXiv 2104.08718,
without its factor 2.5 and its clamp), the number that DataComp's and LAION's filters cut on; it
is on no absolute scale, so a threshold for one model means nothing for another.

- A caption: its first image against its texts, joined by newlines, cut at the model's length.
- A document: each image against the one of the document's texts that is nearest to it, as MMC4
  (arXiv 2304.06939) matches images to sentences but without its one-to-one assignment; the score
  is the mean over the images. Where a text stands doesn't matter, so that layouts with images
  before, after or between their texts compare.

Transparency is dropped, as by OpenAI's code and open_clip, which made DataComp's scores; recent
versions of transformers lay transparent images over white.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mmsieve.devices import Memory, kind_of, resolve_device, resolve_dtype, share_cores
from mmsieve.engine.annotator import Annotator, Runner, RunnerOptions
from mmsieve.errors import RequestError, SampleError, Status
from mmsieve.images import Pixels
from mmsieve.methods import base
from mmsieve.methods.clip.checkpoint import TEXT_FILES, ClipFolder, load_clip_tokenizer
from mmsieve.methods.folders import hash_files, stored_tensors
from mmsieve.methods.memory import Batch, count_numbers, estimate, tower_numbers
from mmsieve.methods.unifilter.annotator import SCHEMA, ScoringOptions
from mmsieve.sample import Sample, Text

COLUMNS = pa.schema([column for column in SCHEMA if column.name != "quality_level"])
"""As of a classifier, but that the score is the cosine (-1 to 1), which has no level."""

BATCH_TOKENS = {"cpu": 1600, "cuda": 147456}
"""Patches, or ids of texts, that are encoded at a time, by kind of device."""
WINDOW_BATCHES = 8
"""Batches whose texts are sorted together."""

_MOST_IMAGES = 256
"""Of one document: what comes after is not looked at, so that a document fits into memory."""


@dataclass(frozen=True, slots=True)
class ClipItem(base.ArrayItem):
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


@dataclass(frozen=True, kw_only=True)
class ClipPreparer(base.TextImagePreparer):
    """The CPU half: images to pixels, texts to ids."""

    def prepare(self, sample: Sample) -> ClipItem:
        """The inputs of a sample; raises SampleError where there is nothing to compare."""
        if sample.kind == "document":
            return self._document(sample)
        image, caption = base.caption_image(sample), base.caption_text(sample)
        if not caption.strip():
            raise SampleError(Status.TEXT_MISSING, "an image without a caption")
        return self._item([caption], [self.pixels(image)])

    def _document(self, sample: Sample) -> ClipItem:
        texts = [part.text for part in sample.parts if isinstance(part, Text)]
        texts, images = [text for text in texts if text.strip()], sample.images
        if not texts:
            raise SampleError(Status.TEXT_MISSING, "a document without text")
        usable, skipped = base.read_usable(images[:_MOST_IMAGES], self.pixels)
        return self._item(texts, usable, len(images) > _MOST_IMAGES, skipped)

    def _item(
        self, texts: list[str], images: list[Pixels], truncated: bool = False, skipped: int = 0
    ) -> ClipItem:
        ids, cut = zip(*map(self._backend.encode, texts), strict=True)
        return ClipItem(ids, np.stack(images), truncated or any(cut), skipped)


class Clip(Annotator):
    """A CLIP or SigLIP as an annotator: its table's columns, its fingerprint, its halves."""

    schema = COLUMNS

    def __init__(self, clip: ClipFolder, options: ScoringOptions) -> None:
        """Raises RequestError for a device that isn't there."""
        limit = options.max_text_tokens
        if limit is not None and limit < 3:  # beginning, end and something between
            raise RequestError(f"max text tokens {limit}: clip: needs at least 3")
        self.clip, self.options = clip, options
        self.device = resolve_device(options.device)
        self.dtype = resolve_dtype(options.dtype, self.device)
        self.notes = (clip.tower.note,)
        folder, image = clip.folder, clip.tower.image
        self.fingerprint = {
            "method": f"{clip.tower.kind} similarity 1",
            "weights": hash_files({*clip.tensors.values(), folder / "config.json"}),
            "tokenizer": hash_files(folder / name for name in TEXT_FILES),
            "dtype": self.dtype,
            **options.image_fingerprint(image, options.image_fit or image.fit),
            "text_tokens": str(min(limit or clip.text_length, clip.text_length)),
            "plain_text": str(bool(options.plain_text)),
        }

    def memory(self, options: RunnerOptions) -> Memory:
        """Of both towers, and a batch of images; the texts take less."""
        tower = self.clip.tower
        tokens = options.batch_tokens or BATCH_TOKENS[kind_of(options.device)]
        images = max(1, tokens // tower.patches)
        places = {name: (file, name) for name, file in self.clip.tensors.items()}
        numbers = count_numbers(stored_tensors(places).values())
        batch = Batch(
            device=options.device,
            dtype=self.dtype,
            tokens=tokens,
            sample=tower.patches,
            image_tokens=1,
            windows=WINDOW_BATCHES,
        )
        activations = tower_numbers(tower, images) * batch.item_bytes + batch.waiting(tower)
        return estimate(batch, numbers, activations)

    def preparer(self) -> ClipPreparer:
        """The CPU half."""
        options = self.options
        return ClipPreparer(
            tokenizer=load_clip_tokenizer(self.clip, options.max_text_tokens),
            image=self.clip.tower.image,
            fit=options.image_fit,
            plain_text=bool(options.plain_text),
            **options.of_images,
        )

    def runner(self, options: RunnerOptions) -> Runner:
        """The device half; imports torch and loads the weights."""
        share_cores()
        from mmsieve.methods.clip.runner import ClipRunner

        return ClipRunner(self.clip, self.dtype, options)
