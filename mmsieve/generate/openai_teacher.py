"""Teacher behind OpenAI's chat completions, or any server that speaks them (vLLM, SGLang, ...)."""

import base64
from typing import Any

import openai
from pydantic import BaseModel

from mmsieve.generate.teachers import Connection, Question, Reply, Usage, answered, read_body

_ENDED = {"length": "cut off: the answer is longer than --max-tokens", "content_filter": "filtered"}


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(BaseModel):
    """What is read of a chat completion."""

    choices: list[_Choice]
    usage: _Usage | None = None


class OpenAITeacher:
    """Asks a chat completion for each question."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._client = openai.AsyncOpenAI(
            api_key=connection.key,
            base_url=connection.base_url,
            max_retries=connection.max_retries,
            timeout=connection.timeout,
        )

    async def ask(self, question: Question) -> Reply:
        """Ask; raises TeacherError."""
        create = self._client.chat.completions.with_raw_response.create
        parameters = self.parameters(question)
        body = await answered(lambda: create(**parameters), openai.OpenAIError, self._connection)
        return self.reply(body)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    def parameters(self, question: Question) -> dict[str, Any]:
        """The parameters of a request."""
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{_encode(image)}"}}
            for image in question.images
        ]
        content.append({"type": "text", "text": question.words})
        parameters: dict[str, Any] = {
            "model": self._connection.model,
            "max_completion_tokens": self._connection.max_tokens,
            "messages": [{"role": "user", "content": content}],
        }
        if question.format == "schema":
            form = {"name": "texts", "strict": True, "schema": question.schema}
            parameters["response_format"] = {"type": "json_schema", "json_schema": form}
        return parameters

    def reply(self, body: str) -> Reply:
        """The answer in the body of a response."""
        completion: _Completion | None = read_body(_Completion, body)
        if completion is None or not completion.choices:
            return Reply(problem="the response is no chat completion")
        counts = completion.usage or _Usage()
        usage = Usage(counts.prompt_tokens, counts.completion_tokens)
        choice = completion.choices[0]
        problem = _ENDED.get(choice.finish_reason or "")
        if choice.message.refusal:
            problem = f"refused: {self._connection.scrub(choice.message.refusal)}"
        elif problem is None and not choice.message.content:
            problem = "an empty answer"
        text = self._connection.hide(choice.message.content or "")
        return Reply("" if problem else text, problem, usage)


def _encode(image: bytes) -> str:
    return base64.b64encode(image).decode()
