"""Questions: from a subject to the request about it, and from a reply to the journal."""

import io
from dataclasses import replace
from pathlib import Path

from PIL import Image as PillowImage

from mmsieve.generate.answers import read_answer
from mmsieve.generate.journal import Entry, Journal
from mmsieve.generate.prompts import Prompts
from mmsieve.generate.subjects import Picture, Subject
from mmsieve.generate.tasks.task import AnswerError, Task
from mmsieve.generate.teachers.protocol import AnswerFormat, Question, Reply, shorten
from mmsieve.images import ImageLimits, decode

_QUALITY = 90


class Questions:
    """What is asked about subjects, and what has been answered."""

    def __init__(
        self,
        task: Task,
        prompts: Prompts,
        journal: Journal,
        folder: Path,
        *,
        format: AnswerFormat,
        side: int,
    ) -> None:
        self._task, self._prompts, self._folder = task, prompts, folder
        self._format, self._side = format, side
        self._schema = task.schema()
        self.journal = journal

    def question(self, subject: Subject) -> Question:
        """The request about a subject; the images are encoded anew, small and without EXIF."""
        values = self._task.values(subject)
        words = self._prompts.compose(values, self._schema, self._format)
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
        subject.store_images(self._folder)

    def settle(self, subject: Subject, reply: Reply, batch: str | None = None) -> None:
        """Keep a reply in the journal, and the images of one that can be used."""
        answer, problem = None, reply.problem
        if problem is None:
            try:
                answer = read_answer(reply.text, self._task, subject, self._format)
            except AnswerError as error:
                problem = shorten(str(error))
        if answer is not None:
            subject.store_images(self._folder)
        self.journal.add(
            Entry(
                subject=subject.id, usage=reply.usage, answer=answer, problem=problem, batch=batch
            )
        )


def _shown(picture: Picture, side: int) -> bytes:
    """A picture as a JPEG file for a teacher.

    Its EXIF orientation isn't applied, as the models that train on it don't see it applied.
    """
    image = PillowImage.fromarray(decode(picture.data, ImageLimits()))
    image.thumbnail((side, side), PillowImage.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
