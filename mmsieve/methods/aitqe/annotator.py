"""AITQE (arXiv 2410.16166): judge a caption pair, and rewrite the caption where it is poor.

A Llava-like model answers with a rewrite, an overall score and, asked to explain, five more scores
and six explanations. The image always stays; a caption of a low score is replaced by the rewrite.

Released checkpoints are asked and answer as in the published code (hanhuang22/AITQE), greedily and
token for token, with these differences on purpose: a batch pads on the left, so that an answer
doesn't depend on its neighbours; an answer is parsed, never mended by replacing characters; and
captions that the published code stops at (those with its pad token) are judged. Checkpoints made
by mmsieve are given the keys of their answers.

With `--accept-if-better` a quality classifier then scores both texts of each rewritten pair.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import pyarrow as pa
from cyclopts import Parameter

from mmsieve.clients.endpoint import EndpointOptions
from mmsieve.devices import Memory, kind_of, resolve_device, resolve_dtype, share_cores
from mmsieve.engine.annotator import Annotator, Preparer, Runner, RunnerOptions, check
from mmsieve.methods.aitqe.answers import KEYS, RowMaker
from mmsieve.methods.aitqe.checkpoint import EnhancerCheckpoint
from mmsieve.methods.aitqe.inputs import AitqePreparer
from mmsieve.methods.folders import hash_files, stored_tensors
from mmsieve.methods.memory import FLOAT32, Batch, LanguageSizes, count_numbers, estimate, together
from mmsieve.methods.tokenizer import FILES, load_tokenizer
from mmsieve.methods.unifilter.annotator import ScoringOptions
from mmsieve.methods.vllm import BackendOptions
from mmsieve.options import Positive, ZeroToOne, number, own
from mmsieve.tables import SCORE, find_score

BATCH_TOKENS = {"cpu": 8192, "cuda": 65536}
"""Tokens of a batch by default, by kind of device; answers come on top."""
WINDOW_BATCHES = 8
_PROMPT_TOKENS = 400
"""Of a usual prompt, its caption included, without the image."""
_CAPTION_TOKENS = 2048
"""The published code has no limit of its own."""


@Parameter(name="*", group=own("Rewrites"))
@dataclass(frozen=True, kw_only=True)
class EnhanceOptions(EndpointOptions, BackendOptions):
    """What is asked of the model, and when its rewrite is used."""

    rewrite_below: Annotated[float, number(gte=0, lte=11)] = 7
    """Captions with an overall score (1-10) below this are replaced by the model's rewrite
    (0: none, 11: whatever the model rewrites)."""
    explain: bool = False
    """Let the model go on to the five detail scores and all explanations: several times slower."""
    max_new_tokens: Positive = 384
    """Longest answer, in ids (published: 384)."""
    max_edit: ZeroToOne | None = None
    """Refuse rewrites further than this from the caption, in words (0: the same, 1: all new)."""
    accept_if_better: str | None = None
    """Quality classifier that must prefer a rewrite to its caption: any model of `score`."""

    @property
    def rows(self) -> RowMaker:
        """What turns answers into rows."""
        return RowMaker(self.rewrite_below, self.max_edit, self.explain)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of an answer, where they are given."""
        return KEYS if self.explain else KEYS[:2]

    @property
    def fingerprint(self) -> dict[str, str]:
        """Whatever of it changes a row."""
        return {
            "rewrite_below": f"{self.rewrite_below:g}",
            "explain": str(self.explain),
            "max_new_tokens": str(self.max_new_tokens),
            "max_edit": str(self.max_edit),
            **self.backend_fingerprint(),
        }


class Aitqe(Annotator):
    """An AITQE checkpoint as an annotator: its table's columns, its fingerprint, its halves."""

    kind: Literal["assessment"] = "assessment"

    def __init__(
        self, checkpoint: EnhancerCheckpoint, enhancing: EnhanceOptions, options: ScoringOptions
    ) -> None:
        """Raises RequestError for a device that isn't there."""
        enhancing.check_backend([(enhancing.stock, checkpoint)])
        self.spread = enhancing.tensor_parallel
        self.checkpoint, self.enhancing = checkpoint, enhancing
        # a model that has learnt answers in pieces has learnt to read any text
        own = checkpoint.own and checkpoint.own | {"plain_text": True}
        self.options = options = options.fill(own or {})
        self.device = resolve_device(options.device)
        self.dtype = resolve_dtype(options.dtype, self.device, checkpoint.gpu_dtype)
        self.schema = enhancing.rows.schema
        self._caption_tokens = options.max_text_tokens or _CAPTION_TOKENS
        folder, image = checkpoint.folder, checkpoint.image
        configs = {folder / "config.json", folder / "generation_config.json"}
        self.fingerprint = {
            "method": "aitqe 1",
            "weights": hash_files({*checkpoint.tensors.values(), *configs}),
            "tokenizer": hash_files(folder / name for name in FILES),
            "dtype": self.dtype,
            **options.image_fingerprint(image, options.image_fit or image.fit),
            "text_tokens": str(self._caption_tokens),
            "plain_text": str(options.plain_text),
            **enhancing.fingerprint,
        }
        self.notes = checkpoint.notes

    def memory(self, options: RunnerOptions) -> Memory | None:
        """Of the model, a batch of prompts, and the cache of prompts and answers."""
        if self.enhancing.backend == "vllm":  # which takes what it is told to
            return None
        checkpoint, sizes = self.checkpoint, LanguageSizes.of(self.checkpoint)
        batch = Batch(
            device=options.device,
            dtype=self.dtype,
            tokens=options.batch_tokens or BATCH_TOKENS[kind_of(options.device)],
            sample=checkpoint.image_tokens + _PROMPT_TOKENS,
            image_tokens=checkpoint.image_tokens,
            windows=WINDOW_BATCHES,
        )
        answers = batch.rows * self.enhancing.max_new_tokens
        # of one layer at a time there are two: it grows by being copied
        cached = sizes.cached(batch.length + answers) * (1 + 1 / sizes.layers)
        activations = batch.activations(sizes, checkpoint.tower)
        activations += batch.mask_bytes(sizes) + batch.rows * sizes.vocabulary * FLOAT32
        numbers = count_numbers(stored_tensors(checkpoint.used).values())
        return estimate(batch, numbers, activations, int(cached * batch.item_bytes))

    def preparer(self) -> AitqePreparer:
        """The CPU half."""
        return AitqePreparer(
            tokenizer=load_tokenizer(self.checkpoint.folder, self.checkpoint.embedded),
            image=self.checkpoint.tower.image,
            image_tokens=self.checkpoint.image_tokens,
            caption_tokens=self._caption_tokens,
            fit=self.options.image_fit,
            plain_text=bool(self.options.plain_text),
            keep_sample=self.enhancing.accept_if_better is not None,
            **self.options.of_images,
        )

    def runner(self, options: RunnerOptions) -> Runner:
        """The device half; imports torch and loads the weights."""
        if self.enhancing.backend == "vllm":
            from mmsieve.methods.aitqe.vllm import VllmAitqeRunner

            return VllmAitqeRunner(self.checkpoint, self.enhancing, self.dtype, options)
        share_cores()
        from mmsieve.methods.aitqe.runner import AitqeRunner

        # only a model that has learnt answers in pieces knows the keys that are given
        forced = self.checkpoint.own is not None
        return AitqeRunner(self.checkpoint, self.enhancing, forced, self.dtype, options)


COLUMNS = pa.schema([("caption_quality", pa.float32()), ("recaption_quality", pa.float32())])
"""What the classifier says of the two texts; null where no rewrite was to be used."""


class Judged(Annotator):
    """An enhancer whose rewrites are judged by a quality classifier, as an annotator."""

    kind: Literal["assessment"] = "assessment"

    def __init__(self, enhancer: Annotator, judge: Annotator) -> None:
        """The enhancer's items must carry their samples."""
        self._enhancer, self._judge = enhancer, judge
        self.spread = max(enhancer.spread, judge.spread)
        self.device = enhancer.device
        self.schema = pa.schema([*enhancer.schema, *COLUMNS])
        self.notes = (*enhancer.notes, *(f"better by: {note}" for note in judge.notes))
        judging = {f"better by: {name}": value for name, value in judge.fingerprint.items()}
        self.fingerprint = enhancer.fingerprint | judging

    def preparer(self) -> Preparer:
        """The enhancer's own CPU half."""
        return self._enhancer.preparer()

    def check(self, options: RunnerOptions) -> None:
        """Raise RequestError where either needs a server that isn't there."""
        check(self._enhancer, options)
        check(self._judge, options)

    def memory(self, options: RunnerOptions) -> Memory | None:
        """Of both models."""
        found = self._enhancer.memory(options), self._judge.memory(options)
        return together([memory for memory in found if memory is not None])

    def runner(self, options: RunnerOptions) -> Runner:
        """Both device halves."""
        from mmsieve.methods.aitqe.runner import JudgedRunner

        judge = self._judge.runner(options)
        score = find_score(self._judge.schema) or SCORE
        return JudgedRunner(self._enhancer.runner(options), self._judge.preparer(), judge, score)
