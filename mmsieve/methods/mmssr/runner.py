"""mmSSR's device half: items -> batches -> ratings and styles -> rows."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mmsieve.devices import Dtype
from mmsieve.engine.annotator import Row, RunnerOptions
from mmsieve.errors import SampleError
from mmsieve.images import Pixels
from mmsieve.methods import decoding
from mmsieve.methods.base import BatchRunner, ImageEncoder, Result, Window, release_memory
from mmsieve.methods.cpu import speed_up
from mmsieve.methods.decoding import Decoding, LanguageModel, Prefilled, build_tree, decode_greedily
from mmsieve.methods.mmssr.annotator import LONGEST, MmSSR, StyleGrammar, digit_ids, parse_styles
from mmsieve.methods.mmssr.checkpoint import OneVision
from mmsieve.methods.mmssr.inputs import END, Ids, Prompt, RatingItem
from mmsieve.methods.mmssr.model import encode_images, load_rater
from mmsieve.methods.mmssr.rows import SampleRatings
from mmsieve.methods.tokenizer import IMAGE, encode_piece, load_tokenizer


class _Answer(NamedTuple):
    """What one model says of a sample; None where it isn't asked."""

    ratings: SampleRatings | None
    styles: list[str] | None


_TURN = Window(items=4096, tokens=2**62, nbytes=2**31)
"""Samples that one model is asked about before the other takes its place: a shard, as a rule."""


class LoadedRater:
    """A rater, loaded."""

    def __init__(self, checkpoint: OneVision, dtype: Dtype, device: torch.device) -> None:
        self._tokenizer = load_tokenizer(checkpoint.folder).build()
        encode = partial(encode_piece, self._tokenizer)
        self._digits = torch.tensor(digit_ids(checkpoint), device=device)
        self._model = load_rater(checkpoint, dtype).to(device)
        self.kernels = speed_up(self._model.model, self._model.dtype)
        self._language = LanguageModel(self._model)
        images = partial(encode_images, self._model)
        self.features = ImageEncoder(checkpoint.tower, self._model, images)
        end: Any = self._tokenizer.token_to_id(END)
        grammar = StyleGrammar(encode, end)
        ends = checkpoint.end_ids | {end}
        self._constrained = Decoding(max_new_tokens=LONGEST, end_ids=ends, allowed=grammar.allowed)
        self._plain = Decoding(
            max_new_tokens=LONGEST,
            end_ids=checkpoint.end_ids,
            repetition_penalty=checkpoint.repetition_penalty,
        )

    def prefill(self, prompts: Sequence[Prompt], images: Sequence[Pixels]) -> Prefilled:
        """Compute what each prompt's questions share; `images` are those of each prompt."""
        shown = [own for own in images if len(own)]
        features = iter(self.features(np.concatenate(shown)) if shown else ())
        rows = []
        for prompt in prompts:
            ids = torch.from_numpy(prompt.shared)
            text = self._language.embed(ids.clamp(min=0))
            pieces, start = [], 0
            for place in (ids == IMAGE).nonzero().flatten().tolist():
                pieces += [text[start:place], next(features)]
                start = place + 1
            rows.append(torch.cat([*pieces, text[start:]]))
        return decoding.prefill(self._language, rows)

    def rate(self, prefilled: Prefilled, ends: Sequence[tuple[Ids, ...]]) -> list[SampleRatings]:
        """The ratings of each row, which is asked the questions that end in `ends`."""
        logits = self.logits(prefilled, ends)
        chosen = logits.argmax(1).tolist()
        odds = logits[:, self._digits].softmax(1)
        means = (odds @ torch.arange(6.0, device=odds.device)).tolist()
        digits = {token: digit for digit, token in enumerate(self._digits.tolist())}
        texts = self._tokenizer.decode_batch([[i] for i in chosen], skip_special_tokens=False)
        found, start = [], 0
        for own in ends:
            part = slice(start, start + len(own))
            ratings = [digits.get(token) for token in chosen[part]]
            found.append(SampleRatings(ratings, means[part], texts[part]))
            start = part.stop
        return found

    def logits(self, prefilled: Prefilled, ends: Sequence[tuple[Ids, ...]]) -> Tensor:
        """[questions of all rows, in order, vocabulary] float32: of each answer's first token.

        Those of the digits, which samples are ranked by, are computed in float32 on every device.
        """
        hidden = decoding.forward_tree(self._language, prefilled, [build_tree(own) for own in ends])
        logits: Tensor = self._language.head(hidden).float()
        if hidden.dtype != torch.float32:
            weight: Any = self._language.head.weight
            digits = weight[self._digits].float()
            logits[:, self._digits] = nn.functional.linear(hidden.float(), digits)
        return logits

    def answer(self, prefilled: Prefilled, ends: Sequence[Ids], constrained: bool) -> list[str]:
        """The answer of each row to the question that ends in `ends`; uses `prefilled` up."""
        ids = self.generate(prefilled, ends, self._constrained if constrained else self._plain)
        return [text.strip() for text in self._tokenizer.decode_batch(ids)]

    def generate(
        self, prefilled: Prefilled, ends: Sequence[Ids], rules: Decoding | None = None
    ) -> list[list[int]]:
        """The ids of each answer, by default as published; uses `prefilled` up."""
        prompts = [self._language.embed(end) for end in ends]
        rules = rules or self._plain
        return decode_greedily(self._language, prompts, rules, prefilled.cache, prefilled.mask)


class RatingRunner(BatchRunner[RatingItem, list[Row | SampleError]]):
    """Rates a stream of items in batches of equal length.

    The first model's prompt has the questions for capabilities, in order; the last model's ends
    with the one for styles.
    """

    remedy = ", --max-tokens (longer samples become rows without ratings)"

    def __init__(self, asked: MmSSR, options: RunnerOptions) -> None:
        super().__init__(options)
        self._asked = asked
        self._in_turn = asked.is_in_turn(options.device)
        self.models: list[LoadedRater | None] = [None] * len(asked.models)
        for number in range(1 if self._in_turn else len(self.models)):
            self._load(number)
        kernels, tower = self._load(0).kernels, asked.scorer.tower.note
        self.notes = {"device": options.device, "kernels": kernels, "tower": tower}

    def _load(self, number: int) -> LoadedRater:
        """A model, in the place of the other where they are there one at a time."""
        if (found := self.models[number]) is not None:
            return found
        if self._in_turn:
            self.encoders = ()
            self.models = [None] * len(self.models)
            release_memory(self.device)
        made = LoadedRater(self._asked.models[number], self._asked.dtype, self.device)
        release_memory(self.device)
        self.models[number] = made
        self.encoders = [model.features for model in self.models if model is not None]
        return made

    def tokens(self, item: RatingItem) -> int:
        """Tokens that the item takes in a batch, to one of the models."""
        return max(prompt.length + sum(map(len, prompt.ends)) for prompt in item.prompts)

    def rows(
        self, items: list[RatingItem], computed: list[Row | SampleError]
    ) -> list[Row | SampleError]:
        """What was computed, which is rows already."""
        return computed

    def run(self, items: Iterable[tuple[int, RatingItem]]) -> Iterator[Result]:
        """Rows for a stream of (index, item), in any order."""
        if not self._in_turn:
            yield from super().run(items)
            return
        for window in _TURN.split(items, lambda indexed: (0, indexed[1].nbytes)):
            yield from self._run_in_turn(window)

    def _run_in_turn(self, window: list[tuple[int, RatingItem]]) -> Iterator[Result]:
        """Rows of a window: all of it is asked of one model, then of the other, in like batches."""
        answers: list[dict[int, _Answer]] = [{} for _ in self.models]
        # the model that is there goes first: one is loaded per window
        for number in sorted(range(len(self.models)), key=lambda one: self.models[one] is None):
            self._load(number)
            for batch, found in self._launch(window, partial(self._ask, number)):
                indices = (index for index, _ in batch)
                answers[number].update(zip(indices, found, strict=True))
        for index, item in window:
            yield index, self._row(item, [found[index] for found in answers])

    @torch.inference_mode()
    def compute(self, items: list[RatingItem]) -> list[Row | SampleError]:
        """The rows of a batch."""
        answers = [self._ask(number, items) for number in range(len(self.models))]
        return [self._row(item, list(found)) for item, *found in zip(items, *answers, strict=True)]

    @torch.inference_mode()
    def _ask(self, number: int, items: list[RatingItem]) -> "list[_Answer]":
        """What a model answers about each item."""
        model, last = self._load(number), len(self.models) - 1
        prompts = [item.prompts[number] for item in items]
        prefilled = model.prefill(prompts, [item.images for item in items])
        ratings: Sequence[SampleRatings | None] = [None] * len(items)
        styles: Sequence[list[str] | None] = [None] * len(items)
        if number == 0:
            questions = len(self._asked.capabilities)
            ratings = model.rate(prefilled, [prompt.ends[:questions] for prompt in prompts])
        if self._asked.styler is not None and number == last:
            ends = [prompt.ends[-1] for prompt in prompts]
            styles = list(map(parse_styles, model.answer(prefilled, ends, self._asked.constrained)))
        return [_Answer(*pair) for pair in zip(ratings, styles, strict=True)]

    def _row(self, item: RatingItem, answers: "list[_Answer]") -> Row | SampleError:
        """The row of an item, of what all models said."""
        ratings = next(answer.ratings for answer in answers if answer.ratings is not None)
        styles = next((answer.styles for answer in answers if answer.styles is not None), None)
        return self._asked.rows.make(item, ratings, styles)
