"""Asks a server for AITQE's answers, a bounded number of requests at a time."""

import asyncio
from collections.abc import Coroutine, Iterable, Iterator
from typing import Any, TypeAlias

import openai
from pydantic import BaseModel

from mmsieve.clients.connection import Connection, SdkTeacher, TeacherError
from mmsieve.engine.annotator import Row
from mmsieve.errors import SampleError, ShardError, Status
from mmsieve.methods.aitqe.annotator import EnhanceOptions
from mmsieve.methods.aitqe.answers import MARKER, AnswerError, read_answer
from mmsieve.methods.aitqe.endpoint import Endpoint, EndpointItem
from mmsieve.methods.aitqe.rows import Answer, kept

Result: TypeAlias = tuple[int, Row | SampleError]
Outcome: TypeAlias = tuple[int, Row | SampleError | ShardError]
Asked: TypeAlias = "asyncio.Task[Outcome]"

_RETRIES = 4
"""After 429, 5xx, a timeout or a broken connection."""
_TIMEOUT = 300.0
"""Seconds of silence after which a request has failed: local servers queue."""


class _Choice(BaseModel):
    message: dict[str, Any]
    finish_reason: str | None = None


class _Completion(BaseModel):
    """What is read of a chat completion."""

    choices: list[_Choice]


class EndpointRunner:
    """Rows of a stream of items, in the order in which the answers come."""

    def __init__(self, endpoint: Endpoint, key: str, enhancing: EnhanceOptions) -> None:
        self._connection = Connection(
            provider="openai",
            model=endpoint.model,
            key=key,
            base_url=endpoint.url,
            max_retries=_RETRIES,
            timeout=_TIMEOUT,
            max_tokens=enhancing.max_new_tokens,
        )
        self._enhancing = enhancing
        self._rows = enhancing.rows
        self.notes = {"endpoint": f"{endpoint.url}#{endpoint.model}"}

    def run(self, items: Iterable[tuple[int, EndpointItem]]) -> Iterator[Result]:
        """Rows for a stream of (index, item).

        Raises ShardError where the server can't be reached or doesn't know the model or the key;
        a request that it refuses is that sample's error.
        """
        with asyncio.Runner() as loop:
            client = SdkTeacher(self._connection, openai.AsyncOpenAI, openai.OpenAIError)
            pending: set[Asked] = set()
            try:
                for index, item in items:
                    pending.add(loop.run(_start(self._ask(client, index, item))))
                    if len(pending) == self._enhancing.concurrency:
                        done, pending = loop.run(_wait(pending))
                        yield from _results(done)
                while pending:
                    done, pending = loop.run(_wait(pending))
                    yield from _results(done)
            finally:
                loop.run(_stop(pending, client))

    async def _ask(self, client: SdkTeacher, index: int, item: EndpointItem) -> Outcome:
        """The row of an item; an error of the shard is returned too, so that none is lost."""
        create = client.client.chat.completions.with_raw_response.create
        try:
            completion = await client.read(_Completion, lambda: create(**self._parameters(item)))
        except TeacherError as error:
            if error.trouble != "refused":
                return index, ShardError(f"the endpoint: {error}")
            message = f"the endpoint refused: {error}"
            return index, SampleError(Status.MODEL_OUTPUT_INVALID, message, kept(item.caption))
        choice = completion.choices[0] if completion.choices else _Choice(message={})
        text = str(choice.message.get("content") or "").strip()
        if choice.finish_reason == "stop":
            text = _with_marker(text)
        return index, self._rows.make(Answer(caption=item.caption, text=text))

    def _parameters(self, item: EndpointItem) -> dict[str, Any]:
        parameters: dict[str, Any] = {
            "model": self._connection.model,
            "max_completion_tokens": self._connection.max_tokens,
            "temperature": 0,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": item.url}},
                        {"type": "text", "text": item.words},
                    ],
                }
            ],
        }
        return parameters if self._enhancing.explain else {**parameters, "stop": [MARKER]}


def _with_marker(text: str) -> str:
    """The answer with the marker that it stopped at, which servers leave out."""
    try:
        read_answer(text)
    except AnswerError:
        return text + MARKER
    return text


def _results(done: set[Asked]) -> Iterator[Result]:
    for index, row in [task.result() for task in done]:
        if isinstance(row, ShardError):
            raise row
        yield index, row


async def _start(asking: Coroutine[Any, Any, Outcome]) -> Asked:
    return asyncio.create_task(asking)


async def _wait(pending: set[Asked]) -> tuple[set[Asked], set[Asked]]:
    return await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)


async def _stop(pending: set[Asked], client: SdkTeacher) -> None:
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    await client.close()
