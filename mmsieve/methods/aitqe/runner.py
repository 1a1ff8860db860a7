"""AITQE's device half: items -> prompts -> answers -> rows.

Checkpoints that have learnt answers piece by piece (`answers.answer_pieces`) fill in a form: the
fixed pieces are the very ids that they were trained on. A value is a score from 1 to 10, or the
inside of a JSON string, where only ids are allowed that leave it well-formed; so an answer can
always be read.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from mmsieve.devices import Dtype
from mmsieve.engine.annotator import Preparer, Row, Runner, RunnerOptions, annotate_samples
from mmsieve.errors import SampleError
from mmsieve.methods.aitqe.annotator import BATCH_TOKENS, WINDOW_BATCHES, EnhanceOptions
from mmsieve.methods.aitqe.answers import (
    HIGHEST,
    LOWEST,
    MARKER,
    SCORE_KEYS,
    Refused,
    fixed_pieces,
    kept,
    value_limits,
)
from mmsieve.methods.aitqe.checkpoint import EnhancerCheckpoint
from mmsieve.methods.aitqe.inputs import AitqeItem
from mmsieve.methods.aitqe.model import encode_images, load_enhancer
from mmsieve.methods.base import BatchRunner, ImageEncoder, Result, Window
from mmsieve.methods.cpu import speed_up
from mmsieve.methods.decoding import Decoding, LanguageModel, Options, decode_greedily
from mmsieve.methods.tokenizer import encode_piece, load_tokenizer
from mmsieve.sample import Part, Sample, Text


class Form:
    """What may come next in an answer with these keys."""

    def __init__(self, backend: Any, keys: Sequence[str], max_new_tokens: int) -> None:
        """`backend` is a tokenizers.Tokenizer; values take `value_limits`."""
        self._keys = tuple(keys)
        self._fixed = [encode_piece(backend, piece) for piece in fixed_pieces(keys)]
        self._scores = [encode_piece(backend, str(score)) for score in range(LOWEST, HIGHEST + 1)]
        self._limits = value_limits(keys, max_new_tokens)
        self._after = _string_states(backend)
        inside = [sorted(states) for states in self._after]
        self._inside = [torch.tensor(ids) for ids in inside]
        ends = {fixed[0] for fixed in self._fixed[1:]}
        self._inside_or_end = {end: torch.tensor([*inside[False], end]) for end in ends}
        self.max_new_tokens = sum(map(len, self._fixed)) + 2 * sum(self._limits) + 4 * len(keys)

    def is_done(self, ids: list[int]) -> bool:
        """Whether the last fixed piece is complete."""
        number, rest = self._place(ids)
        return number == len(self._keys) and len(rest) == len(self._fixed[-1])

    def allowed(self, ids: list[int]) -> Options | None:
        """What may come after these ids."""
        number, rest = self._place(ids)
        fixed = self._fixed[number]
        if len(rest) < len(fixed):
            return [fixed[len(rest)]]
        value, end = rest[len(fixed) :], self._fixed[number + 1][0]
        if self._keys[number] in SCORE_KEYS:
            known = len(value)
            fitting = [score for score in self._scores if score[:known] == value]
            return sorted({score[known] if len(score) > known else end for score in fitting})
        if self._read(value, number)[1]:
            return self._inside[True]
        return [end] if len(value) >= self._limits[number] else self._inside_or_end[end]

    def is_cut(self, ids: list[int]) -> bool:
        """Whether the first value, the rewrite, was ended by its limit."""
        return self._read(ids[len(self._fixed[0]) :], 0)[0] >= self._limits[0]

    def _place(self, ids: list[int]) -> tuple[int, list[int]]:
        """Where in the form these ids end: the number of the value that is next or under way, or
        of values in all, and the ids from the fixed piece before it on."""
        rest = ids
        for number in range(len(self._keys)):
            start = len(self._fixed[number])
            end = start + self._read(rest[start:], number)[0]
            if end >= len(rest):
                return number, rest
            rest = rest[end:]
        return len(self._keys), rest

    def _read(self, ids: list[int], number: int) -> tuple[int, bool]:
        """How many of these ids the value takes, and whether they stop behind a backslash."""
        end, escaped = self._fixed[number + 1][0], False
        for length, token in enumerate(ids):
            if token == end and not escaped:
                return length, False
            escaped = self._keys[number] not in SCORE_KEYS and self._after[escaped][token]
        return len(ids), escaped


def _string_states(backend: Any) -> list[dict[int, bool]]:
    """Per state (behind a backslash or not): id -> the state after it, where a string may go on."""
    special = set(backend.get_added_tokens_decoder())
    states: list[dict[int, bool]] = [{}, {}]
    for token in range(backend.get_vocab_size()):
        text = "" if token in special else backend.decode([token], skip_special_tokens=False)
        for state in (False, True):
            after = _scan(text, state)
            if text and after is not None:
                states[state][token] = after
    return states


def _scan(text: str, escaped: bool) -> bool | None:
    """Whether the text of a JSON string ends behind a backslash; None where it isn't one."""
    for char in text:
        if escaped:
            if char not in '"\\/bfnrt':  # what is written in hex is for no model to need
                return None
            escaped = False
        elif char == '"' or char < " ":
            return None
        else:
            escaped = char == "\\"
    return escaped


_LOOK_BACK = 2 * len(MARKER)
"""Ids at the end of an answer that may hold its marker."""


class AitqeRunner(BatchRunner[AitqeItem, list[list[int]]]):
    """Judges a stream of items in batches of like length; their answers' tokens come on top."""

    batch_tokens: ClassVar = BATCH_TOKENS
    batches_sorted = WINDOW_BATCHES

    def __init__(
        self,
        checkpoint: EnhancerCheckpoint,
        enhancing: EnhanceOptions,
        forced: bool,
        dtype: Dtype,
        options: RunnerOptions,
    ) -> None:
        """Keys are given where answers are `forced`."""
        super().__init__(options)
        self.image_tokens = checkpoint.image_tokens
        self.model = load_enhancer(checkpoint, dtype).to(self.device)
        kernels = speed_up(self.model, self.model.dtype)
        self.language = LanguageModel(self.model)
        encode = partial(encode_images, self.model)
        self.encode = ImageEncoder(checkpoint.tower, self.model, encode)
        self.encoders = (self.encode,)
        tokenizer = load_tokenizer(checkpoint.folder)
        self._backend = tokenizer.build()
        self._rows = enhancing.rows
        longest, self._form = enhancing.max_new_tokens, None
        if forced:
            self._form = form = Form(self._backend, enhancing.keys, longest)
            self._rules = Decoding(
                max_new_tokens=form.max_new_tokens,
                end_ids=frozenset(),
                stop=form.is_done,
                allowed=form.allowed,
            )
        else:
            ends = checkpoint.end_ids | ({tokenizer.eos} if tokenizer.eos is not None else set())
            stop = None if enhancing.explain else self._is_scored
            self._rules = Decoding(max_new_tokens=longest, end_ids=ends, stop=stop)
        self.notes = {"device": options.device, "kernels": kernels, "tower": checkpoint.tower.note}

    def tokens(self, item: AitqeItem) -> int:
        """Tokens of the prompt, those of the image included."""
        return self.image_tokens + len(item.ids)

    @torch.inference_mode()
    def compute(self, items: list[AitqeItem]) -> list[list[int]]:
        """The generated ids of each item."""
        images = self.encode(np.stack([item.image for item in items]))
        texts = [self.language.embed(item.ids.tolist()) for item in items]
        prompts = [torch.cat(pair) for pair in zip(images, texts, strict=True)]
        return decode_greedily(self.language, prompts, self._rules)

    def rows(
        self, items: list[AitqeItem], computed: list[list[int]]
    ) -> Iterator[Row | SampleError]:
        """The row of each answer."""
        for item, ids in zip(items, computed, strict=True):
            text = self._backend.decode(ids).strip()
            cut = self._form is not None and self._form.is_cut(ids)
            yield self._rows.make(item.caption, text, item.truncated, cut)

    def _is_scored(self, ids: list[int]) -> bool:
        """Whether the marker behind the overall score is there; the last id may overhang it."""
        return MARKER in self._backend.decode(ids[-_LOOK_BACK:])


# `--accept-if-better`: a quality classifier compares caption and rewrite, and the better stays

_WINDOW = Window(items=4096, tokens=4096, nbytes=192 * 2**20)
"""Samples whose rewrites are judged together, and what they may weigh."""
_WINDOW_AHEAD = Window(items=128, tokens=128, nbytes=1)
"""Rows that are judged together while others are on their way from a server."""


class JudgedRunner:
    """Rows of an enhancer, their rewrites taken back where a classifier likes them no better."""

    def __init__(self, enhancer: Runner, preparer: Preparer, judge: Runner, score: str) -> None:
        """`score` is the column of the judge's rows that is compared."""
        self._enhancer, self._preparer, self._judge = enhancer, preparer, judge
        self._column = score
        self.notes = enhancer.notes | {f"judge {k}": v for k, v in judge.notes.items()}

    def run(self, items: Iterable[tuple[int, Any]]) -> Iterator[Result]:
        """Rows for a stream of (index, item), in any order."""
        if getattr(self._enhancer, "ahead", False):  # a server goes on while the judge computes
            samples: dict[int, Sample] = {}
            results = self._enhancer.run(_noting(items, samples))
            for done in _WINDOW_AHEAD.split(results, lambda result: (1, 0)):
                rows = dict(sorted(done))
                yield from self._judged(rows, {index: samples.pop(index) for index in rows})
            return
        for window in _WINDOW.split(items, _size):
            rows = dict(self._enhancer.run(window))
            yield from self._judged(rows, {index: item.sample for index, item in window})

    def _judged(
        self, rows: dict[int, Row | SampleError], samples: Mapping[int, Sample]
    ) -> Iterator[Result]:
        """The rows, their rewrites compared with the captions."""
        rewritten: list[Row] = []
        texts: list[Sample] = []
        for index, row in rows.items():
            if not isinstance(row, SampleError) and row["rewritten"]:
                rewritten.append(row)
                for text in (row["caption"], row["final_caption"]):
                    parts: list[Part] = [*samples[index].images, Text(text)]
                    texts.append(replace(samples[index], parts=tuple(parts)))
        found = annotate_samples(self._preparer, self._judge, texts)
        scores = [None if isinstance(r, SampleError) else r[self._column] for r in found]
        for row, before, after in zip(rewritten, scores[::2], scores[1::2], strict=True):
            row |= {"caption_quality": before, "recaption_quality": after}
            # better than a caption without a score is any rewrite that has one
            if after is None or (before is not None and after <= before):
                row |= kept(row["caption"]) | {"rewrite_refused": str(Refused.NOT_BETTER)}
        yield from rows.items()


def _noting(
    items: Iterable[tuple[int, Any]], samples: dict[int, Sample]
) -> Iterator[tuple[int, Any]]:
    """The items, their samples noted for the judge."""
    for index, item in items:
        samples[index] = item.sample
        yield index, item


def _size(indexed: tuple[int, Any]) -> tuple[int, int]:
    item = indexed[1]
    return 1, item.nbytes + sum(len(image.data) for image in item.sample.images)
