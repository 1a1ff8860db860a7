"""Style texts -> style labels."""

import unicodedata
from collections.abc import Callable
from typing import Literal

from mmsieve.capabilities import STYLES

Spelling = Literal["exact", "strict"]


def split_styles(text: str, spelling: Spelling) -> list[str]:
    """The labels in a text, between commas; with `strict` also between full-width separators."""
    if spelling == "strict":
        text = unicodedata.normalize("NFKC", text).replace(";", ",").replace("\u3001", ",")
    return text.split(",")


def label_cleaner(spelling: Spelling) -> Callable[[str], str | None]:
    """What a label counts as: its text, trimmed; with `strict` one of the nine, or None."""
    if spelling == "exact":
        return str.strip
    known = {style.casefold(): style for style in STYLES}
    return lambda text: known.get(_plain(text))


def _plain(text: str) -> str:
    """The text in one case and without full-width forms, every run of spaces one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
