"""AITQE's device half: items -> prompts -> answers -> rows.

Checkpoints that have learnt answers piece by piece (`answers.answer_pieces`) fill in a form: the
fixed pieces are the very ids that they were trained on. A value is a score from 1 to 10, or the
inside of a JSON string, where only ids are allowed that leave it well-formed; so an answer can
always be read.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch

from mmsieve.devices import Dtype
from mmsieve.engine.annotator import Preparer, Row, Runner, RunnerOptions
from mmsieve.errors import SampleError
from mmsieve.methods.aitqe.answers import (
    HIGHEST,
    KEYS,
    LOWEST,
    MARKER,
    RECAPTION,
    Answer,
    Refused,
    RowMaker,
    fixed_pieces,
    is_score,
)
from mmsieve.methods.aitqe.checkpoint import EnhancerCheckpoint
from mmsieve.methods.aitqe.inputs import AitqeItem
from mmsieve.methods.aitqe.model import encode_images, load_enhancer
from mmsieve.methods.base import BatchRunner, ImageEncoder, Result, Window
from mmsieve.methods.cpu import speed_up
from mmsieve.methods.decoding import Decoding, LanguageModel, Options, decode_greedily
from mmsieve.methods.tokenizer import TokenizerSpec
from mmsieve.sample import Image, Part, Sample, Text

# AITQE's answer as a form to fill in: keys are given, a model chooses only the values

_ESCAPES = '"\\/bfnrt'
_Place: TypeAlias = tuple[int, list[int]]
"""The number of a value, and the ids behind the fixed piece before it."""


class Form:
    """What may come next in an answer with these keys."""

    def __init__(self, backend: Any, keys: Sequence[str], max_new_tokens: int) -> None:
        """`backend` is a tokenizers.Tokenizer; a rewrite takes at most a third of
        `max_new_tokens`, an explanation a ninth. Keys and scores don't count."""
        self._keys = tuple(keys)
        self._fixed = [_ids(backend, piece) for piece in fixed_pieces(keys)]
        self._scores = [_ids(backend, str(score)) for score in range(LOWEST, HIGHEST + 1)]
        self._limits = [max(1, max_new_tokens // (3 if k == RECAPTION else 9)) for k in keys]
        self._after = _string_states(backend)
        inside = [sorted(states) for states in self._after]
        self._inside = [torch.tensor(ids) for ids in inside]
        self._inside_or_end = {
            fixed[0]: torch.tensor([*inside[False], fixed[0]]) for fixed in self._fixed[1:]
        }
        self.max_new_tokens = (
            sum(map(len, self._fixed)) + 2 * sum(self._limits) + 4 * len(self._keys)
        )

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
        if is_score(self._keys[number]):
            known = len(value)
            fitting = [score for score in self._scores if score[:known] == value]
            return sorted({score[known] if len(score) > known else end for score in fitting})
        escaped = self._is_escaped(value)
        if escaped:
            return self._inside[True]
        return [end] if len(value) >= self._limits[number] else self._inside_or_end[end]

    def is_cut(self, ids: list[int]) -> bool:
        """Whether the first value, the rewrite, was ended by its limit."""
        value = ids[len(self._fixed[0]) :]
        return self._end(value, 0) >= self._limits[0]

    def _place(self, ids: list[int]) -> _Place:
        """Where in the form these ids end: the number of the value that is next or under way, or
        of values in all, and the ids from the fixed piece before it on."""
        rest = ids
        for number in range(len(self._keys)):
            start = len(self._fixed[number])
            end = self._end(rest[start:], number)
            if start + end >= len(rest):
                return number, rest
            rest = rest[start + end :]
        return len(self._keys), rest

    def _end(self, ids: list[int], number: int) -> int:
        """How many ids the value takes."""
        end = self._fixed[number + 1][0]
        escaped = False
        for length, token in enumerate(ids):
            if token == end and not escaped:
                return length
            if not is_score(self._keys[number]):
                escaped = self._after[escaped][token]
        return len(ids)

    def _is_escaped(self, ids: list[int]) -> bool:
        escaped = False
        for token in ids:
            escaped = self._after[escaped][token]
        return escaped


def _ids(backend: Any, piece: str) -> list[int]:
    ids: list[int] = backend.encode(piece, add_special_tokens=False).ids
    return ids


def _string_states(backend: Any) -> list[dict[int, bool]]:
    """Per state (not behind, or behind a backslash): id -> the state after it.

    Ids that break a JSON string, and special ones, are not in it.
    """
    special = {number for number, token in backend.get_added_tokens_decoder().items()}
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
            if char not in _ESCAPES:  # what is written in hex is for no model to need
                return None
            escaped = False
        elif char == '"' or char < " ":
            return None
        else:
            escaped = char == "\\"
    return escaped


_LOOK_BACK = 2 * len(MARKER)
"""Ids at the end of an answer that may hold its marker."""


@dataclass(frozen=True, kw_only=True)
class AnswerSettings:
    """How answers are generated."""

    explain: bool
    """To the end, not only to the overall score."""
    max_new_tokens: int
    forced: bool
    """Whether keys are given, as only a checkpoint that has learnt answers in pieces knows them."""


class AitqeRunner(BatchRunner[AitqeItem, list[list[int]]]):
    """Judges a stream of items in batches of like length; their answers' tokens come on top."""

    batch_tokens: ClassVar = {"cpu": 8192, "cuda": 65536}
    batches_sorted = 8

    def __init__(
        self,
        checkpoint: EnhancerCheckpoint,
        tokenizer: TokenizerSpec,
        dtype: Dtype,
        settings: AnswerSettings,
        rows: RowMaker,
        options: RunnerOptions,
    ) -> None:
        super().__init__(options)
        self.image_tokens = checkpoint.image_tokens
        self.model = load_enhancer(checkpoint, dtype).to(self.device)
        kernels = speed_up(self.model, self.model.dtype)
        self.language = LanguageModel(self.model)
        self.encode = ImageEncoder(
            checkpoint.tower,
            self.device,
            self.model.dtype,
            lambda pixels: encode_images(self.model, pixels),
        )
        self.encoders = (self.encode,)
        self._backend = tokenizer.build(plain=False)
        self._settings, self._rows = settings, rows
        ends = checkpoint.end_ids | ({tokenizer.eos} if tokenizer.eos is not None else set())
        keys = KEYS if settings.explain else KEYS[:2]
        self._form = Form(self._backend, keys, settings.max_new_tokens) if settings.forced else None
        self._rules = self._decoding(frozenset(ends))
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
            yield self._rows.make(
                Answer(
                    caption=item.caption,
                    text=self._backend.decode(ids).strip(),
                    truncated=item.truncated,
                    rewrite_cut=self._form is not None and self._form.is_cut(ids),
                )
            )

    def _decoding(self, ends: frozenset[int]) -> Decoding:
        form = self._form
        if form is not None:
            return Decoding(
                max_new_tokens=form.max_new_tokens,
                end_ids=frozenset(),
                stop=form.is_done,
                allowed=form.allowed,
            )
        return Decoding(
            max_new_tokens=self._settings.max_new_tokens,
            end_ids=ends,
            stop=None if self._settings.explain else self._is_scored,
        )

    def _is_scored(self, ids: list[int]) -> bool:
        """Whether the marker behind the overall score is there; the last id may overhang it."""
        return MARKER in self._backend.decode(ids[-_LOOK_BACK:])


# `--accept-if-better`: a quality classifier compares caption and rewrite, and the better stays

_WINDOW = Window(items=4096, tokens=4096, nbytes=192 * 2**20)
"""Samples whose rewrites are judged together, and what they may weigh."""


class JudgedRunner:
    """Rows of an enhancer, their rewrites taken back where a classifier likes them no better."""

    def __init__(self, enhancer: Runner, preparer: Preparer, judge: Runner, score: str) -> None:
        """`score` is the column of the judge's rows that is compared."""
        self._enhancer, self._preparer, self._judge = enhancer, preparer, judge
        self._column = score
        self.notes = enhancer.notes | {f"judge {k}": v for k, v in judge.notes.items()}

    def run(self, items: Iterable[tuple[int, Any]]) -> Iterator[Result]:
        """Rows for a stream of (index, item), in any order."""
        for window in _WINDOW.split(items, _size):
            rows = dict(self._enhancer.run(window))
            samples = {index: item.sample for index, item in window}
            rewritten = [
                (index, row)
                for index, row in rows.items()
                if not isinstance(row, SampleError) and row["rewritten"]
            ]
            texts = [
                (index, side, row[used])
                for index, row in rewritten
                for side, used in (("caption", "caption"), ("recaption", "final_caption"))
            ]
            scores = self._score([_with_caption(samples[index], text) for index, _, text in texts])
            for (index, side, _), score in zip(texts, scores, strict=True):
                rows[index][f"{side}_quality"] = score  # type: ignore[index]
            for _, row in rewritten:
                _decide(row)
            yield from rows.items()

    def _score(self, samples: list[Sample]) -> list[float | None]:
        """Scores in order; None where a text has none."""
        ready: list[tuple[int, Any]] = []
        for place, sample in enumerate(samples):
            try:
                ready.append((place, self._preparer.prepare(sample)))
            except SampleError:
                continue
        scores: list[float | None] = [None] * len(samples)
        for place, row in self._judge.run(ready):
            scores[place] = None if isinstance(row, SampleError) else row[self._column]
        return scores


def _decide(row: Row) -> None:
    """Take a rewrite back unless it is better: than a caption without a score, any with one is."""
    before, after = row["caption_quality"], row["recaption_quality"]
    if after is None or (before is not None and after <= before):
        refused = str(Refused.NOT_BETTER)
        row.update(final_caption=row["caption"], rewritten=False, rewrite_refused=refused)


def _with_caption(sample: Sample, text: str) -> Sample:
    parts: tuple[Part, ...] = tuple(part for part in sample.parts if isinstance(part, Image))
    return replace(sample, parts=(*parts, Text(text)))


def _size(indexed: tuple[int, Any]) -> tuple[int, int]:
    item = indexed[1]
    return 1, item.nbytes + sum(len(image.data) for image in item.sample.images)
