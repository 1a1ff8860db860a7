"""Task: what a teacher is asked to write; all that the rest of `generate` knows of it.

A task says what one request is about (a subject), what the request says, what an answer has to
hold, and which records of a training file become of it.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from mmsieve.generation.images import RawSample
from mmsieve.generation.items import Prompts, Subject
from mmsieve.sample import Kind

Fields: TypeAlias = dict[str, Any]
"""Of an answer, or of a record: what JSON can hold."""


def not_empty(text: str) -> str:
    """The text; raises ValueError where it says nothing."""
    if not text.strip():
        raise ValueError("it is empty")
    return text


def as_json(value: object, indent: int | None = None) -> str:
    """What stands in a prompt as data: nothing in it can pass for the prompt's own words."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


class AnswerError(Exception):
    """An answer can't be used; the message says why in one line."""


class Task(ABC):
    """One kind of training data."""

    name: ClassVar[str]
    unit: ClassVar[str]
    """What its subjects are, in words."""
    noun: ClassVar[str]
    """What its records are, in words."""
    each: ClassVar[int]
    """Records over every subject."""
    tokens: ClassVar[int]
    """Of an answer, as a guess for models that don't think aloud."""
    kinds: ClassVar[tuple[Kind, ...] | None] = None
    """Of the samples that it is about. None: only the images of any source are read, and a folder
    of image files will do."""
    by_folder: ClassVar[bool] = False
    """The image files of one folder are one sample."""

    def settings(self) -> dict[str, object]:
        """Options of its own that change what is generated."""
        return {}

    @abstractmethod
    def subjects(
        self, source: str, raw: RawSample, max_images: int, keep: bool = False
    ) -> list[Subject]:
        """The subjects in a sample; raises SampleError. `keep` keeps the images' bytes."""

    @abstractmethod
    def load_prompts(self, folder: Path | None) -> Prompts:
        """The prompt in a folder of files, the bundled one by default; raises RequestError."""

    @abstractmethod
    def values(self, subject: Subject) -> dict[str, str]:
        """What the prompt says of a subject, by the names of its places."""

    @abstractmethod
    def schema(self) -> dict[str, Any]:
        """The JSON schema that an answer has to follow."""

    @abstractmethod
    def check(self, fields: Any, subject: Subject) -> Fields:
        """An answer that can be used, as the journal keeps it.

        Raises AnswerError, or pydantic's ValidationError where the fields are others.
        """

    @abstractmethod
    def records(self, subject: Subject, answer: Fields) -> Iterator[Fields]:
        """The records, without their ids, that become of a checked answer."""
