"""mmSSR (arXiv 2503.13383): 14 capabilities rated from 0 to 5, and the styles of a conversation.

Released checkpoints give the numbers of the published code (github.com/lyumengyao/mmssr), and on
these points differ on purpose:

- What all questions about a sample share is computed once, and a rating is read from the first
  answer token: where that is not a digit the row says so, where the published table has NaN.
- A sample that the published code would quietly change is a row with a reason: one that the
  assistant begins, one image for two places, an image without a place, one that is too long.
- A folder's name carries no meaning.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, Literal

import pyarrow as pa
from cyclopts import Parameter

from mmsieve.clients.endpoint import GROUP, EndpointOptions
from mmsieve.devices import (
    Device,
    Memory,
    device_memory,
    kind_of,
    resolve_device,
    resolve_dtype,
    share_cores,
)
from mmsieve.engine.annotator import Annotator, Runner, RunnerOptions
from mmsieve.errors import RequestError
from mmsieve.labels import CAPABILITIES, STYLES
from mmsieve.methods.base import BatchRunner, ModelOptions
from mmsieve.methods.folders import hash_files, stored_tensors
from mmsieve.methods.memory import FLOAT32, Batch, LanguageSizes, count_numbers, estimate, together
from mmsieve.methods.mmssr import inputs
from mmsieve.methods.mmssr.checkpoint import OneVision
from mmsieve.methods.mmssr.inputs import PromptWriter, RatingPreparer
from mmsieve.methods.mmssr.rows import DIGITS, RatingRowMaker
from mmsieve.methods.stock import escape
from mmsieve.methods.tokenizer import FILES, encode_piece, load_tokenizer
from mmsieve.methods.vllm import BACKEND, BackendOptions
from mmsieve.options import MODEL, Positive, own

LONGEST = 1024
"""Tokens of an answer, as published."""
LONGEST_STYLES = 192
"""Tokens of an answer that names all nine styles, at most."""
_SAMPLE_TOKENS = 500
"""Of a usual conversation and all questions about it, without the image."""


def join_styles(styles: Sequence[str]) -> str:
    """An answer that names these styles."""
    return ", ".join(styles)


def parse_styles(answer: str) -> list[str]:
    """The styles of an answer, in order, without repeats; as published, any text counts as one."""
    names = (name.strip() for name in answer.split(","))
    return list(dict.fromkeys(name for name in names if name))


def style_pattern() -> str:
    """A regular expression of what names one or more of the nine styles."""
    names = "|".join(escape(style) for style in STYLES)
    return f"(?:{names})(?:, (?:{names})){{0,{len(STYLES) - 1}}}"


class StyleGrammar:
    """Which tokens may come next, so that an answer names one or more of the nine, none twice.

    Answers are tokenised whole, as in training: a last letter and its comma may be one token.
    """

    def __init__(self, encode: Callable[[str], Sequence[int]], end: int) -> None:
        self._encode = lru_cache(None)(lambda text: tuple(encode(text)))
        self._end = end
        self._next = lru_cache(4096)(lambda ids: sorted(set(self._follow(ids))))

    def allowed(self, ids: Sequence[int]) -> list[int]:
        """The ids of which the next is one."""
        return self._next(tuple(ids))

    def _follow(self, ids: tuple[int, ...], named: tuple[str, ...] = ()) -> list[int]:
        """What may follow `ids` where an answer begins with the styles in `named`."""
        found = []
        for style in STYLES:
            if style in named:
                continue
            longer = (*named, style)
            whole = (*self._encode(join_styles(longer)), self._end)
            if whole[: len(ids)] == ids and len(whole) > len(ids):
                found.append(whole[len(ids)])
            if len(ids) >= len(whole) - 2 and ids[: len(whole) - 2] == whole[:-2]:
                found += self._follow(ids, longer)
        return found


@Parameter(name="*", group=own("Ratings"))
@dataclass(frozen=True, kw_only=True)
class RatingOptions(ModelOptions, EndpointOptions, BackendOptions):
    """How to rate; whatever is None is as the checkpoint asks."""

    styler: Annotated[str | None, Parameter(group=MODEL)] = None
    """Model that names the styles; may be the scorer itself. Those made by mmsieve know whether
    they do both; others name no styles without it."""
    capabilities: str | None = None
    """Comma-separated names (`ocr,stem`); NAME=KEYWORD asks about a new one."""
    expected: bool = False
    """Add the mean rating under the probabilities of the digits 0-5, per capability."""
    clean_format: Annotated[bool | None, Parameter(negative="--no-clean-format")] = None
    """Keep questions whole and read control strings as text; the published code doesn't."""
    styles_decoding: Literal["plain", "constrained"] | None = None
    """Any text, as published (default), or only the nine styles (default for ours)."""
    one_at_a_time: Annotated[bool | None, Parameter(negative="--no-one-at-a-time")] = None
    """Keep one of scorer and styler in memory at a time, and read each again for every part of a
    shard: the same table. By default where both do not fit."""
    max_tokens: Positive | None = None
    """Longest prompt, images included; a longer sample is a row without ratings."""
    like_styler: Annotated[str | None, GROUP] = None
    """The model that the endpoint of `--styler` serves, as `--like`."""
    stock_styler: Annotated[str | None, BACKEND] = None
    """Folder that `convert` made of the styler, as `--stock`."""


class MmSSR(Annotator):
    """A scorer, with or without a styler, as an annotator."""

    kind: Literal["ratings"] = "ratings"

    def __init__(
        self,
        scorer: OneVision,
        styler: OneVision | None,
        options: RatingOptions,
        is_served: bool = False,
    ) -> None:
        """`styler` may be the scorer; `is_served` where a server of another process computes.

        Raises RequestError where the two take different pixels.
        """
        stocks = [(options.stock, scorer)] + ([(options.stock_styler, styler)] if styler else [])
        options.check_backend(stocks)
        self.scorer, self.styler, self.options = scorer, styler, options
        self.spread = 0 if is_served else options.tensor_parallel
        self.device = resolve_device(options.device)
        self.dtype = resolve_dtype(options.dtype, self.device, scorer.gpu_dtype)
        self.capabilities = parse_capabilities(options.capabilities, scorer.own or {})
        if styler is not None and styler.image != scorer.image:
            raise RequestError(
                f"{styler.folder} takes other pixels than {scorer.folder}: run rate once for each"
            )
        columns = [(name, pa.int8()) for name in self.capabilities]
        if options.expected:
            columns += [(f"{name}_expected", pa.float32()) for name in self.capabilities]
        if styler is not None:
            columns.append(("styles", pa.list_(pa.string())))
        columns += [("image_source", pa.string())]
        columns += [(name, pa.int32()) for name in ("num_images", "num_tokens")]
        self.schema = pa.schema(columns)
        self.models: tuple[OneVision, ...] = (scorer,)
        if styler is not None and styler.folder != scorer.folder:
            self.models = (scorer, styler)
        decoding = options.styles_decoding
        by_default = styler is not None and styler.own is not None
        self.constrained = decoding == "constrained" if decoding else by_default
        longest = min(model.max_sequence for model in self.models)
        self._has_engine = is_served or options.backend == "vllm"
        if self._has_engine:
            # a server's context holds the answer too
            places = [model.config.get("max_position_embeddings") for model in self.models]
            longest = min(longest, *(place for place in places if place)) - self._room
        self.max_tokens = min(options.max_tokens or longest, longest)
        self.rows = RatingRowMaker(tuple(self.capabilities), options.expected)
        self.fingerprint = self._fingerprint()
        self.notes = tuple(note for model in self.models for note in model.notes)
        if styler is None:
            how = "name who gives them with --styler (it may be the scorer itself)"
            self.notes += (f"no styles: {how}",)
        elif self._has_engine and not self.constrained and styler.repetition_penalty != 1:
            penalty = f"the folder's repetition penalty of {styler.repetition_penalty:g}"
            why = "a serving engine would count the prompt's tokens too"
            self.notes += (f"styles without {penalty}: {why}",)

    @property
    def _room(self) -> int:
        """Tokens of the longest answer."""
        if self.styler is None:
            return 1
        return LONGEST_STYLES if self.constrained else LONGEST

    def _is_clean(self, model: OneVision) -> bool:
        asked = self.options.clean_format
        return bool((model.own or {}).get("clean_format")) if asked is None else asked

    def _fingerprint(self) -> dict[str, str]:
        options = self.options
        found = {
            "method": "mmssr 1",
            "capabilities": str(self.capabilities),
            "expected": str(options.expected),
            "styles": ("constrained" if self.constrained else "plain") if self.styler else "none",
            "dtype": self.dtype,
            "max_tokens": str(self.max_tokens),
            **options.image_fingerprint(self.scorer.image),
            **options.backend_fingerprint(),
            **({} if self.dtype == "float32" or self._has_engine else {"head": "float32"}),
        }
        for name, model in (("scorer", self.scorer), ("styler", self.styler)):
            if model is not None:
                configs = ("config.json", "generation_config.json")
                files = {model.folder / file for file in (*FILES, *configs)}
                found[name] = hash_files({*model.tensors.values(), *files})
                found[f"{name}_format"] = "clean" if self._is_clean(model) else "published"
        return found

    def memory(self, options: RunnerOptions) -> Memory | None:
        """Of the models, a batch, and the cache of its samples and their questions."""
        if self._has_engine:  # which takes what it is told to
            return None
        found = [self._memory_of(model, options) for model in self.models]
        both = together(found) or found[0]
        if not self.is_in_turn(options.device):
            alone = (
                {} if len(found) == 1 else {"--one-at-a-time": max(one.weights for one in found)}
            )
            return replace(both, smaller=alone | both.smaller)
        return max(found, key=lambda one: one.total)

    def is_in_turn(self, device: Device) -> bool:
        """Whether scorer and styler are in memory one after the other."""
        if len(self.models) == 1 or self.options.one_at_a_time is not None:
            return len(self.models) > 1 and bool(self.options.one_at_a_time)
        both = together([self._memory_of(one, RunnerOptions(device)) for one in self.models])
        room = device_memory(device)
        return both is not None and room is not None and both.total > room

    def _memory_of(self, model: OneVision, options: RunnerOptions) -> Memory:
        sizes = LanguageSizes.of(model)
        batch = Batch(
            device=options.device,
            dtype=self.dtype,
            tokens=options.batch_tokens or BatchRunner.batch_tokens[kind_of(options.device)],
            sample=model.image_tokens + _SAMPLE_TOKENS,
            image_tokens=model.image_tokens,
            windows=BatchRunner.batches_sorted,
        )
        logits = batch.rows * len(self.capabilities) * sizes.vocabulary
        activations = batch.activations(sizes, model.tower)
        activations += batch.mask_bytes(sizes) + logits * (FLOAT32 + batch.item_bytes % FLOAT32)
        cached = int(sizes.cached(batch.length) * (1 + 1 / sizes.layers)) * batch.item_bytes
        numbers = count_numbers(stored_tensors(model.used).values())
        return estimate(batch, numbers, activations, cached)

    def preparer(self) -> RatingPreparer:
        """The CPU half."""
        ratings = [inputs.capability_question(keyword) for keyword in self.capabilities.values()]
        styles = [inputs.STYLE_QUESTION] if self.styler is not None else []
        asked = [ratings, styles] if len(self.models) == 2 else [ratings + styles]
        writers = tuple(
            prompt_writer(model, questions, self._is_clean(model))
            for model, questions in zip(self.models, asked, strict=True)
        )
        return RatingPreparer(
            writers=writers,
            image=self.scorer.image,
            max_tokens=self.max_tokens,
            **self.options.of_images,
        )

    def runner(self, options: RunnerOptions) -> Runner:
        """The device half; imports torch and loads the weights."""
        if self.options.backend == "vllm":
            from mmsieve.methods.mmssr.vllm import VllmRatingRunner

            return VllmRatingRunner(self, options)
        share_cores()
        from mmsieve.methods.mmssr.runner import RatingRunner

        return RatingRunner(self, options)


def prompt_writer(model: OneVision, questions: list[str], clean: bool) -> PromptWriter:
    """What writes these questions for a model."""
    tokenizer = load_tokenizer(model.folder, model.embedded)
    return PromptWriter(tokenizer, model.image_tokens, tuple(questions), clean)


def digit_ids(model: OneVision) -> list[int]:
    """The token of each rating; raises RequestError where one has none of its own."""
    tokenizer = load_tokenizer(model.folder, model.embedded).build()
    digits = [encode_piece(tokenizer, digit) for digit in DIGITS]
    if any(len(ids) != 1 for ids in digits):
        raise RequestError(f"{model.folder}: its tokenizer has no token for each digit")
    return [ids[0] for ids in digits]


_TAKEN = {"key", "shard", "status", "error", "uid", "metadata", "styles", "idx", "style"}


def parse_capabilities(asked: str | None, own: dict[str, Any]) -> dict[str, str]:
    """Name -> keyword of `NAME` or `NAME=KEYWORD`, comma-separated; raises RequestError."""
    known = {**CAPABILITIES, **own.get("capabilities", {})}
    if asked is None:
        return dict(own.get("capabilities") or CAPABILITIES)
    found: dict[str, str] = {}
    for word in asked.split(","):
        name, given, keyword = (part.strip() for part in word.partition("="))
        if name in found:
            raise RequestError(f"capability {name!r} is named twice")
        if not given and name not in known:
            names = ", ".join(known)
            raise RequestError(f"capability {name!r}: give NAME=KEYWORD, or one of {names}")
        keyword = found[name] = keyword if given else known[name]
        if not re.fullmatch(r"[a-z][a-z0-9]*", name) or name in _TAKEN:
            advice = "small letters and digits only, and is no other column"
            raise RequestError(f"capability {name!r}: a name has {advice}")
        if not keyword or "<" in keyword:
            raise RequestError(f"capability {name!r}: keyword {keyword!r} can't be asked about")
    return found
