"""Answers of teachers: what they have to hold, and the labelled texts that are made of them.

One request asks for all four texts of an image (or of a document's images). The images are most
of what a request costs, so a request per level would cost about twice as much; and as the fields
are written in order, the hard negative is still written against the positive, which is in front
of the teacher word for word. What one request can't rule out is checked here: four texts that
differ, a caption's hard negative that is its positive but for the words that it names, and in
documents one `<image>` per image.
"""

import json
import re
from difflib import SequenceMatcher
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

from mmsieve.generate.groups import (
    CAPTION_HEAD,
    DOCUMENT_JOINT,
    IMAGE_MARK,
    LabelledText,
    Span,
)
from mmsieve.generate.prompts import AnswerFormat, What
from mmsieve.levels import EASY_NEGATIVE, HARD_NEGATIVE, MEDIUM_NEGATIVE, POSITIVE

_ALIKE = 0.5
"""Part of the words that a caption's hard negative must share with its positive, in order."""

_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*)\n\s*```\s*\Z", re.DOTALL)


class AnswerError(Exception):
    """An answer can't be used; the message says why in one line."""


class Changed(BaseModel):
    """What the hard negative of a caption has wrong."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    property: str
    right: str
    wrong: str


class DocumentAnswer(BaseModel):
    """The four documents, in the order of writing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    positive: str
    hard_negative: str
    medium_negative: str
    easy_negative: str


class CaptionAnswer(BaseModel):
    """The four captions, in the order of writing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    positive: str
    changed: Changed
    hard_negative: str
    medium_negative: str
    easy_negative: str


Answer: TypeAlias = CaptionAnswer | DocumentAnswer
_ANSWERS: dict[What, type[Answer]] = {"captions": CaptionAnswer, "documents": DocumentAnswer}


def answer_schema(what: What) -> dict[str, Any]:
    """The JSON schema that an answer has to follow."""
    return _ANSWERS[what].model_json_schema()


def read_answer(text: str, what: What, images: int, format: AnswerFormat) -> Answer:
    """The answer in a teacher's words, if it can be used; raises AnswerError.

    Strict on purpose: nothing is mended, and only `json`, where a server can't be held to a
    schema, may stand in a code fence.
    """
    fenced = _FENCE.match(text) if format == "json" else None
    try:
        fields = json.loads(fenced[1] if fenced else text, object_pairs_hook=_object)
        json.dumps(fields, ensure_ascii=False).encode()  # raises for half a surrogate pair
        answer = _ANSWERS[what].model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise AnswerError(f"wrong fields: {where}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise AnswerError(f"not JSON: {error}") from error
    _check(labelled_texts(answer, images), images)
    if isinstance(answer, CaptionAnswer):
        _check_change(answer)
    return answer


def labelled_texts(answer: Answer, images: int) -> tuple[LabelledText, ...]:
    """The four texts, in the order of the levels."""
    levels = (
        (EASY_NEGATIVE, answer.easy_negative),
        (MEDIUM_NEGATIVE, answer.medium_negative),
        (HARD_NEGATIVE, answer.hard_negative),
        (POSITIVE, answer.positive),
    )
    if isinstance(answer, DocumentAnswer):
        return tuple(
            LabelledText("document", _document(text), level, tuple(range(images)))
            for level, text in levels
        )
    texts = {level: CAPTION_HEAD + text.strip() for level, text in levels}
    wrong = {HARD_NEGATIVE: _spans(texts[HARD_NEGATIVE], answer.changed.wrong)}
    right = {POSITIVE: _spans(texts[POSITIVE], answer.changed.right)}
    return tuple(
        LabelledText("caption", text, level, (0,), right.get(level, ()), wrong.get(level, ()))
        for level, text in texts.items()
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different: `json` would keep the last of two."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(name for name in fields if sum(name == other for other, _ in pairs) > 1)
        raise ValueError(f"{twice!r} stands there twice")
    return fields


def _check(texts: tuple[LabelledText, ...], images: int) -> None:
    seen: dict[str, float] = {}
    for told in texts:
        marks = told.text.count(IMAGE_MARK)
        if marks != len(told.images):
            raise AnswerError(f"level {told.label}: {marks} <image> for {images} images")
        words = " ".join(told.text.replace(IMAGE_MARK, " ").split()).casefold()
        if not words:
            raise AnswerError(f"level {told.label}: no text")
        if words in seen:
            raise AnswerError(f"levels {seen[words]} and {told.label} have the same text")
        seen[words] = told.label


def _check_change(answer: CaptionAnswer) -> None:
    """One property differs: the words that are named do, and most of the others are the same."""
    changed = answer.changed
    if not changed.right.strip() or changed.right.casefold() not in answer.positive.casefold():
        raise AnswerError(f"changed.right {changed.right!r} is not in the positive caption")
    if not changed.wrong.strip() or changed.wrong.casefold() not in answer.hard_negative.casefold():
        raise AnswerError(f"changed.wrong {changed.wrong!r} is not in the hard negative")
    pair = (answer.positive.casefold().split(), answer.hard_negative.casefold().split())
    if SequenceMatcher(None, *pair, autojunk=False).ratio() < _ALIKE:
        raise AnswerError("the hard negative differs from the positive in more than one property")


def _document(text: str) -> str:
    """A document in the released layout: pieces with a blank line between them."""
    pieces = re.split(f"({IMAGE_MARK})", text)
    return DOCUMENT_JOINT.join(piece.strip() for piece in pieces if piece.strip())


def _spans(text: str, words: str) -> tuple[Span, ...]:
    """Where the words stand, if that is in one place only."""
    whole = rf"(?<!\w){re.escape(words.strip())}(?!\w)"
    places = [found.span() for found in re.finditer(whole, text, re.IGNORECASE)]
    return tuple(places) if len(places) == 1 else ()
