"""Teachers: models that are asked for texts, behind a provider's API or a server that speaks it."""

import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar, Literal, TypeAlias, TypeVar

from pydantic import BaseModel

from mmsieve.clients.connection import NO_KEY, Connection, NoAnswerError
from mmsieve.clients.servers import Call, Sdk, Servers
from mmsieve.errors import RequestError

AnswerFormat: TypeAlias = Literal["schema", "json"]
"""How an answer is held to its fields: by a JSON schema, or by the words of the request alone."""

M = TypeVar("M", bound=BaseModel)


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


def request_name(item: str, token: str) -> str:
    """The name of a request in a batch: the token tells whose batch it is."""
    return f"{item}-{token}"


class Teacher(ABC):
    """Answers requests through the client of an SDK, whose errors become NoAnswerErrors.

    It holds connections, so `close` it.
    """

    sdk: ClassVar[Sdk]
    """The provider's package."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._servers = Servers([connection], self.sdk)

    @abstractmethod
    async def ask(self, request: ModelRequest) -> Reply:
        """Ask; raises NoAnswerError."""

    @abstractmethod
    async def submit(self, token: str, requests: Mapping[str, ModelRequest]) -> str:
        """Send a batch of requests by name; returns its id. Sent once: raises NoAnswerError."""

    @abstractmethod
    async def candidates(self, token: str, count: int) -> list[str]:
        """The ids of batches that may be one of so many requests whose id was lost."""

    @abstractmethod
    async def is_ended(self, batch: str) -> bool:
        """Whether a batch has its answers; raises NoAnswerError."""

    @abstractmethod
    def results(self, batch: str) -> AsyncIterator[tuple[str, Reply | NoAnswerError]]:
        """The answers of an ended batch by name, in any order; raises NoAnswerError."""

    async def body(self, call: Call, once: bool = False) -> str:
        """The body of a response; raises NoAnswerError. `once`: it is never sent again."""
        return await self._servers.send(call, str, once=once)

    async def read(self, model: type[M], call: Call, once: bool = False) -> M:
        """A response as a model; raises NoAnswerError, also where it is something else."""
        found = read_body(model, await self.body(call, once))
        if found is None:
            raise NoAnswerError("failed", "the response is not what the protocol says")
        return found

    async def close(self) -> None:
        """Close the connections."""
        await self._servers.close()


def read_body(model: type[M], body: str) -> M | None:
    """A response as the provider promises it, or None where it isn't: SDKs don't check."""
    try:
        return model.model_validate_json(body)
    except ValueError:
        return None


_KEYS = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}


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
