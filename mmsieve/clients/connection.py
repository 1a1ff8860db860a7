"""Connections to models behind an API: what is sent, what comes back, what can go wrong.

They retry by themselves (429, 5xx, timeouts, broken connections; Retry-After, else backoff with
jitter). What reaches us is an answer, which may be a bad one, or a TeacherError.
"""

import asyncio
import os
import re
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import BaseModel

from mmsieve.errors import MmsieveError, RequestError
from mmsieve.sanitize import redact
from mmsieve.sources import one_line

Trouble: TypeAlias = Literal["stop", "refused", "failed"]
"""stop: no request can succeed (key, model, money). refused: this request can't (400 and the
like). failed: it may succeed another time (retries used up)."""

AnswerFormat: TypeAlias = Literal["schema", "json"]
"""How an answer is held to its fields: by a JSON schema, or by the words of the request alone."""

M = TypeVar("M", bound=BaseModel)

_STOP = (401, 402, 403, 404)
_REFUSED = (400, 413, 415, 422)
_KEY_LIKE = re.compile(r"\b(sk|key)-[\w*.-]{6,}")
_LONGEST = 300
_SECRET = 6
"""Letters of a secret; shorter ones are stand-ins, and words of any text."""


class TeacherError(MmsieveError):
    """A request got no answer."""

    def __init__(self, trouble: Trouble, message: str) -> None:
        super().__init__(message)
        self.trouble = trouble


@dataclass(frozen=True)
class ModelRequest:
    """One request: a prompt, and images as JPEG files."""

    prompt: str
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

    @cached_property
    def secrets(self) -> list[str]:
        """The key, and what lets somebody in of the address; the longest first."""
        address = urlsplit(self.base_url or "")
        login = unquote(address.netloc.rpartition("@")[0])
        header = b64encode(login.encode()).decode()
        public = redact(self.base_url or "")
        query = [value for _, value in parse_qsl(address.query) if value not in public]
        found = {self.key, login, login.partition(":")[2], header, *query}
        return sorted((each for each in found if len(each) >= _SECRET), key=len, reverse=True)

    def hide(self, text: str) -> str:
        """A text without the secrets."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    def scrub(self, text: str) -> str:
        """A text in one line, without secrets or anything like a key, and not too long."""
        return shorten(_KEY_LIKE.sub("***", self.hide(text)))


def shorten(text: str) -> str:
    """A text in one line that isn't too long."""
    plain = " ".join(text.split())
    return plain if len(plain) <= _LONGEST else plain[: _LONGEST - 3] + "..."


def request_name(item: str, token: str) -> str:
    """The name of a request in a batch: the token tells whose batch it is."""
    return f"{item}-{token}"


class Teacher(ABC):
    """Answers requests through the client of an SDK, whose errors become TeacherErrors.

    It holds connections, so `close` it.
    """

    sdk: ClassVar[Any]
    """The SDK's class of clients."""
    errors: ClassVar[type[Exception]]
    """What the SDK raises."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        address, _, query = (connection.base_url or "").partition("?")
        self.client = self.sdk(
            api_key=connection.key,
            base_url=address or None,
            default_query=dict(parse_qsl(query)),
            max_retries=connection.max_retries,
            timeout=connection.timeout,
        )

    @abstractmethod
    async def ask(self, request: ModelRequest) -> Reply:
        """Ask; raises TeacherError."""

    @abstractmethod
    async def submit(self, token: str, requests: Mapping[str, ModelRequest]) -> str:
        """Send a batch of requests by name; returns its id. Sent once: raises TeacherError."""

    @abstractmethod
    async def candidates(self, token: str, count: int) -> list[str]:
        """The ids of batches that may be one of so many requests whose id was lost."""

    @abstractmethod
    async def is_ended(self, batch: str) -> bool:
        """Whether a batch has its answers; raises TeacherError."""

    @abstractmethod
    def results(self, batch: str) -> AsyncIterator[tuple[str, Reply | TeacherError]]:
        """The answers of an ended batch by name, in any order; raises TeacherError."""

    def as_trouble(self, error: Exception) -> TeacherError:
        """An SDK's error as ours, without the key: `from None`, as its cause may hold it."""
        out_of_money = getattr(error, "code", None) == "insufficient_quota"
        status = 402 if out_of_money else getattr(error, "status_code", None)
        return self.by_status(status, one_line(error))

    def by_status(self, status: int | None, words: str) -> TeacherError:
        """The error that an HTTP status means."""
        trouble: Trouble = "refused" if status in _REFUSED else "failed"
        return TeacherError("stop" if status in _STOP else trouble, self._connection.scrub(words))

    async def body(self, call: Callable[[], Awaitable[Any]]) -> str:
        """The body of a response; raises TeacherError.

        The SDK's timeout is for silence, and it obeys any Retry-After: a bound for the whole call
        keeps a server that drips, or asks to come back next week, from holding a worker for ever.
        """
        most = (self._connection.max_retries + 1) * (self._connection.timeout + 60)
        try:
            async with asyncio.timeout(most):
                response = await call()
            body: str = response.http_response.text
        except TimeoutError:
            raise TeacherError("failed", f"no answer within {most:.0f} s") from None
        except self.errors as error:
            raise self.as_trouble(error) from None
        return body

    async def read(self, model: type[M], call: Callable[[], Awaitable[Any]]) -> M:
        """A response as a model; raises TeacherError, also where it is something else."""
        found = read_body(model, await self.body(call))
        if found is None:
            raise TeacherError("failed", "the response is not what the protocol says")
        return found

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()


def read_body(model: type[M], body: str) -> M | None:
    """A response as the provider promises it, or None where it isn't: SDKs don't check."""
    try:
        return model.model_validate_json(body)
    except ValueError:
        return None


_KEYS = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}
NO_KEY = "none"
"""A server of one's own may want no key, but the SDKs want one."""


def split_name(name: str) -> tuple[str, str]:
    """Provider and model of `provider:MODEL`; raises RequestError."""
    provider, _, model = name.partition(":")
    if provider not in _KEYS or not model:
        raise RequestError(
            f"--teacher {name}: not rendered, anthropic:MODEL or openai:MODEL (with --base-url "
            "any server that speaks the same protocol)"
        )
    return provider, model


def api_key(provider: str, base_url: str | None) -> str:
    """The key from the environment; raises RequestError where it is missing and needed."""
    if find_spec(provider) is None:
        raise RequestError(
            f"--teacher {provider}: needs a package: pip install 'mmsieve[teachers]'"
        )
    key = os.environ.get(_KEYS[provider], "").strip()
    if key or base_url is not None:
        return key or NO_KEY
    raise RequestError(f"--teacher {provider}: set {_KEYS[provider]} in the environment")


def open_teacher(connection: Connection) -> Teacher:
    """The teacher of a provider."""
    if connection.provider == "anthropic":
        from mmsieve.clients.anthropic import AnthropicTeacher

        return AnthropicTeacher(connection)
    from mmsieve.clients.openai import OpenAITeacher

    return OpenAITeacher(connection)
