"""mmSSR's device half: items -> batches -> ratings and styles -> rows."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmsieve.devices import Dtype
from mmsieve.engine.annotator import Row, RunnerOptions
from mmsieve.errors import SampleError
from mmsieve.images import Pixels
from mmsieve.methods import decoding
from mmsieve.methods.base import BatchRunner, ImageEncoder
from mmsieve.methods.cpu import speed_up
from mmsieve.methods.decoding import Decoding, LanguageModel, Prefilled, build_tree, decode_greedily
from mmsieve.methods.mmssr.annotator import LONGEST, MmSSR, StyleGrammar, digit_ids, parse_styles
from mmsieve.methods.mmssr.checkpoint import OneVision
from mmsieve.methods.mmssr.inputs import END, Ids, Prompt, RatingItem
from mmsieve.methods.mmssr.model import encode_images, load_rater
from mmsieve.methods.mmssr.rows import SampleRatings
from mmsieve.methods.tokenizer import IMAGE, encode_piece, load_tokenizer


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
        odds = logits[:, self._digits].float().softmax(1)
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
        """[questions of all rows, in order, vocabulary]: of each answer's first token."""
        hidden = decoding.forward_tree(self._language, prefilled, [build_tree(own) for own in ends])
        logits: Tensor = self._language.head(hidden)
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
        self.models = [LoadedRater(model, asked.dtype, self.device) for model in asked.models]
        self.encoders = [model.features for model in self.models]
        kernels, tower = self.models[0].kernels, asked.scorer.tower.note
        self.notes = {"device": options.device, "kernels": kernels, "tower": tower}

    def tokens(self, item: RatingItem) -> int:
        """Tokens that the item takes in a batch, to one of the models."""
        return max(prompt.length + sum(map(len, prompt.ends)) for prompt in item.prompts)

    def rows(
        self, items: list[RatingItem], computed: list[Row | SampleError]
    ) -> list[Row | SampleError]:
        """What was computed, which is rows already."""
        return computed

    @torch.inference_mode()
    def compute(self, items: list[RatingItem]) -> list[Row | SampleError]:
        """The rows of a batch."""
        asked = self._asked
        ratings: list[SampleRatings] = []
        styles: list[list[str] | None] = [None] * len(items)
        for number, model in enumerate(self.models):
            prompts = [item.prompts[number] for item in items]
            prefilled = model.prefill(prompts, [item.images for item in items])
            if number == 0:
                questions = len(asked.capabilities)
                ratings = model.rate(prefilled, [prompt.ends[:questions] for prompt in prompts])
            if asked.styler is not None and model is self.models[-1]:
                ends = [prompt.ends[-1] for prompt in prompts]
                answers = model.answer(prefilled, ends, asked.constrained)
                styles = [parse_styles(answer) for answer in answers]
        return [asked.rows.make(*each) for each in zip(items, ratings, styles, strict=True)]
