"""Captions and whole documents at the four quality levels, one text of each.

One request asks for all four texts of an image (or of a document's images), as the images are most
of what a request costs. The fields are written in order, so the hard negative is written against
the positive. Checked here: four texts that differ, one `<image>` per image, and that a caption's
hard negative is the positive but for the words that it names.
"""

import re
from abc import abstractmethod
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path
from string import Template
from typing import Any, ClassVar

from mmsieve.generation.files import (
    CAPTION_HEAD,
    DOCUMENT_JOINT,
    IMAGE_MARK,
    LabelledText,
    Span,
    text_fields,
)
from mmsieve.generation.tasks import (
    Fields,
    GenerationTask,
    Prompts,
    RawSample,
    RequestItem,
    StrictModel,
    TeacherAnswerError,
    item_id,
    read_prompt_files,
    usable_pictures,
)
from mmsieve.labels import EASY_NEGATIVE, HARD_NEGATIVE, LEVELS, MEDIUM_NEGATIVE, POSITIVE

_SKELETON, _TASK = "skeleton.md", "task.md"
_BLOCKS = ("positive", "hard_negative", "medium_negative", "easy_negative")
"""In the order of writing: the hard negative is written against the positive."""


class LevelTask(GenerationTask):
    """A task whose records are texts, one of each level over every item."""

    noun = "texts"
    each = len(LEVELS)
    answer: ClassVar[type[StrictModel]]

    def load_prompts(self, folder: Path | None) -> Prompts:
        """One skeleton, the task, and a block of requirements per level; raises RequestError.

        They are those of Table 1 of arXiv 2510.15162 in our words: the wording is not public.
        """
        names = [_SKELETON, *(f"{self.name}/{n}" for n in (_TASK, *(f"{b}.md" for b in _BLOCKS)))]
        places = {_SKELETON: ("task", "levels", "answer")}
        (skeleton, task, *blocks), version = read_prompt_files(folder, names, places)
        levels = "\n\n".join(f"{number}. {block}" for number, block in enumerate(blocks, 1))
        return Prompts(Template(skeleton), {"task": Template(task)}, {"levels": levels}, version)

    def values(self, item: RequestItem) -> dict[str, str]:
        """How many images there are."""
        images = len(item.pictures)
        return {
            "images": "one image" if images == 1 else f"{images} images",
            "marks": "one `<image>`" if images == 1 else f"{images} times `<image>`",
        }

    def schema(self) -> dict[str, Any]:
        """The four texts as fields."""
        return self.answer.model_json_schema()

    def check(self, fields: Any, item: RequestItem) -> Fields:
        """Four texts that differ, with as many `<image>` as there are images."""
        answer = self.answer.model_validate(fields)
        images = len(item.pictures)
        _check_texts(self.texts(answer, images), images)
        return answer.model_dump()

    def records(self, item: RequestItem, answer: Fields) -> Iterator[Fields]:
        """A record per text, in the order of the levels."""
        read = self.answer.model_validate(answer)
        return text_fields(item.names, self.texts(read, len(item.pictures)))

    @abstractmethod
    def texts(self, answer: Any, images: int) -> tuple[LabelledText, ...]:
        """The texts of an answer over so many images, in the order of the levels."""


def _check_texts(texts: tuple[LabelledText, ...], images: int) -> None:
    seen: dict[str, float] = {}
    for one in texts:
        marks = one.text.count(IMAGE_MARK)
        if marks != len(one.images):
            raise TeacherAnswerError(f"level {one.label}: {marks} <image> for {images} images")
        words = " ".join(one.text.replace(IMAGE_MARK, " ").split()).casefold()
        if not words:
            raise TeacherAnswerError(f"level {one.label}: no text")
        if words in seen:
            raise TeacherAnswerError(f"levels {seen[words]} and {one.label} have the same text")
        seen[words] = one.label


_ALIKE = 0.5
"""Part of the words that a caption's hard negative must share with its positive, in order."""


class Changed(StrictModel):
    """What the hard negative of a caption has wrong."""

    property: str
    right: str
    wrong: str


class CaptionAnswer(StrictModel):
    """The four captions, in the order of writing."""

    positive: str
    changed: Changed
    hard_negative: str
    medium_negative: str
    easy_negative: str


class CaptionTask(LevelTask):
    """An item is an image."""

    name, unit, tokens = "captions", "images", 500
    answer = CaptionAnswer

    def items(self, raw: RawSample, max_images: int, keep: bool = False) -> list[RequestItem]:
        """Each image of a sample that can be shown."""
        return [
            RequestItem(item_id("c", [picture]), raw.source, raw.index, raw.key, (picture,))
            for picture in usable_pictures(raw.images, keep)
        ]

    def check(self, fields: Any, item: RequestItem) -> Fields:
        """Four captions, of which the hard negative differs from the positive in one property."""
        answer = super().check(fields, item)
        _check_change(CaptionAnswer.model_validate(answer))
        return answer

    def texts(self, answer: CaptionAnswer, images: int) -> tuple[LabelledText, ...]:
        """The captions, with the words that are right in the one and wrong in the other."""
        texts = {level: CAPTION_HEAD + text.strip() for level, text in _by_level(answer)}
        wrong = {HARD_NEGATIVE: _spans(texts[HARD_NEGATIVE], answer.changed.wrong)}
        right = {POSITIVE: _spans(texts[POSITIVE], answer.changed.right)}
        return tuple(
            LabelledText("caption", text, level, (0,), right.get(level, ()), wrong.get(level, ()))
            for level, text in texts.items()
        )


def _check_change(answer: CaptionAnswer) -> None:
    """One property differs: the words that are named do, and most of the others are the same."""
    changed = answer.changed
    if not changed.right.strip() or changed.right.casefold() not in answer.positive.casefold():
        raise TeacherAnswerError(f"changed.right {changed.right!r} is not in the positive caption")
    if not changed.wrong.strip() or changed.wrong.casefold() not in answer.hard_negative.casefold():
        raise TeacherAnswerError(f"changed.wrong {changed.wrong!r} is not in the hard negative")
    pair = (answer.positive.casefold().split(), answer.hard_negative.casefold().split())
    if SequenceMatcher(None, *pair, autojunk=False).ratio() < _ALIKE:
        raise TeacherAnswerError(
            "the hard negative differs from the positive in more than one property"
        )


def _spans(text: str, words: str) -> tuple[Span, ...]:
    """Where the words stand, if that is in one place only."""
    whole = rf"(?<!\w){re.escape(words.strip())}(?!\w)"
    places = [found.span() for found in re.finditer(whole, text, re.IGNORECASE)]
    return tuple(places) if len(places) == 1 else ()


class DocumentAnswer(StrictModel):
    """The four documents, in the order of writing."""

    positive: str
    hard_negative: str
    medium_negative: str
    easy_negative: str


class DocumentTask(LevelTask):
    """An item is the images of a document."""

    name, unit, tokens, by_folder = "documents", "documents", 2500, True
    answer = DocumentAnswer

    def items(self, raw: RawSample, max_images: int, keep: bool = False) -> list[RequestItem]:
        """All images of a sample together; those that can't be shown are left out."""
        pictures = usable_pictures(raw.images, keep, max_images)
        name = item_id("d", pictures)
        return [RequestItem(name, raw.source, raw.index, raw.key, tuple(pictures))]

    def texts(self, answer: DocumentAnswer, images: int) -> tuple[LabelledText, ...]:
        """The documents, in the released layout."""
        shown = tuple(range(images))
        return tuple(
            LabelledText("document", _layout(text), level, shown)
            for level, text in _by_level(answer)
        )


def _by_level(answer: CaptionAnswer | DocumentAnswer) -> tuple[tuple[int, str], ...]:
    return (
        (EASY_NEGATIVE, answer.easy_negative),
        (MEDIUM_NEGATIVE, answer.medium_negative),
        (HARD_NEGATIVE, answer.hard_negative),
        (POSITIVE, answer.positive),
    )


def _layout(text: str) -> str:
    """A document in the released layout: pieces with a blank line between them."""
    pieces = re.split(f"({IMAGE_MARK})", text)
    return DOCUMENT_JOINT.join(piece.strip() for piece in pieces if piece.strip())
