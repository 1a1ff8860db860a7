"""Captions at the four levels over single images.

The hard negative is checked against the positive: it is that, but for the words that it names.
"""

import re
from difflib import SequenceMatcher
from typing import Any

from pydantic import BaseModel, ConfigDict

from mmsieve.generate.drawn import Drawn
from mmsieve.generate.groups import CAPTION_HEAD, LabelledText, Span
from mmsieve.generate.raw_images import RawSample
from mmsieve.generate.rendered import Drawing, caption_group
from mmsieve.generate.subjects import Subject, subject_id, usable_pictures
from mmsieve.generate.tasks.four_texts import FourTexts, draw_texts
from mmsieve.generate.tasks.task import AnswerError, Fields
from mmsieve.levels import EASY_NEGATIVE, HARD_NEGATIVE, MEDIUM_NEGATIVE, POSITIVE

_ALIKE = 0.5
"""Part of the words that a caption's hard negative must share with its positive, in order."""


class Changed(BaseModel):
    """What the hard negative of a caption has wrong."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    property: str
    right: str
    wrong: str


class CaptionAnswer(BaseModel):
    """The four captions, in the order of writing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    positive: str
    changed: Changed
    hard_negative: str
    medium_negative: str
    easy_negative: str


class Captions(FourTexts):
    """A subject is an image."""

    name, unit, tokens = "captions", "images", 500
    answer = CaptionAnswer

    def subjects(
        self, source: str, raw: RawSample, max_images: int, keep: bool = False
    ) -> list[Subject]:
        """Each image of a sample that can be shown."""
        return [
            Subject(subject_id("c", [picture]), source, raw.index, raw.key, (picture,))
            for picture in usable_pictures(raw.images, keep)
        ]

    def check(self, fields: Any, subject: Subject) -> Fields:
        """Four captions, of which the hard negative differs from the positive in one property."""
        answer = super().check(fields, subject)
        _check_change(CaptionAnswer.model_validate(answer))
        return answer

    def texts(self, answer: CaptionAnswer, images: int) -> tuple[LabelledText, ...]:
        """The captions, with the words that are right in the one and wrong in the other."""
        texts = {
            level: CAPTION_HEAD + text.strip()
            for level, text in (
                (EASY_NEGATIVE, answer.easy_negative),
                (MEDIUM_NEGATIVE, answer.medium_negative),
                (HARD_NEGATIVE, answer.hard_negative),
                (POSITIVE, answer.positive),
            )
        }
        wrong = {HARD_NEGATIVE: _spans(texts[HARD_NEGATIVE], answer.changed.wrong)}
        right = {POSITIVE: _spans(texts[POSITIVE], answer.changed.right)}
        return tuple(
            LabelledText("caption", text, level, (0,), right.get(level, ()), wrong.get(level, ()))
            for level, text in texts.items()
        )

    def draw(self, seed: int, index: int, drawing: Drawing) -> Drawn:
        """A scene and its four captions."""
        return draw_texts(caption_group(seed, index, drawing))


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


def _spans(text: str, words: str) -> tuple[Span, ...]:
    """Where the words stand, if that is in one place only."""
    whole = rf"(?<!\w){re.escape(words.strip())}(?!\w)"
    places = [found.span() for found in re.finditer(whole, text, re.IGNORECASE)]
    return tuple(places) if len(places) == 1 else ()
