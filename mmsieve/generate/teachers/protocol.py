"""What a teacher is asked, what it answers, and the trouble it may meet instead."""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from mmsieve.errors import MmsieveError
from mmsieve.listing import one_line

Trouble: TypeAlias = Literal["stop", "refused", "failed"]
"""stop: no request can succeed (key, model, money). refused: this request can't (400 and the
like). failed: it may succeed another time (retries used up)."""

AnswerFormat: TypeAlias = Literal["schema", "json"]
"""How an answer is held to its fields: by a JSON schema, or by the words of the request alone."""

_STOP = (401, 402, 403, 404)
_REFUSED = (400, 413, 415, 422)
_KEY_LIKE = re.compile(r"\b(sk|key)-[\w*.-]{6,}")
_LONGEST = 300
_SECRET = 8
"""Letters of a key that is one; shorter ones are stand-ins, and words of any text."""


class TeacherError(MmsieveError):
    """A request got no answer."""

    def __init__(self, trouble: Trouble, message: str) -> None:
        super().__init__(message)
        self.trouble = trouble


@dataclass(frozen=True)
class Question:
    """One request: the words, and the images as JPEG files."""

    words: str
    images: tuple[bytes, ...]
    schema: dict[str, Any]
    format: AnswerFormat

    @property
    def size(self) -> int:
        """Bytes of the images as they are sent."""
        return sum(len(image) * 4 // 3 for image in self.images)


@dataclass(frozen=True)
class Usage:
    """Tokens that an answer was billed for."""

    input: int = 0
    output: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(self.input + other.input, self.output + other.output)


@dataclass(frozen=True)
class Reply:
    """An answer as it came: its text, or why there is none."""

    text: str = ""
    problem: str | None = None
    usage: Usage = Usage()


@dataclass(frozen=True, kw_only=True)
class Connection:
    """How a teacher is reached."""

    provider: str
    model: str
    key: str = field(repr=False)
    base_url: str | None
    max_retries: int
    timeout: float
    """Seconds without a byte of an answer."""
    max_tokens: int
    """Of an answer, thinking included."""

    def hide(self, text: str) -> str:
        """A text without the key."""
        return text if len(self.key) < _SECRET else text.replace(self.key, "***")

    def scrub(self, text: str) -> str:
        """A text in one line, without the key or anything like one, and not too long."""
        return shorten(_KEY_LIKE.sub("***", self.hide(text)))


def shorten(text: str) -> str:
    """A text in one line that isn't too long."""
    plain = " ".join(text.split())
    return plain if len(plain) <= _LONGEST else plain[: _LONGEST - 3] + "..."


class Teacher(Protocol):
    """Answers questions; holds connections, so `close` it."""

    async def ask(self, question: Question) -> Reply:
        """Ask; raises TeacherError."""
        ...

    async def submit(self, token: str, questions: Mapping[str, Question]) -> str:
        """Send a batch of questions by name; returns its id. Sent once: raises TeacherError."""
        ...

    async def candidates(self, token: str, count: int) -> list[str]:
        """The ids of batches that may be one of so many requests whose id was lost."""
        ...

    async def is_ended(self, batch: str) -> bool:
        """Whether a batch has its answers; raises TeacherError."""
        ...

    def results(self, batch: str) -> AsyncIterator[tuple[str, Reply | TeacherError]]:
        """The answers of an ended batch by name, in any order; raises TeacherError."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


def as_trouble(error: Exception, connection: Connection) -> TeacherError:
    """An SDK's error as ours, without the key: `from None`, as its cause may hold it."""
    out_of_money = getattr(error, "code", None) == "insufficient_quota"
    status = 402 if out_of_money else getattr(error, "status_code", None)
    return by_status(status, one_line(error), connection)


def by_status(status: int | None, words: str, connection: Connection) -> TeacherError:
    """The error that an HTTP status means."""
    trouble: Trouble = "refused" if status in _REFUSED else "failed"
    return TeacherError("stop" if status in _STOP else trouble, connection.scrub(words))


def request_name(subject: str, token: str) -> str:
    """The name of a request in a batch: the token tells whose batch it is."""
    return f"{subject}-{token}"
