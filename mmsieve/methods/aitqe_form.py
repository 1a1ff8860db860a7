"""AITQE's answer as a form to fill in: keys are given, a model chooses only the values.

For checkpoints that have learnt answers piece by piece (`aitqe_answers.answer_pieces`): the fixed
pieces are the very ids that they were trained on. A value is a score from 1 to 10, or the inside
of a JSON string, where only ids are allowed that leave it well-formed; so an answer can always be
read.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch

from mmsieve.methods.aitqe_answers import (
    HIGHEST,
    LOWEST,
    RECAPTION,
    fixed_pieces,
    is_score,
)
from mmsieve.models.decoding import Options

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
