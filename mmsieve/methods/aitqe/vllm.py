"""AITQE in vLLM. Ids, pixels and the reading of answers are those of the torch runner.

Where that gives a model the keys of its answers, here a regular expression holds it to them.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from mmsieve.devices import Dtype
from mmsieve.engine.annotator import RunnerOptions
from mmsieve.methods.aitqe.annotator import EnhanceOptions
from mmsieve.methods.aitqe.answers import MARKER
from mmsieve.methods.aitqe.checkpoint import CHAT, EnhancerCheckpoint
from mmsieve.methods.aitqe.forms import AnswerForm
from mmsieve.methods.aitqe.inputs import AitqeItem
from mmsieve.methods.aitqe.model import convert_enhancer
from mmsieve.methods.base import Result, Window
from mmsieve.methods.stock import ServedTokenizer
from mmsieve.methods.tokenizer import load_tokenizer
from mmsieve.methods.vllm import ServedPrompt, VllmModel

_WINDOW = Window(items=1024, tokens=1 << 20, nbytes=256 * 2**20)
"""Samples that are handed to vLLM together."""


class VllmAitqeRunner:
    """Judges a stream of items, a window at a time."""

    def __init__(
        self,
        checkpoint: EnhancerCheckpoint,
        enhancing: EnhanceOptions,
        dtype: Dtype,
        options: RunnerOptions,
    ) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        self._model = VllmModel(checkpoint, convert_enhancer, enhancing, dtype, options.device)
        self._marks = list(ServedTokenizer.of(checkpoint, CHAT).marks)
        tokenizer = load_tokenizer(checkpoint.folder)
        self._backend = tokenizer.build()
        self._rows = enhancing.rows
        self._form = AnswerForm.of(checkpoint, enhancing)
        ends = checkpoint.end_ids | ({tokenizer.eos} if tokenizer.eos is not None else set())
        ask = partial(SamplingParams, temperature=0.0, repetition_penalty=1.0)
        if self._form is not None:
            held = StructuredOutputsParams(regex=self._form.pattern)
            self._params = ask(max_tokens=self._form.max_tokens, structured_outputs=held)
        else:
            stop = None if enhancing.explain else [MARKER]
            longest = enhancing.max_new_tokens
            self._params = ask(max_tokens=longest, stop=stop, include_stop_str_in_output=True)
        self._params.stop_token_ids = sorted(ends)
        self.notes = {"device": options.device, **enhancing.backend_fingerprint()}

    def run(self, items: Iterable[tuple[int, AitqeItem]]) -> Iterator[Result]:
        """Rows for a stream of (index, item)."""
        for window in _WINDOW.split(items, lambda indexed: (1, indexed[1].nbytes)):
            prompts = [
                ServedPrompt([*self._marks, *item.ids.tolist()], [item.image]) for _, item in window
            ]
            answers: list[Any] = self._model.generate(prompts, self._params)
            for (index, item), answer in zip(window, answers, strict=True):
                text = self._backend.decode(list(answer.token_ids)).strip()
                cut = self._form is not None and self._form.is_cut(text)
                yield index, self._rows.make(item.caption, text, item.truncated, cut)
