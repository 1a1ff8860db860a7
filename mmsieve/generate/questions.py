"""Questions: from a subject to the request about it, and from a reply to the journal."""

import io
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from PIL import Image as PillowImage

from mmsieve.generate.answers import AnswerError, answer_schema, read_answer
from mmsieve.generate.files import image_names
from mmsieve.generate.journal import Entry, Journal
from mmsieve.generate.plan import Picture, Subject
from mmsieve.generate.prompts import AnswerFormat, Prompts, What
from mmsieve.generate.teachers.protocol import Question, Reply, shorten
from mmsieve.images import ImageLimits, decode
from mmsieve.table import write_atomically

_QUALITY = 90


class Questions:
    """What is asked about subjects, and what has been answered."""

    def __init__(
        self,
        what: What,
        prompts: Prompts,
        journal: Journal,
        folder: Path,
        *,
        format: AnswerFormat,
        side: int,
    ) -> None:
        self._what, self._prompts, self._folder = what, prompts, folder
        self._format, self._side = format, side
        self._schema = answer_schema(what)
        self.journal = journal

    def question(self, subject: Subject) -> Question:
        """The request about a subject; the images are encoded anew, small and without EXIF."""
        words = self._prompts.compose(len(subject.pictures), self._schema, self._format)
        images = tuple(_shown(picture, self._side) for picture in subject.pictures)
        return Question(words, images, self._schema, self._format)

    def again(self, subject: Subject, question: Question) -> Question:
        """The question once more, with what was wrong with the last answer, if there was one."""
        problems = self.journal.problems.get(subject.id)
        if not problems:
            return question
        note = f"\n\nAn earlier answer could not be used: {problems[-1]}. Mind this."
        return replace(question, words=question.words + note)

    def keep_images(self, subject: Subject) -> None:
        """Store the images of a subject that will be settled without their bytes."""
        store_images(subject, self._folder)

    def settle(self, subject: Subject, reply: Reply, batch: str | None = None) -> None:
        """Keep a reply in the journal, and the images of one that can be used."""
        answer, problem = None, reply.problem
        if problem is None:
            try:
                answer = read_answer(reply.text, self._what, len(subject.pictures), self._format)
            except AnswerError as error:
                problem = shorten(str(error))
        if answer is not None:
            store_images(subject, self._folder)
        fields = None if answer is None else answer.model_dump()
        self.journal.add(
            Entry(
                subject=subject.id, usage=reply.usage, answer=fields, problem=problem, batch=batch
            )
        )


def store_images(subject: Subject, folder: Path) -> None:
    """Write a subject's images, as they are, where the training files will name them."""
    for name, picture in zip(picture_names(subject), subject.pictures, strict=True):
        path = folder / name
        if picture.data and not path.exists():
            write_atomically(path, partial(_write, picture.data))


def _write(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def picture_names(subject: Subject) -> Sequence[str]:
    """Relative paths of a subject's images."""
    return image_names(subject.id, [picture.suffix for picture in subject.pictures])


def _shown(picture: Picture, side: int) -> bytes:
    """A picture as a JPEG file for a teacher.

    Its EXIF orientation isn't applied, as the models that train on it don't see it applied.
    """
    image = PillowImage.fromarray(decode(picture.data, ImageLimits()))
    image.thumbnail((side, side), PillowImage.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
