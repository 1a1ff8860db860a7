"""Teacher behind Anthropic's messages, or a server that speaks them.

The answer is held to its schema by `output_config.format`, not by a forced tool: models that
always think refuse forced tools.
"""

import json
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from typing import Any

import anthropic
from pydantic import BaseModel

from mmsieve.clients.connection import NoAnswerError
from mmsieve.clients.servers import Sdk
from mmsieve.clients.teacher import ModelRequest, Reply, Teacher, Usage, read_body

_ENDED = {
    "max_tokens": "cut off: the answer is longer than --max-tokens",
    "model_context_window_exceeded": "cut off: the model's context is full",
    "refusal": "refused",
}


class _ContentBlock(BaseModel):
    type: str
    text: str = ""


class _MessageUsage(BaseModel):
    input_tokens: int = 0
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int = 0


class _ModelMessage(BaseModel):
    """What is read of a message."""

    content: list[_ContentBlock]
    stop_reason: str | None = None
    usage: _MessageUsage = _MessageUsage()


class _MessageBatch(BaseModel):
    id: str
    processing_status: str
    request_counts: dict[str, int] = {}


class _MessageBatches(BaseModel):
    data: list[_MessageBatch]


class _MessageOutcome(BaseModel):
    type: str
    message: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


class _MessageResult(BaseModel):
    custom_id: str
    result: _MessageOutcome


class AnthropicTeacher(Teacher):
    """Asks for a message per request."""

    sdk = Sdk(anthropic.AsyncAnthropic, anthropic.AnthropicError, anthropic.Timeout)

    async def ask(self, request: ModelRequest) -> Reply:
        """Ask; raises NoAnswerError."""
        parameters = self.parameters(request)
        return self.reply(
            await self.body(lambda client: client.messages.with_raw_response.create(**parameters))
        )

    async def submit(self, token: str, requests: Mapping[str, ModelRequest]) -> str:
        """Send a batch; raises NoAnswerError."""
        params: list[Any] = [
            {"custom_id": name, "params": self.parameters(request)}
            for name, request in requests.items()
        ]

        def create(client: Any) -> Any:
            return client.messages.batches.with_raw_response.create(requests=params)

        # Once: if the answer to this request is lost, another would be paid for twice.
        return (await self.read(_MessageBatch, create, once=True)).id

    async def candidates(self, token: str, count: int) -> list[str]:
        """The batches of so many requests: a token is only in the names of requests."""
        page = await self.read(
            _MessageBatches,
            lambda client: client.messages.batches.with_raw_response.list(limit=100),
        )
        return [one.id for one in page.data if sum(one.request_counts.values()) == count]

    async def is_ended(self, batch: str) -> bool:
        """Whether a batch has its answers; raises NoAnswerError."""
        found = await self.read(
            _MessageBatch, lambda client: client.messages.batches.with_raw_response.retrieve(batch)
        )
        return found.processing_status == "ended"

    async def results(self, batch: str) -> AsyncIterator[tuple[str, Reply | NoAnswerError]]:
        """The answers of an ended batch; raises NoAnswerError."""
        # A stream, which is begun again by the SDK: no answer in it is paid for anew.
        client = self._servers.client.with_options(max_retries=self._connection.max_retries)
        try:
            async for line in await client.messages.batches.results(batch):
                if result := read_body(_MessageResult, line.to_json()):
                    yield result.custom_id, self._result(result.result)
        except (anthropic.AnthropicError, ValueError) as error:
            raise self._connection.as_trouble(error) from None

    def _result(self, result: _MessageOutcome) -> Reply | NoAnswerError:
        if result.type == "succeeded":
            return self.reply(json.dumps(result.message))
        words = json.dumps(result.error) if result.error else result.type
        return self._connection.by_status(400 if "invalid_request_error" in words else None, words)

    def parameters(self, request: ModelRequest) -> dict[str, Any]:
        """The parameters of a request."""
        jpeg = {"type": "base64", "media_type": "image/jpeg"}
        encoded = (b64encode(image).decode() for image in request.images)
        content: list[dict[str, Any]] = [
            *({"type": "image", "source": {**jpeg, "data": data}} for data in encoded),
            {"type": "text", "text": request.prompt},
        ]
        parameters: dict[str, Any] = {
            "model": self._connection.model,
            "max_tokens": self._connection.max_tokens,
            "messages": [{"role": "user", "content": content}],
        }
        if request.format == "schema":
            form = {"type": "json_schema", "schema": request.schema}
            parameters["output_config"] = {"format": form}
        return parameters

    def reply(self, body: str) -> Reply:
        """The answer in the body of a response."""
        message = read_body(_ModelMessage, body)
        if message is None:
            return Reply(problem="the response is no message")
        counts = message.usage
        cached = (counts.cache_creation_input_tokens or 0) + (counts.cache_read_input_tokens or 0)
        usage = Usage(counts.input_tokens + cached, counts.output_tokens)
        text = "".join(block.text for block in message.content if block.type == "text")
        problem = _ENDED.get(message.stop_reason or "") or (None if text else "an empty answer")
        return Reply("" if problem else self._connection.hide(text), problem, usage)
