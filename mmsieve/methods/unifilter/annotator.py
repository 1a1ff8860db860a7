"""UniFilter (arXiv 2510.15162): one score for a caption pair or an interleaved document.

A regression trained on levels 0 (unrelated or unreadable) to 3 (high quality). Released
checkpoints give the numbers of the published scorers (Victorwz/UniFilter, data_scoring/*.py) run
in batches of one, and on these points differ on purpose:

- The class comes from config.json, not from the folder's name: the published scripts load the
  Qwen2 or Llama class for Qwen3 weights, and drop Gemma 2's soft-capping.
- A sample is scored as if alone: bos and eos are decided per sample, an image never slides to a
  neighbour, and an image one or three pixels high is read as the picture that it is.
- Every sample is a row: any number of images, any length; a broken image of a document is left
  out with its slot and counted (num_skipped_images), and a text in an image's slot is kept.

Two controls show it one side only, since what they still get right of the levels needs no look at
the other side. `text-only` puts a blank image, of the tower's mean colour, in the place of every
image, and opens none; `image-only` shows the images with no text: a caption becomes an empty one, a
document the row of its images. It is the same classifier, untrained for such inputs: one trained on
them could do better, so a low number does not prove that there is nothing to find.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeAlias

import PIL.Image
import pyarrow as pa
from cyclopts import Parameter

from mmsieve.devices import Memory, kind_of, resolve_device, resolve_dtype, share_cores
from mmsieve.engine.annotator import Annotator, Runner, RunnerOptions
from mmsieve.errors import RequestError
from mmsieve.images import ImageLimits
from mmsieve.methods.base import BatchRunner, ModelOptions
from mmsieve.methods.folders import hash_files, stored_tensors
from mmsieve.methods.memory import Batch, LanguageSizes, count_numbers, estimate
from mmsieve.methods.tokenizer import FILES, load_tokenizer
from mmsieve.methods.unifilter.checkpoint import Checkpoint
from mmsieve.methods.unifilter.inputs import Item, UniFilterPreparer
from mmsieve.options import MODEL, Positive
from mmsieve.sample import Image, Part, Sample, Text

_CAPTION_TOKENS, _DOCUMENT_TOKENS = 75, 16384
_MANY_LABELS = (
    "the checkpoint has {} labels: as in the published scorer, quality_score is the probability of "
    "label 1, not of the best one"
)


@Parameter(name="*", group=MODEL)
@dataclass(frozen=True, kw_only=True)
class ScoringOptions(ModelOptions):
    """How to score; whatever is None is as the checkpoint asks."""

    image_fit: Literal["stretch", "pad"] | None = None
    """How an image becomes a square: the published scorers stretch, their training padded."""
    max_text_tokens: Positive | None = None
    """Cut a text after this many ids, an image counting one (published: 75, documents 16384)."""
    plain_text: Annotated[bool | None, Parameter(negative="--no-plain-text")] = None
    """Read control strings such as `<|endoftext|>` in a text as ordinary text."""

    def refuse(self, names: Iterable[str], model: str) -> None:
        """Raise RequestError where one of these options is given, as it means nothing there."""
        for name in names:
            if getattr(self, name) not in (None, False):
                raise RequestError(f"--{name.replace('_', '-')} means nothing for --model {model}")

    def fill(self, own: dict[str, Any]) -> "ScoringOptions":
        """The options, with what they leave open taken from a checkpoint's own wishes."""
        plain = own.get("plain_text") if self.plain_text is None else self.plain_text
        return replace(
            self,
            image_fit=self.image_fit or own.get("image_fit"),
            max_text_tokens=self.max_text_tokens or own.get("max_text_tokens"),
            plain_text=bool(plain),
        )


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


class UniFilter(Annotator):
    """A quality classifier as an annotator: its table's columns, its fingerprint, its halves."""

    schema = SCHEMA

    def __init__(self, checkpoint: Checkpoint, options: ScoringOptions) -> None:
        """Raises RequestError for a device that isn't there."""
        self.checkpoint = checkpoint
        self.options = options = options.fill(checkpoint.own or {})
        self.device = resolve_device(options.device)
        self.dtype = resolve_dtype(options.dtype, self.device, checkpoint.gpu_dtype)
        # Not as in the published scorer, where it is the probability of one of several labels
        self.score_is_level = checkpoint.num_labels == 1 or checkpoint.own is not None
        limit, image = options.max_text_tokens, checkpoint.image
        self._limits = (limit or _CAPTION_TOKENS, limit or _DOCUMENT_TOKENS)
        tower = {file for file, _ in checkpoint.tower.tensors.values()}
        weights = {*checkpoint.tensors.values(), checkpoint.folder / "config.json"}
        self.fingerprint = {
            "method": "unifilter 1",
            "weights": hash_files(weights),
            "tower": hash_files(tower),
            "tokenizer": hash_files(checkpoint.folder / name for name in FILES),
            "dtype": self.dtype,
            **options.image_fingerprint(image, options.image_fit or image.fit),
            "text_tokens": "{} {}".format(*self._limits),
            "plain_text": str(options.plain_text),
            **({} if self.dtype == "float32" else {"head": "float32"}),
        }
        self.notes = checkpoint.notes
        if checkpoint.own is None and checkpoint.num_labels > 2:
            self.notes += (_MANY_LABELS.format(checkpoint.num_labels),)

    def memory(self, options: RunnerOptions) -> Memory:
        """Of the classifier and a batch of captions."""
        checkpoint, sizes = self.checkpoint, LanguageSizes.of(self.checkpoint)
        batch = Batch(
            device=options.device,
            dtype=self.dtype,
            tokens=options.batch_tokens or BatchRunner.batch_tokens[kind_of(options.device)],
            sample=checkpoint.image_tokens + min(self._limits[0], _CAPTION_TOKENS),
            image_tokens=checkpoint.image_tokens,
            windows=BatchRunner.batches_sorted,
        )
        numbers = count_numbers(stored_tensors(checkpoint.used).values())
        return estimate(batch, numbers, batch.activations(sizes, checkpoint.tower))

    def preparer(self) -> UniFilterPreparer:
        """The CPU half."""
        return UniFilterPreparer(
            tokenizer=load_tokenizer(self.checkpoint.folder, self.checkpoint.embedded),
            image=self.checkpoint.image,
            image_tokens=self.checkpoint.image_tokens,
            max_sequence=self.checkpoint.max_sequence,
            caption_tokens=self._limits[0],
            document_tokens=self._limits[1],
            fit=self.options.image_fit,
            plain_text=bool(self.options.plain_text),
            **self.options.of_images,
        )

    def runner(self, options: RunnerOptions) -> Runner:
        """The device half; imports torch and loads the weights."""
        share_cores()
        from mmsieve.methods.unifilter.runner import UniFilterRunner

        return UniFilterRunner(self.checkpoint, self.dtype, options)


# A quality classifier shown one side only: how much text, or image, gives away by itself

Side: TypeAlias = Literal["text", "image"]


@dataclass(frozen=True)
class OneSidedPreparer:
    """The classifier's own preparer, given half of each sample."""

    whole: UniFilterPreparer
    side: Side
    blank: Image

    def prepare(self, sample: Sample) -> Item:
        """The inputs of what is shown; raises SampleError as the classifier's preparer does."""
        parts: tuple[Part, ...] = sample.images
        if self.side == "text":
            parts = tuple(self.blank if isinstance(p, Image) else p for p in sample.parts)
        elif sample.kind != "document":
            parts = tuple(Text("") if isinstance(p, Text) else p for p in sample.parts)
        return self.whole.prepare(replace(sample, parts=parts))


class OneSided(Annotator):
    """A quality classifier that is shown texts only, or images only, as an annotator."""

    schema = SCHEMA

    def __init__(self, classifier: UniFilter, side: Side) -> None:
        self.classifier, self._side = classifier, side
        self.device = classifier.device
        self.score_is_level = classifier.score_is_level
        self.notes = classifier.notes
        self.fingerprint = classifier.fingerprint | {"shown": f"{side} only"}

    def preparer(self) -> OneSidedPreparer:
        """The CPU half."""
        whole = self.classifier.preparer()
        if self._side == "text":  # no image of the sample is opened, so no limit has a meaning
            whole = replace(whole, limits=ImageLimits())
        spec, out = whole.image, io.BytesIO()
        red, green, blue = (min(255, int(channel / spec.scale)) for channel in spec.mean)
        PIL.Image.new("RGB", (spec.size, spec.size), (red, green, blue)).save(out, "PNG")
        return OneSidedPreparer(whole, self._side, Image(out.getvalue()))

    def memory(self, options: RunnerOptions) -> Memory:
        """The classifier's own."""
        return self.classifier.memory(options)

    def runner(self, options: RunnerOptions) -> Runner:
        """The classifier's own device half."""
        return self.classifier.runner(options)
