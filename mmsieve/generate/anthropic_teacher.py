"""Teacher behind Anthropic's messages, or a server that speaks them.

The answer is held to its schema by `output_config.format`, not by a forced tool: models that
always think refuse forced tools.
"""

import base64
from typing import Any

import anthropic
from pydantic import BaseModel

from mmsieve.generate.teachers import Connection, Question, Reply, Usage, answered, read_body

_ENDED = {
    "max_tokens": "cut off: the answer is longer than --max-tokens",
    "model_context_window_exceeded": "cut off: the model's context is full",
    "refusal": "refused",
}


class _Block(BaseModel):
    type: str
    text: str = ""


class _Usage(BaseModel):
    input_tokens: int = 0
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    output_tokens: int = 0


class _Message(BaseModel):
    """What is read of a message."""

    content: list[_Block]
    stop_reason: str | None = None
    usage: _Usage = _Usage()


class AnthropicTeacher:
    """Asks a message for each question."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._client = anthropic.AsyncAnthropic(
            api_key=connection.key,
            base_url=connection.base_url,
            max_retries=connection.max_retries,
            timeout=connection.timeout,
        )

    async def ask(self, question: Question) -> Reply:
        """Ask; raises TeacherError."""
        create = self._client.messages.with_raw_response.create
        parameters = self.parameters(question)
        body = await answered(
            lambda: create(**parameters), anthropic.AnthropicError, self._connection
        )
        return self.reply(body)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def parameters(self, question: Question) -> dict[str, Any]:
        """The parameters of a request."""
        content: list[dict[str, Any]] = [
            {
                "type": "image",
                "source": {
                    "type": "base64",
                    "media_type": "image/jpeg",
                    "data": base64.b64encode(image).decode(),
                },
            }
            for image in question.images
        ]
        content.append({"type": "text", "text": question.words})
        parameters: dict[str, Any] = {
            "model": self._connection.model,
            "max_tokens": self._connection.max_tokens,
            "messages": [{"role": "user", "content": content}],
        }
        if question.format == "schema":
            form = {"type": "json_schema", "schema": question.schema}
            parameters["output_config"] = {"format": form}
        return parameters

    def reply(self, body: str) -> Reply:
        """The answer in the body of a response."""
        message: _Message | None = read_body(_Message, body)
        if message is None:
            return Reply(problem="the response is no message")
        counts = message.usage
        cached = (counts.cache_creation_input_tokens or 0) + (counts.cache_read_input_tokens or 0)
        usage = Usage(counts.input_tokens + cached, counts.output_tokens)
        text = "".join(block.text for block in message.content if block.type == "text")
        problem = _ENDED.get(message.stop_reason or "") or (None if text else "an empty answer")
        return Reply("" if problem else self._connection.hide(text), problem, usage)
