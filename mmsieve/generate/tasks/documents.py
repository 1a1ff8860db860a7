"""Whole documents at the four levels around several images."""

import re

from pydantic import BaseModel, ConfigDict

from mmsieve.errors import RequestError
from mmsieve.generate.drawn import Drawn
from mmsieve.generate.groups import DOCUMENT_JOINT, IMAGE_MARK, LabelledText
from mmsieve.generate.options import GenerateOptions
from mmsieve.generate.raw_images import RawSample
from mmsieve.generate.rendered import Drawing, document_group
from mmsieve.generate.subjects import Subject, subject_id, usable_pictures
from mmsieve.generate.tasks.four_texts import FourTexts, draw_texts
from mmsieve.levels import EASY_NEGATIVE, HARD_NEGATIVE, MEDIUM_NEGATIVE, POSITIVE
from mmsieve.rendered.scenes import WORLDS


class DocumentAnswer(BaseModel):
    """The four documents, in the order of writing."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    positive: str
    hard_negative: str
    medium_negative: str
    easy_negative: str


class Documents(FourTexts):
    """A subject is the images of a document."""

    name, unit, tokens, by_folder = "documents", "documents", 2500, True
    answer = DocumentAnswer

    def subjects(
        self, source: str, raw: RawSample, max_images: int, keep: bool = False
    ) -> list[Subject]:
        """All images of a sample together; those that can't be shown are left out."""
        pictures = usable_pictures(raw.images, keep, max_images)
        return [
            Subject(subject_id("d", pictures), source, raw.index, raw.key, tuple(pictures)),
        ]

    def texts(self, answer: DocumentAnswer, images: int) -> tuple[LabelledText, ...]:
        """The documents, in the released layout."""
        shown = tuple(range(images))
        return tuple(
            LabelledText("document", _layout(text), level, shown)
            for level, text in (
                (EASY_NEGATIVE, answer.easy_negative),
                (MEDIUM_NEGATIVE, answer.medium_negative),
                (HARD_NEGATIVE, answer.hard_negative),
                (POSITIVE, answer.positive),
            )
        )

    def check_drawing(self, options: GenerateOptions) -> None:
        """Documents need scenes of objects."""
        if not WORLDS[options.family].has_things:
            raise RequestError(
                f"--family {options.family}: documents are written over core or many"
            )

    def draw(self, seed: int, index: int, drawing: Drawing) -> Drawn:
        """Two or three scenes and the four documents around them."""
        return draw_texts(document_group(seed, index, drawing))


def _layout(text: str) -> str:
    """A document in the released layout: pieces with a blank line between them."""
    pieces = re.split(f"({IMAGE_MARK})", text)
    return DOCUMENT_JOINT.join(piece.strip() for piece in pieces if piece.strip())
