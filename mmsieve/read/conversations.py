"""Turns of an instruction item: LLaVA's `conversations`, or the `messages` of chat APIs."""

from collections.abc import Mapping
from typing import Any

from mmsieve.errors import SampleError, Status
from mmsieve.read.captions import decode_text
from mmsieve.sample import Role, Turn

TURNS = ("conversations", "messages")
"""Fields that may hold the turns, the first that does is read."""

MARK = "<image>"
"""What stands in a turn's text wherever an image does."""

_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
}
_TEXT_PARTS = ("text", "input_text", "output_text")
_IMAGE_PARTS = ("image", "image_url", "input_image")


def read_turns(item: Mapping[str, Any]) -> tuple[list[Turn], list[Any]]:
    """The turns of an item, and the images that they name themselves; raises SampleError.

    A turn is {`from`, `value`} or {`role`, `content`}. A content that is a list of parts becomes a
    text with the parts on lines of their own, each image as its mark.
    """
    name = next((name for name in TURNS if item.get(name) is not None), None)
    if name is None:
        raise SampleError(Status.TEXT_MISSING, f"neither {' nor '.join(TURNS)}")
    turns, images = item[name], list[Any]()
    if not isinstance(turns, list):
        raise SampleError(Status.JSON_INVALID, f"`{name}` is not a list of turns")
    if not turns:
        raise SampleError(Status.TEXT_MISSING, f"`{name}` is empty")
    return [_turn(turn, number, images) for number, turn in enumerate(turns)], images


def _turn(turn: Any, number: int, images: list[Any]) -> Turn:
    if not isinstance(turn, Mapping):
        raise SampleError(Status.JSON_INVALID, f"turn {number} is not an object")
    role = turn.get("role") if turn.get("from") is None else turn["from"]
    content = turn.get("content") if turn.get("value") is None else turn["value"]
    if not isinstance(role, str) or role not in _ROLES:
        raise SampleError(
            Status.JSON_INVALID,
            f"turn {number} is from {role!r:.40}, not one of {', '.join(_ROLES)}",
        )
    if content is None:
        raise SampleError(Status.TEXT_MISSING, f"turn {number} has no text")
    parts = content if isinstance(content, list) else [content]
    return Turn(_ROLES[role], "\n".join(_part(part, number, images) for part in parts))


def _part(part: Any, number: int, images: list[Any]) -> str:
    """A part's text; the image that it names is added to `images`."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in _IMAGE_PARTS:
        named = [part[name] for name in ("image", "image_url", "url", "path") if part.get(name)]
        images += [n["url"] if isinstance(n, Mapping) and "url" in n else n for n in named[:1]]
        return MARK
    text = part.get("text") if kind in _TEXT_PARTS else part
    if isinstance(text, bytes):  # of a Parquet column that is not UTF-8
        return decode_text(text)
    if not isinstance(text, str):
        what = f"a part of type {kind!r:.40}" if kind is not None else type(part).__name__
        raise SampleError(
            Status.JSON_INVALID, f"turn {number} holds {what}, neither text nor image"
        )
    return text
