"""Columns and members as they are asked for, and the texts that they hold.

`caption` is a column of a table, a field of an item or a member of a tar; `json:caption` the field
`caption` inside it; `caption[1]` the second of several.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmsieve.errors import RequestError, SampleError, Status
from mmsieve.read import decode_text
from mmsieve.read.json_items import parse_object
from mmsieve.sample import Sample, Text, add_note

_ASKED = re.compile(r"([^:\[\]]+)(?::([^:\[\]]+))?(?:\[(\d+)\])?")
SEVERAL = "several captions: the first is read (the second: --text-column 'NAME[1]')"


@dataclass(frozen=True, slots=True)
class ColumnPath:
    """Where a value stands in a record."""

    name: str
    field: str | None = None
    number: int | None = None

    def value(self, fields: Mapping[str, Any]) -> Any:
        """What stands there, None for nothing; of a list without number the first."""
        found = fields.get(self.name)
        if self.field is not None:
            if isinstance(found, (bytes, str)):
                found = parse_object(found if isinstance(found, bytes) else found.encode())
            found = found.get(self.field) if isinstance(found, Mapping) else None
        if not isinstance(found, (list, tuple)):
            return found if self.number in (None, 0) else None
        if self.number is None and len(found) > 1:
            add_note(SEVERAL)
        return next(iter(found[self.number or 0 :]), None)

    def put(self, fields: Mapping[str, Any], text: str) -> dict[str, Any]:
        """The field that a text stands in, with another in its place; raises SampleError."""
        found = fields.get(self.name)
        if self.field is None:
            return {self.name: self._with(found, text)}
        is_json = isinstance(found, (bytes, str))
        data = found.encode() if isinstance(found, str) else found
        inner = parse_object(data) if isinstance(data, bytes) else data
        inner = dict(inner or {})
        inner[self.field] = self._with(inner.get(self.field), text)
        return {self.name: json.dumps(inner, ensure_ascii=False) if is_json else inner}

    def _with(self, value: Any, text: str) -> Any:
        at = self.number or 0
        return [*value[:at], text, *value[at + 1 :]] if isinstance(value, (list, tuple)) else text


def parse_column(asked: str, option: str) -> ColumnPath:
    """The column that an option names; raises RequestError."""
    match = _ASKED.fullmatch(asked)
    if match is None:
        raise RequestError(f"--{option} {asked}: write NAME, NAME:FIELD or NAME[1]")
    return ColumnPath(match[1], match[2], None if match[3] is None else int(match[3]))


def text_of(value: Any, where: str) -> str:
    """A caption as it is meant; raises SampleError where there is none, or it is no UTF-8."""
    if isinstance(value, bytes):
        value = decode_text(value)
    if value is None or isinstance(value, (Mapping, list, tuple, bool)):
        raise SampleError(Status.TEXT_MISSING, f"{where} holds no text")
    return str(value).removeprefix("\ufeff")


_PLACEHOLDERS = frozenset(("none", "null", "nan", "n/a", "na", "<na>", "nil", "undefined"))


def is_blank(text: str) -> bool:
    """Whether a caption says nothing: no visible character, or a word for a missing value."""
    return not any(map(_is_visible, text)) or text.strip().lower() in _PLACEHOLDERS


_EMPTY = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters by their category that are drawn as nothing."""


def check_caption(sample: Sample) -> None:
    """Raise SampleError for a caption pair whose caption says nothing."""
    texts = [part.text for part in sample.parts if isinstance(part, Text)]
    if sample.kind == "caption" and all(map(is_blank, texts)):
        raise SampleError(Status.TEXT_MISSING, f"the caption says nothing: {texts[0]!r:.40}")


def _is_visible(letter: str) -> bool:
    return letter.isprintable() and not letter.isspace() and letter not in _EMPTY
