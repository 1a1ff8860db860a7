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

from typing import Literal

import pyarrow as pa

from mmsieve.devices import resolve_device, resolve_dtype, share_cores
from mmsieve.engine.annotator import Runner, RunnerOptions
from mmsieve.errors import RequestError
from mmsieve.methods.clip.checkpoint import TEXT_FILES, ClipFolder, load_clip_tokenizer
from mmsieve.methods.clip.inputs import ClipPreparer
from mmsieve.methods.folders import hash_files
from mmsieve.methods.unifilter.annotator import ScoringOptions, image_fingerprint

SCHEMA = pa.schema(
    [
        ("quality_score", pa.float32()),
        ("num_images", pa.int32()),
        ("num_tokens", pa.int32()),
        ("truncated", pa.bool_()),
        ("num_skipped_images", pa.int32()),
    ]
)
"""Cosine (-1 to 1), images and text ids that the model saw, whether anything was cut, and images
of a document that could not be used. No level: similarity has none."""

_LEAST_TOKENS = 3
"""Beginning, end and something between."""


class Clip:
    """A CLIP or SigLIP as an annotator: its table's columns, its fingerprint, its halves."""

    kind: Literal["quality"] = "quality"
    schema = SCHEMA
    score_is_level = False

    def __init__(self, clip: ClipFolder, options: ScoringOptions) -> None:
        """Raises RequestError for a device that isn't there."""
        limit = options.max_text_tokens
        if limit is not None and limit < _LEAST_TOKENS:
            raise RequestError(f"max text tokens {limit}: clip: needs at least {_LEAST_TOKENS}")
        self.clip = clip
        self.options = options
        self.device = resolve_device(options.device)
        self.dtype = resolve_dtype(options.dtype, self.device)
        folder = clip.folder
        self.fingerprint = {
            "method": f"{clip.tower.kind} similarity 1",
            "weights": hash_files({*clip.tensors.values(), folder / "config.json"}),
            "tokenizer": hash_files(folder / name for name in TEXT_FILES),
            "dtype": self.dtype,
            **image_fingerprint(clip.tower.image, options, options.image_fit),
            "text_tokens": str(min(limit or clip.text_length, clip.text_length)),
            "plain_text": str(bool(options.plain_text)),
        }

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
