"""mmSSR's device half: items -> batches -> ratings and styles -> rows."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from mmsieve.annotator import Row, RunnerOptions
from mmsieve.devices import Dtype
from mmsieve.errors import SampleError, ShardError, Status
from mmsieve.methods.mmssr_inputs import Item, Prompt
from mmsieve.methods.mmssr_model import AskedModel, Ratings
from mmsieve.methods.mmssr_styles import parse_styles
from mmsieve.models.accelerator import is_out_of_memory, open_device
from mmsieve.models.batching import Window, batches
from mmsieve.models.onevision import OneVision

Indexed: TypeAlias = tuple[int, Item]
Result: TypeAlias = tuple[int, Row | SampleError]

_BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}
_WINDOW = 16
"""Batches that are sorted together."""
_WINDOW_BYTES = {"cpu": 192 * 2**20, "cuda": 2**30}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of the models, and what a row has of the answers."""

    capabilities: tuple[str, ...]
    """Names; the first model's prompt has their questions, in this order."""
    expected: bool
    styles: bool
    """Whether the last model's prompt ends with the question for styles."""
    constrained: bool
    """Whether only the nine styles can be answered."""


class RatingRunner:
    """Rates a stream of items in batches of equal length; out of memory halves the batch."""

    def __init__(
        self, models: Sequence[OneVision], asked: Asked, dtype: Dtype, options: RunnerOptions
    ) -> None:
        """`models` are the scorer, and the styler where it is another one."""
        self._device = open_device(options.device)
        self._asked = asked
        self._budget = options.batch_tokens or _BATCH_TOKENS[self._device.type]
        self._models = [AskedModel(model, dtype, self._device) for model in models]
        self.notes = {
            "device": options.device,
            "kernels": self._models[0].kernels,
            "tower": models[0].tower.note,
        }

    def run(self, items: Iterable[Indexed]) -> Iterator[Result]:
        """Rows for a stream of (index, item), window by window, longest first in each."""
        window = Window(4096, _WINDOW * self._budget, _WINDOW_BYTES[self._device.type])
        for run in window.split(items, _size):
            costs = [_tokens(item) for _, item in run]
            for batch in batches(costs, self._budget):
                yield from self._pieces([run[index] for index in batch])

    def _pieces(self, batch: list[Indexed]) -> Iterator[Result]:
        """The rows of a batch, in as many pieces as the memory asks for."""
        pending = [batch]
        while pending:
            piece = pending.pop()
            try:
                rows = self._rows([item for _, item in piece])
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                pending += self._split(piece)
                continue
            for (index, _), row in zip(piece, rows, strict=True):
                yield index, row

    def _split(self, piece: list[Indexed]) -> list[list[Indexed]]:
        """What to try instead of a batch that did not fit: its halves, or fewer images at once."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if len(piece) > 1:
            half = len(piece) // 2
            longest = max(_tokens(item) for _, item in piece)
            self._budget = max(1, min(self._budget, half * longest))
            return [piece[half:], piece[:half]]
        if any(model.encode_fewer_at_once() for model in self._models):
            return [piece]
        item = piece[0][1]
        raise ShardError(
            f"a sample of {_tokens(item)} tokens and {len(item.images)} images does not fit into "
            f"the memory of {self._device}: use --dtype bfloat16, --max-tokens (longer samples "
            "become rows without ratings) or a device with more memory"
        )

    @torch.inference_mode()
    def _rows(self, items: list[Item]) -> list[Row | SampleError]:
        rows: list[Row] = [
            {"image_source": item.image_source, "num_tokens": item.num_tokens} for item in items
        ]
        problems: list[str | None] = [None] * len(items)
        for number, model in enumerate(self._models):
            prompts = [item.prompts[number] for item in items]
            begun = model.begin(prompts, [item.images for item in items])
            if number == 0:
                questions = len(self._asked.capabilities)
                ratings = model.rate(begun, [prompt.ends[:questions] for prompt in prompts])
                problems = [self._fill(row, own) for row, own in zip(rows, ratings, strict=True)]
            if self._asked.styles and model is self._models[-1]:
                ends = [prompt.ends[-1] for prompt in prompts]
                answers = model.answer(begun, ends, self._asked.constrained)
                for row, answer in zip(rows, answers, strict=True):
                    row["styles"] = parse_styles(answer)
        return [_result(row, problem) for row, problem in zip(rows, problems, strict=True)]

    def _fill(self, row: Row, ratings: Ratings) -> str | None:
        """Set a row's ratings; what is wrong with them, if anything is."""
        wrong = []
        for name, rating, expected, text in zip(self._asked.capabilities, *ratings, strict=True):
            row[name] = rating
            if rating is None:
                wrong.append(f"{name} {text!r}")
            if self._asked.expected:
                row[f"{name}_expected"] = expected
        return f"not a rating from 0 to 5: {', '.join(wrong)}" if wrong else None


def _result(row: Row, problem: str | None) -> Row | SampleError:
    values = [value for name, value in row.items() if name.endswith("_expected")]
    if not np.isfinite(values).all():
        return SampleError(Status.SCORE_NOT_FINITE, "the probabilities are not finite")
    return row if problem is None else SampleError(Status.MODEL_OUTPUT_INVALID, problem, row)


def _tokens(item: Item) -> int:
    """Tokens that the item takes in a batch, to one of the models."""
    return max(_prompt_tokens(prompt) for prompt in item.prompts)


def _prompt_tokens(prompt: Prompt) -> int:
    return prompt.length + sum(map(len, prompt.ends))


def _size(indexed: Indexed) -> tuple[int, int]:
    item: Any = indexed[1]
    return _tokens(item), item.images.nbytes
