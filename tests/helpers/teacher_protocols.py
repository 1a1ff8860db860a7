"""What the two providers' servers read and write, as far as their SDKs and a teacher need it.

Requests are judged as strictly as the real servers judge them: a header, a field or a schema that
those would refuse is a `ProtocolError` here, so a test fails where a user's run would.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Provider = Literal["anthropic", "openai"]

_MAGIC = {b"\x89PNG": "image/png", b"\xff\xd8": "image/jpeg", b"RIFF": "image/webp"}
_MAGIC |= {b"GIF8": "image/gif"}
_UNSUPPORTED = ("minimum", "maximum", "multipleOf", "minLength", "maxLength", "maxItems")
"""JSON schema that Anthropic's structured outputs refuse."""

REFUSED = "I can't help with this image."


class ProtocolError(Exception):
    """A request that the real server refuses, with its status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Ask:
    """What a request asks for, whoever's protocol it came in."""

    provider: Provider
    model: str
    text: str
    """All texts of the conversation, the system's first."""
    images: tuple[bytes, ...]
    schema: dict[str, Any] | None
    """Of the answer, where one is asked for."""
    tool: str | None
    """The tool that must be called with the answer."""

    @property
    def key(self) -> str:
        """The sha256 of the images, or of the text where there are none."""
        sums = [hashlib.sha256(image).digest() for image in self.images]
        return hashlib.sha256(b"".join(sums) or self.text.encode()).hexdigest()


def check_key(provider: Provider, headers: Mapping[str, str]) -> None:
    """Raise ProtocolError where the credentials are not where they belong."""
    is_bearer = headers.get("authorization", "").startswith("Bearer ")
    if provider == "anthropic" and not (is_bearer or headers.get("x-api-key")):
        raise ProtocolError(401, "x-api-key header is required")
    if provider == "openai" and not is_bearer:
        raise ProtocolError(401, "You didn't provide an API key.")


def read_ask(provider: Provider, body: Any) -> Ask:
    """The request in a body; raises ProtocolError."""
    for name in ("model", "messages") + (("max_tokens",) if provider == "anthropic" else ()):
        if not isinstance(body, dict) or name not in body:
            raise ProtocolError(400, f"{name}: Field required")
    blocks: list[Any] = [body.get("system") or ""]
    for message in body["messages"]:
        content = message["content"]
        blocks += content if isinstance(content, list) else [content]
    blocks = [b for block in blocks for b in (block if isinstance(block, list) else [block])]
    texts = [b if isinstance(b, str) else b.get("text", "") for b in blocks]
    read = _anthropic_image if provider == "anthropic" else _openai_image
    images = [read(block) for block in blocks if isinstance(block, dict)]
    schema, tool = (_anthropic_form if provider == "anthropic" else _openai_form)(body)
    return Ask(
        provider,
        body["model"],
        "\n".join(text for text in texts if text),
        tuple(image for image in images if image is not None),
        schema,
        tool,
    )


def _anthropic_image(block: dict[str, Any]) -> bytes | None:
    if block["type"] != "image":
        return None
    source = block["source"]
    if source["type"] != "base64":
        raise ProtocolError(400, f"image source {source['type']}: this server takes base64")
    return _image(source["media_type"], source["data"])


def _openai_image(block: dict[str, Any]) -> bytes | None:
    if block["type"] != "image_url":
        return None
    head, comma, data = block["image_url"]["url"].partition(";base64,")
    if not comma or not head.startswith("data:"):
        raise ProtocolError(400, "image_url: this server takes data URLs")
    return _image(head.removeprefix("data:"), data)


def _image(media_type: str, data: str) -> bytes:
    image = base64.b64decode(data, validate=True)
    found = next((kind for magic, kind in _MAGIC.items() if image.startswith(magic)), "unknown")
    if found != media_type:
        raise ProtocolError(400, f"the image was said to be {media_type}, but it is {found}")
    return image


def _anthropic_form(body: dict[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    wanted = (body.get("output_config") or {}).get("format")
    if wanted is not None:
        _check_schema(wanted["schema"], _UNSUPPORTED)
        return wanted["schema"], None
    choice = body.get("tool_choice") or {}
    tool = next((t for t in body.get("tools") or () if t["name"] == choice.get("name")), None)
    return (tool["input_schema"], tool["name"]) if tool else (None, None)


def _openai_form(body: dict[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        form = wanted["json_schema"]
        if form.get("strict"):
            _check_schema(form["schema"], (), all_required=True)
        return form["schema"], None
    choice = body.get("tool_choice")
    name = choice["function"]["name"] if isinstance(choice, dict) else None
    tools = [tool["function"] for tool in body.get("tools") or ()]
    tool = next((tool for tool in tools if tool["name"] == name), None)
    return (tool["parameters"], name) if tool else (None, None)


def _check_schema(schema: Any, refused: tuple[str, ...], all_required: bool = False) -> None:
    """Raise ProtocolError for what structured outputs do not take."""
    for part in _parts(schema):
        if part.get("type") == "object":
            if part.get("additionalProperties") is not False:
                raise ProtocolError(400, "schema: 'additionalProperties' must be false")
            if all_required and set(part.get("required", ())) != set(part["properties"]):
                raise ProtocolError(400, "schema: 'required' must name every property")
        for name in refused:
            if name in part:
                raise ProtocolError(400, f"schema: property '{name}' is not supported")


def _parts(schema: Any) -> list[dict[str, Any]]:
    """A schema and all schemas inside it."""
    found: list[dict[str, Any]] = [schema]
    for name in ("properties", "$defs"):
        found += [part for child in schema.get(name, {}).values() for part in _parts(child)]
    for name in ("anyOf", "allOf", "prefixItems"):
        found += [part for child in schema.get(name, ()) for part in _parts(child)]
    return found + (_parts(schema["items"]) if isinstance(schema.get("items"), dict) else [])


@dataclass(frozen=True)
class Reply:
    """What the model says: a text (or a tool's arguments) and why it ended."""

    text: str
    end: Literal["done", "length", "refusal"] = "done"


@dataclass(frozen=True)
class Tokens:
    """What an answer is billed for."""

    input: int = 1000
    output: int = 200


def write_reply(ask: Ask, reply: Reply, tokens: Tokens, number: int) -> dict[str, Any]:
    """The body of a 200 answer."""
    write = _anthropic_reply if ask.provider == "anthropic" else _openai_reply
    return write(ask, reply, tokens, number)


def _anthropic_reply(ask: Ask, reply: Reply, tokens: Tokens, number: int) -> dict[str, Any]:
    stop = {"length": "max_tokens", "refusal": "refusal"}.get(reply.end, "end_turn")
    content: list[dict[str, Any]] = [{"type": "text", "text": reply.text}]
    if ask.tool and reply.end != "refusal":
        given = json.loads(reply.text) if reply.end == "done" else {}
        content = [{"type": "tool_use", "id": f"toolu_{number}", "name": ask.tool, "input": given}]
        stop = "tool_use" if stop == "end_turn" else stop
    return {
        "id": f"msg_{number:024d}",
        "type": "message",
        "role": "assistant",
        "model": ask.model,
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {"input_tokens": tokens.input, "output_tokens": tokens.output},
    }


def _openai_reply(ask: Ask, reply: Reply, tokens: Tokens, number: int) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.end == "refusal":
        message |= {"content": None, "refusal": reply.text}
    elif ask.tool:
        call = {"name": ask.tool, "arguments": reply.text}
        message["content"] = None
        message["tool_calls"] = [{"id": f"call_{number}", "type": "function", "function": call}]
    finish = "length" if reply.end == "length" else "stop"
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": ask.model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
        "usage": {
            "prompt_tokens": tokens.input,
            "completion_tokens": tokens.output,
            "total_tokens": tokens.input + tokens.output,
        },
    }


_ANTHROPIC_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def write_error(provider: Provider, status: int, message: str) -> dict[str, Any]:
    """The body of an answer that is not 200."""
    if provider == "anthropic":
        kind = _ANTHROPIC_ERRORS.get(status, "api_error")
        error = {"type": kind, "message": message}
        return {"type": "error", "error": error, "request_id": "req_0"}
    kind = "invalid_request_error" if status < 429 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}
