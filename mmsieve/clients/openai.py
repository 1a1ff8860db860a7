"""Teacher behind OpenAI's chat completions, or any server that speaks them (vLLM, SGLang, ...)."""

import json
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any, Final

import openai
from pydantic import BaseModel

from mmsieve.clients.connection import NoAnswerError
from mmsieve.clients.servers import Sdk
from mmsieve.clients.teacher import ModelRequest, Reply, Teacher, Usage, read_body

SDK: Final = Sdk(openai.AsyncOpenAI, openai.OpenAIError, openai.Timeout)
_URL: Final = "/v1/chat/completions"

_ENDED = {"length": "cut off: the answer is longer than --max-tokens", "content_filter": "filtered"}


class _ChatMessage(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _ChatChoice(BaseModel):
    message: _ChatMessage
    finish_reason: str | None = None


class _ChatUsage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _ChatCompletion(BaseModel):
    """What is read of a chat completion."""

    choices: list[_ChatChoice]
    usage: _ChatUsage | None = None


class _Named(BaseModel):
    id: str


class _FileBatch(_Named):
    status: str
    metadata: dict[str, str] | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: dict[str, Any] | None = None


class _FileBatches(BaseModel):
    data: list[_FileBatch]


class _FileLine(BaseModel):
    custom_id: str
    response: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


class OpenAITeacher(Teacher):
    """Asks for a chat completion per request."""

    sdk = SDK

    async def ask(self, request: ModelRequest) -> Reply:
        """Ask; raises NoAnswerError."""
        parameters = self.parameters(request)
        return self.reply(
            await self.body(
                lambda client: client.chat.completions.with_raw_response.create(**parameters)
            )
        )

    async def submit(self, token: str, requests: Mapping[str, ModelRequest]) -> str:
        """Send a batch; raises NoAnswerError."""
        lines = [
            {"custom_id": name, "method": "POST", "url": _URL, "body": self.parameters(request)}
            for name, request in requests.items()
        ]
        data = "\n".join(json.dumps(line) for line in lines).encode()
        content = {"file": ("b.jsonl", data), "purpose": "batch"}
        file = await self.read(
            _Named, lambda client: client.files.with_raw_response.create(**content)
        )
        wanted = {"completion_window": "24h", "endpoint": _URL, "metadata": {"token": token}}
        wanted["input_file_id"] = file.id

        def create(client: Any) -> Any:
            return client.batches.with_raw_response.create(**wanted)

        # Once: if the answer to this request is lost, another would be paid for twice.
        return (await self.read(_Named, create, once=True)).id

    async def candidates(self, token: str, count: int) -> list[str]:
        """The batch of a token, if there is one; raises NoAnswerError."""
        page = await self.read(
            _FileBatches, lambda client: client.batches.with_raw_response.list(limit=100)
        )
        return [one.id for one in page.data if (one.metadata or {}).get("token") == token]

    async def is_ended(self, batch: str) -> bool:
        """Whether a batch has its answers; raises NoAnswerError."""
        return (await self._batch(batch)).status in ("completed", "failed", "expired", "cancelled")

    async def results(self, batch: str) -> AsyncIterator[tuple[str, Reply | NoAnswerError]]:
        """The answers of an ended batch; raises NoAnswerError."""
        made = await self._batch(batch)
        if made.errors:
            raise NoAnswerError("refused", self._connection.scrub(json.dumps(made.errors)))
        for file in filter(None, (made.output_file_id, made.error_file_id)):
            body = await self.body(partial(_download, file))
            for line in body.splitlines():
                if result := read_body(_FileLine, line):
                    yield result.custom_id, self._result(result)

    def _result(self, result: _FileLine) -> Reply | NoAnswerError:
        response = result.response or {}
        body = json.dumps(response.get("body"))
        if response.get("status_code") == 200:
            return self.reply(body)
        words = json.dumps(result.error) if result.error else body
        return self._connection.by_status(response.get("status_code"), words)

    async def _batch(self, batch: str) -> _FileBatch:
        return await self.read(
            _FileBatch, lambda client: client.batches.with_raw_response.retrieve(batch)
        )

    def parameters(self, request: ModelRequest) -> dict[str, Any]:
        """The parameters of a request."""
        urls = (f"data:image/jpeg;base64,{b64encode(image).decode()}" for image in request.images)
        content: list[dict[str, Any]] = [
            *({"type": "image_url", "image_url": {"url": url}} for url in urls),
            {"type": "text", "text": request.prompt},
        ]
        parameters: dict[str, Any] = {
            "model": self._connection.model,
            "max_completion_tokens": self._connection.max_tokens,
            "messages": [{"role": "user", "content": content}],
        }
        if request.format == "schema":
            form = {"name": "texts", "strict": True, "schema": request.schema}
            parameters["response_format"] = {"type": "json_schema", "json_schema": form}
        return parameters

    def reply(self, body: str) -> Reply:
        """The answer in the body of a response."""
        completion = read_body(_ChatCompletion, body)
        if completion is None or not completion.choices:
            return Reply(problem="the response is no chat completion")
        counts = completion.usage or _ChatUsage()
        usage = Usage(counts.prompt_tokens, counts.completion_tokens)
        choice = completion.choices[0]
        problem = _ENDED.get(choice.finish_reason or "")
        if choice.message.refusal:
            problem = f"refused: {self._connection.scrub(choice.message.refusal)}"
        elif problem is None and not choice.message.content:
            problem = "an empty answer"
        text = self._connection.hide(choice.message.content or "")
        return Reply("" if problem else text, problem, usage)


def _download(file: str, client: Any) -> Any:
    return client.files.with_raw_response.content(file)
