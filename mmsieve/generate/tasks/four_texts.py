"""Four texts: what captions and documents have in common, one text at each level of quality.

One request asks for all four texts of an image (or of a document's images). The images are most
of what a request costs, so a request per level would cost about twice as much; and as the fields
are written in order, the hard negative is still written against the positive, which is in front
of the teacher word for word. What one request can't rule out is checked here: four texts that
differ, and in documents one `<image>` per image.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import Any, ClassVar

from pydantic import BaseModel

from mmsieve.generate.drawn import Drawn, Record
from mmsieve.generate.files import image_names, text_fields
from mmsieve.generate.groups import IMAGE_MARK, Group, LabelledText
from mmsieve.generate.prompts import Prompts, read_prompt_files
from mmsieve.generate.subjects import Subject
from mmsieve.generate.tasks.task import AnswerError, Fields, Task
from mmsieve.levels import LEVELS
from mmsieve.sample import Sample

_SKELETON, _TASK = "skeleton.md", "task.md"
_BLOCKS = ("positive", "hard_negative", "medium_negative", "easy_negative")
"""In the order of writing: the hard negative is written against the positive."""


class FourTexts(Task):
    """A task whose records are texts, one of each level over every subject."""

    noun = "texts"
    each = len(LEVELS)
    answer: ClassVar[type[BaseModel]]

    def load_prompts(self, folder: Path | None) -> Prompts:
        """One skeleton, the task, and a block of requirements per level; raises RequestError.

        The requirements are those of Table 1 of arXiv 2510.15162, in our words: the published
        wording is not public.
        """
        names = [_SKELETON, *(f"{self.name}/{n}" for n in (_TASK, *(f"{b}.md" for b in _BLOCKS)))]
        places = {_SKELETON: ("task", "levels", "answer")}
        (skeleton, task, *blocks), version = read_prompt_files(folder, names, places)
        levels = "\n\n".join(f"{number}. {block}" for number, block in enumerate(blocks, 1))
        return Prompts(Template(skeleton), {"task": Template(task)}, {"levels": levels}, version)

    def values(self, subject: Subject) -> dict[str, str]:
        """How many images there are."""
        images = len(subject.pictures)
        return {
            "images": "one image" if images == 1 else f"{images} images",
            "marks": "one `<image>`" if images == 1 else f"{images} times `<image>`",
        }

    def schema(self) -> dict[str, Any]:
        """The four texts as fields."""
        return self.answer.model_json_schema()

    def check(self, fields: Any, subject: Subject) -> Fields:
        """Four texts that differ, with as many `<image>` as there are images."""
        answer = self.answer.model_validate(fields)
        images = len(subject.pictures)
        _check_texts(self.texts(answer, images), images)
        return answer.model_dump()

    def records(self, subject: Subject, answer: Fields) -> Iterator[Fields]:
        """A record per text, in the order of the levels."""
        read = self.answer.model_validate(answer)
        return text_fields(subject.names, self.texts(read, len(subject.pictures)))

    @abstractmethod
    def texts(self, answer: Any, images: int) -> tuple[LabelledText, ...]:
        """The texts of an answer over so many images, in the order of the levels."""


def draw_texts(group: Group) -> Drawn:
    """A group of the rendered teacher as records."""
    names = image_names(group.key, ["png"] * len(group.images))
    records = zip(text_fields(names, group.texts), group.texts, strict=True)
    return Drawn(
        group.key,
        group.images,
        tuple(Record(fields, _sample(group, told)) for fields, told in records),
    )


def _sample(group: Group, told: LabelledText) -> Sample:
    return replace(group.sample(told), metadata={"level": int(told.label)})


def _check_texts(texts: tuple[LabelledText, ...], images: int) -> None:
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
