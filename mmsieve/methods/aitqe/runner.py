"""AITQE's device half: items -> prompts -> answers -> rows.

For checkpoints that have learnt answers piece by piece (`aitqe_answers.answer_pieces`): the fixed
pieces are the very ids that they were trained on. A value is a score from 1 to 10, or the inside
of a JSON string, where only ids are allowed that leave it well-formed; so an answer can always be
read.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from mmsieve.devices import Dtype
from mmsieve.engine.annotator import Row, RunnerOptions
from mmsieve.errors import SampleError, ShardError
from mmsieve.methods.aitqe.answers import (
    HIGHEST,
    KEYS,
    LOWEST,
    MARKER,
    RECAPTION,
    fixed_pieces,
    is_score,
)
from mmsieve.methods.aitqe.checkpoint import EnhancerCheckpoint
from mmsieve.methods.aitqe.inputs import Item
from mmsieve.methods.aitqe.model import encode_images, load_enhancer
from mmsieve.methods.aitqe.rows import Answer, RowMaker
from mmsieve.methods.base import Window, batches, is_out_of_memory, open_device
from mmsieve.methods.cpu import speed_up
from mmsieve.methods.decoding import Decoding, LanguageModel, Options, decode_greedily
from mmsieve.methods.tokenizer import TokenizerSpec

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


# AITQE's device half: items -> prompts -> answers -> rows

Indexed: TypeAlias = tuple[int, Item]
Result: TypeAlias = tuple[int, Row | SampleError]

_BATCH_TOKENS = {"cpu": 8192, "cuda": 65536}
"""Prompts of a batch; their answers come on top."""
_IMAGE_ROWS = {"cpu": 1600, "cuda": 147456}
"""Patches encoded at a time."""
_WINDOW = 8
"""Batches that are sorted together."""
_WINDOW_BYTES = {"cpu": 192 * 2**20, "cuda": 2**30}
_LOOK_BACK = 2 * len(MARKER)
"""Ids at the end of an answer that may hold its marker."""


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How answers are generated."""

    explain: bool
    """To the end, not only to the overall score."""
    max_new_tokens: int
    forced: bool
    """Whether keys are given, as only a checkpoint that has learnt answers in pieces knows them."""


class AitqeRunner:
    """Judges a stream of items in batches of like length; out of memory halves the batch."""

    def __init__(
        self,
        checkpoint: EnhancerCheckpoint,
        tokenizer: TokenizerSpec,
        dtype: Dtype,
        asking: Asking,
        rows: RowMaker,
        options: RunnerOptions,
    ) -> None:
        self._device = open_device(options.device)
        kind = self._device.type
        self._spec = checkpoint.tower.image
        self._image_tokens = checkpoint.image_tokens
        self._budget = options.batch_tokens or _BATCH_TOKENS[kind]
        self._images_at_once = max(1, _IMAGE_ROWS[kind] // checkpoint.tower.patches)
        self._model = load_enhancer(checkpoint, dtype).requires_grad_(False).to(self._device)
        kernels = f"torch {torch.__version__}"
        if kind == "cpu":
            kernels = speed_up(self._model, self._model.dtype)
        self._language = LanguageModel(self._model)
        self._backend = tokenizer.build(plain=False)
        self._asking, self._rows = asking, rows
        ends = checkpoint.end_ids | ({tokenizer.eos} if tokenizer.eos is not None else set())
        keys = KEYS if asking.explain else KEYS[:2]
        self._form = Form(self._backend, keys, asking.max_new_tokens) if asking.forced else None
        self._rules = self._decoding(frozenset(ends))
        self._mean = torch.tensor(self._spec.mean, device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(self._spec.std, device=self._device).view(1, 3, 1, 1)
        self.notes = {
            "device": options.device,
            "kernels": kernels,
            "tower": checkpoint.tower.note,
        }

    def run(self, items: Iterable[Indexed]) -> Iterator[Result]:
        """Rows for a stream of (index, item), window by window, longest first in each."""
        window = Window(4096, _WINDOW * self._budget, _WINDOW_BYTES[self._device.type])
        for run in window.split(items, self._size):
            costs = [self._size(indexed)[0] for indexed in run]
            for batch in batches(costs, self._budget):
                yield from self._batch([run[index] for index in batch])

    def _size(self, indexed: Indexed) -> tuple[int, int]:
        item = indexed[1]
        return self._image_tokens + len(item.ids), item.nbytes

    def _batch(self, batch: list[Indexed]) -> Iterator[Result]:
        """A batch's rows, in as many pieces as the memory asks for."""
        pending = [batch]
        while pending:
            piece = pending.pop()
            try:
                answers = self._answer([item for _, item in piece])
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                pending += self._split(piece)
                continue
            for (index, item), ids in zip(piece, answers, strict=True):
                yield index, self._row(item, ids)

    def _split(self, piece: list[Indexed]) -> list[list[Indexed]]:
        """What to try instead of a batch that did not fit: its halves, or fewer images at once."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if len(piece) > 1:
            half = len(piece) // 2
            longest = max(self._size(indexed)[0] for indexed in piece)
            self._budget = max(1, min(self._budget, half * longest))
            self._images_at_once = max(1, min(self._images_at_once, half))
            return [piece[half:], piece[:half]]
        raise ShardError(
            f"a caption of {len(piece[0][1].ids)} tokens does not fit into the memory of "
            f"{self._device}: use --dtype bfloat16, --max-text-tokens or a device with more memory"
        )

    def _row(self, item: Item, ids: list[int]) -> Row | SampleError:
        return self._rows.make(
            Answer(
                caption=item.caption,
                text=self._backend.decode(ids).strip(),
                truncated=item.truncated,
                rewrite_cut=self._form is not None and self._form.is_cut(ids),
            )
        )

    @torch.inference_mode()
    def _answer(self, items: list[Item]) -> list[list[int]]:
        """The generated ids of each item."""
        images = self._encode(np.stack([item.image for item in items]))
        texts = [self._language.embed(item.ids.tolist()) for item in items]
        prompts = [torch.cat(pair) for pair in zip(images, texts, strict=True)]
        return decode_greedily(self._language, prompts, self._rules)

    def _encode(self, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Sequence[Tensor]:
        """[images, size, size, 3] -> [tokens, hidden] of each."""
        pieces = ceil(len(pixels) / self._images_at_once)
        made: list[Tensor] = []
        for piece in np.array_split(pixels, pieces):
            images = torch.from_numpy(piece).to(self._device).permute(0, 3, 1, 2).float()
            normalised = (images * self._spec.scale - self._mean) / self._std
            made += encode_images(self._model, normalised.to(self._model.dtype))
        return made

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
            max_new_tokens=self._asking.max_new_tokens,
            end_ids=ends,
            stop=None if self._asking.explain else self._is_scored,
        )

    def _is_scored(self, ids: list[int]) -> bool:
        """Whether the marker behind the overall score is there; the last id may overhang it."""
        return MARKER in self._backend.decode(ids[-_LOOK_BACK:])
