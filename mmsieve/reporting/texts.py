"""Texts as a page shows them: cut where they would fill it, and one beside another word by word."""

import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import Literal, NamedTuple, TypeAlias

_MOST_LETTERS = 2000


def clipped(text: str) -> str:
    """The text as it can be written to a file, cut where it would fill the page."""
    clean = text.encode("utf-8", "replace").decode("utf-8")
    left = len(clean) - _MOST_LETTERS
    return clean if left <= 0 else f"{clean[:_MOST_LETTERS]} ... ({left:,} more characters)"


Change: TypeAlias = Literal["same", "removed", "added"]
_TOKEN = re.compile(
    r"([\u3040-\u30ff\u3400-\u9fff]|[^\s.,;:!?\"()\[\]\u3001\u3002\u3040-\u30ff\u3400-\u9fff]+|\S)"
    r"(\s*)"
)
"""A word or a mark, and the space behind it; of Chinese and Japanese a character."""
_LEAST_KEPT = 0.3
"""Texts with less in common are two texts, not one with changes."""


class DiffPiece(NamedTuple):
    """Words that both texts have, or only the one before, or only the one after."""

    change: Change
    text: str

    @property
    def words(self) -> str:
        """The text without the space behind it."""
        return self.text.rstrip()

    @property
    def space(self) -> str:
        """The space behind the text."""
        return self.text[len(self.words) :]


def diff_words(before: str, after: str) -> list[DiffPiece]:
    """The pieces of both texts in order: `same` and `removed` make the one before.

    By Ratcliff and Obershelp's matching (difflib) of words. Texts that have little in common are
    one piece each, which is easier to read than crumbs.
    """
    one, other = _TOKEN.findall(before), _TOKEN.findall(after)
    matcher = SequenceMatcher(None, [word for word, _ in one], [word for word, _ in other])
    if matcher.ratio() < _LEAST_KEPT:
        whole = DiffPiece("removed", before), DiffPiece("added", after)
        return [piece for piece in whole if piece.text]
    found: list[DiffPiece] = []
    for what, i1, i2, j1, j2 in matcher.get_opcodes():
        if what == "equal":
            found.append(DiffPiece("same", _joined(other[j1:j2])))
            continue
        removed, added = _joined(one[i1:i2]), _joined(other[j1:j2])
        found += [DiffPiece("removed", removed)] * bool(removed)
        found += [DiffPiece("added", added)] * bool(added)
    return found


def _joined(tokens: Iterable[tuple[str, str]]) -> str:
    return "".join(word + space for word, space in tokens)
