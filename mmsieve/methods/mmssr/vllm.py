"""mmSSR in vLLM: a prompt per question, whose common beginning its cache of prefixes computes once.

Ids, pixels and the reading of answers are those of the torch runner; only the sums differ.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from mmsieve.engine.annotator import Row, RunnerOptions
from mmsieve.errors import SampleError
from mmsieve.methods.base import Result, Window
from mmsieve.methods.mmssr.annotator import (
    LONGEST,
    LONGEST_STYLES,
    MmSSR,
    digit_ids,
    parse_styles,
    style_pattern,
)
from mmsieve.methods.mmssr.checkpoint import CHAT, OneVision
from mmsieve.methods.mmssr.inputs import END, RatingItem
from mmsieve.methods.mmssr.model import convert_rater
from mmsieve.methods.mmssr.rows import SampleRatings, expect
from mmsieve.methods.stock import ServedTokenizer
from mmsieve.methods.tokenizer import load_tokenizer
from mmsieve.methods.vllm import ServedPrompt, VllmModel

_WINDOW = Window(items=256, tokens=1 << 20, nbytes=256 * 2**20)
"""Samples that are handed to vLLM together."""


class _Rater:
    """A rater in vLLM, and how it is asked."""

    def __init__(
        self, checkpoint: OneVision, asked: MmSSR, options: RunnerOptions, stock: str | None
    ) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        how = replace(asked.options, stock=stock)
        share = 1 / len(asked.models)
        self._model = VllmModel(
            checkpoint, convert_rater, how, asked.dtype, options.device, share=share
        )
        self._spread = ServedTokenizer.of(checkpoint, CHAT).spread
        self._tokenizer = load_tokenizer(checkpoint.folder).build()
        self._digits = digit_ids(checkpoint)
        self._expected = asked.options.expected
        ask = partial(SamplingParams, temperature=0.0, repetition_penalty=1.0)
        wanted = {"logprobs": len(self._digits), "logprob_token_ids": self._digits}
        self._rating = ask(max_tokens=1, detokenize=False, **(wanted if self._expected else {}))
        ends = checkpoint.end_ids
        if asked.constrained:
            form = StructuredOutputsParams(regex=style_pattern())
            end: Any = self._tokenizer.token_to_id(END)
            ends |= {end}
            self._styles = ask(max_tokens=LONGEST_STYLES, structured_outputs=form)
        else:
            self._styles = ask(max_tokens=LONGEST)
        self._styles.stop_token_ids = sorted(ends)

    def ask(
        self, items: list[RatingItem], model: int, ratings: int, styles: bool
    ) -> tuple[list[SampleRatings], list[list[str]]]:
        """The answers of all items to their model's first questions, and to the last for styles."""
        prompts: list[ServedPrompt] = []
        for item in items:
            prompt = item.prompts[model]
            shared = self._spread(prompt.shared)
            ends = [*prompt.ends[:ratings], *(prompt.ends[-1:] if styles else ())]
            prompts += [ServedPrompt([*shared, *end], item.images) for end in ends]
        each = [self._rating] * ratings + [self._styles] * styles
        found = self._model.generate(prompts, each * len(items))
        step = len(each)
        answers = [found[start : start + step] for start in range(0, len(found), step)]
        rated = [self._read(own[:ratings]) for own in answers]
        return rated, [self._name(own[-1]) for own in answers] if styles else []

    def _read(self, answers: list[Any]) -> SampleRatings:
        chosen = [int(answer.token_ids[0]) for answer in answers]
        ratings = [self._digits.index(i) if i in self._digits else None for i in chosen]
        expected = [self._expect(answer) for answer in answers]
        texts = self._tokenizer.decode_batch([[i] for i in chosen], skip_special_tokens=False)
        return SampleRatings(ratings, expected, texts)

    def _expect(self, answer: Any) -> float:
        if not self._expected:
            return float("nan")
        return expect([answer.logprobs[0][digit].logprob for digit in self._digits])

    def _name(self, answer: Any) -> list[str]:
        return parse_styles(self._tokenizer.decode(list(answer.token_ids)).strip())


class VllmRatingRunner:
    """Rates a stream of items, a window at a time."""

    def __init__(self, asked: MmSSR, options: RunnerOptions) -> None:
        self._asked = asked
        stocks = (asked.options.stock, asked.options.stock_styler)
        self._raters = [
            _Rater(model, asked, options, stock)
            for model, stock in zip(asked.models, stocks, strict=False)
        ]
        self.notes = {"device": options.device, **asked.options.backend_fingerprint()}

    def run(self, items: Iterable[tuple[int, RatingItem]]) -> Iterator[Result]:
        """Rows for a stream of (index, item)."""
        for window in _WINDOW.split(items, lambda indexed: (1, indexed[1].nbytes)):
            rows = self._rows([item for _, item in window])
            yield from zip((index for index, _ in window), rows, strict=True)

    def _rows(self, items: list[RatingItem]) -> list[Row | SampleError]:
        asked = self._asked
        last = len(self._raters) - 1
        ratings: list[SampleRatings] = []
        styles: list[Any] = [None] * len(items)
        for number, rater in enumerate(self._raters):
            questions = len(asked.capabilities) if number == 0 else 0
            has_styles = asked.styler is not None and number == last
            rated, named = rater.ask(items, number, questions, has_styles)
            ratings = ratings or rated
            styles = named or styles
        return [asked.rows.make(*each) for each in zip(items, ratings, styles, strict=True)]
