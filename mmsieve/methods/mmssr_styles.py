"""Styles as text: what an answer may hold, and what one says."""

from collections.abc import Callable, Sequence
from functools import lru_cache

from mmsieve.capabilities import STYLES

_JOINT = ", "


def join_styles(styles: Sequence[str]) -> str:
    """An answer that names these styles."""
    return _JOINT.join(styles)


def parse_styles(answer: str) -> list[str]:
    """The styles of an answer, in order, without repeats; as published, any text counts as one."""
    names = (name.strip() for name in answer.split(","))
    return list(dict.fromkeys(name for name in names if name))


class StyleGrammar:
    """Which tokens may come next, so that an answer names one or more of the nine, none twice.

    Answers are tokenised whole, as in training: a label's last letter and the comma after it may
    be one token.
    """

    def __init__(self, encode: Callable[[str], Sequence[int]], end: int) -> None:
        self._encode = lru_cache(None)(lambda text: tuple(encode(text)))
        self._end = end
        self._next = lru_cache(4096)(self._find)

    def allowed(self, ids: Sequence[int]) -> list[int]:
        """The ids of which the next is one."""
        return self._next(tuple(ids))

    def _find(self, ids: tuple[int, ...]) -> list[int]:
        return sorted(set(self._follow(ids, ())))

    def _follow(self, ids: tuple[int, ...], named: tuple[str, ...]) -> list[int]:
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
