"""Conversations as instruction items hold them: which fields, whose words, where images stand.

Every form comes to the same: turns of a role and a text, with an `<image>` wherever an image
stands, and the images that the turns name themselves.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pyarrow as pa

from mmsieve.errors import SampleError, Status
from mmsieve.read import decode_text
from mmsieve.read.json_items import parse_json
from mmsieve.read.parquet import is_text, is_turns
from mmsieve.sample import Role, Turn

MARK = "<image>"
"""What stands in a turn's text wherever an image does."""

Said: TypeAlias = Iterator[tuple[Any, Any, bool]]
"""Who says it, and what, as they stand in the item, unchecked; whether that is LLaVA's `from`."""

_QUESTION, _ANSWER = "What is it?", "A cat."
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
_PART_VALUES = ("image", "image_url", "url", "path")
_OTHER_MEDIA = ("video", "videos", "audio", "audios")
_OTHER_MARK = re.compile(rf"^\s*(?:{MARK}\s*)*<(?:video|audio)>", re.MULTILINE)
"""Where such a mark stands; inside a sentence it is a tag that somebody writes about."""
_TAG = re.compile(r"<img>([^<>\n]+)</img>|<image_\d+>")
"""An image in a text: Qwen-VL's path, MiniCPM-V's name."""


@dataclass(frozen=True)
class ConversationForm:
    """One way in which an item holds a conversation."""

    fields: tuple[str, ...]
    """It has all of them."""
    whose: str
    """Trainers and data sets that have it."""
    example: Mapping[str, Any]
    says: Callable[[Mapping[str, Any]], Said]
    """Raises SampleError."""
    fits: Callable[[Any], bool]
    """Whether a field's value, or a Parquet column's type, can be that of this form."""

    def is_in(self, item: Mapping[str, Any]) -> bool:
        """Whether an item, or the columns (name -> type) of a Parquet file, have this form."""
        return all(name in item and self.fits(item[name]) for name in self.fields)


# Lists of turns


def _holds_turns(value: Any) -> bool:
    """A list, or one as a JSON text; a column whose values may be."""
    if isinstance(value, pa.DataType):
        return is_turns(value) or (is_text(value) and not pa.types.is_null(value))
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip()[:1] == "[")


def _holds_pairs(value: Any) -> bool:
    """A list of objects, which `texts` of a document is not."""
    if isinstance(value, pa.DataType):
        return is_turns(value)
    return isinstance(value, list) and any(isinstance(turn, Mapping) for turn in value)


def _list_form(
    name: str, whose: str, example: list[dict[str, str]], fits: Callable[[Any], bool] = _holds_turns
) -> ConversationForm:
    def says(item: Mapping[str, Any]) -> Said:
        return _said(item[name], name)

    return ConversationForm((name,), whose, {name: example}, says, fits)


def _said(turns: Any, name: str) -> Said:
    if isinstance(turns, str):
        turns = parse_json(turns.encode("utf-8", "surrogatepass"))
    if not isinstance(turns, list):
        raise SampleError(Status.JSON_INVALID, f"`{name}` is not a list of turns")
    if not turns:
        raise SampleError(Status.TEXT_MISSING, f"`{name}` is empty")
    for number, turn in enumerate(turns):
        if not isinstance(turn, Mapping):
            raise SampleError(Status.JSON_INVALID, f"turn {number} is not an object")
        role = turn.get("role") if turn.get("from") is None else turn["from"]
        pair = [role for role in ("human", "user", "assistant") if role in turn]
        if role is None and len(pair) == 2:
            yield from ((role, turn[role], False) for role in pair)
        else:
            content = turn.get("content") if turn.get("value") is None else turn["value"]
            yield role, content, turn.get("from") is not None


# Fields for question and answer


def _holds_text(value: Any) -> bool:
    if isinstance(value, pa.DataType):
        return is_text(value) and not pa.types.is_null(value)
    return isinstance(value, str)


def _pair_form(question: str, answer: str, whose: str, more: str = "input") -> ConversationForm:
    """A field each for question and answer; `more` goes on with the question."""

    def says(item: Mapping[str, Any]) -> Said:
        history = item.get("history") or []
        pairs = history if isinstance(history, list) else [history]
        for earlier in pairs:
            if not isinstance(earlier, list) or len(earlier) != 2:
                raise SampleError(Status.JSON_INVALID, "`history` is not a list of pairs")
            yield from zip(("user", "assistant"), earlier, (False, False), strict=True)
        asked = f"{item[question]}\n{item[more]}" if item.get(more) else item[question]
        yield "user", asked, False
        yield "assistant", item[answer], False

    example = {question: _QUESTION, answer: _ANSWER}
    return ConversationForm((question, answer), whose, example, says, _holds_text)


def _holds_said(value: Any) -> bool:
    return _holds_turns(value) or _holds_text(value)


def _prompted(item: Mapping[str, Any]) -> Said:
    for name, role in (("prompt", "user"), ("completion", "assistant")):
        if isinstance(item[name], str):
            yield role, item[name], False
        else:
            yield from _said(item[name], name)


_ROLED = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
TURNS = (
    _list_form(
        "conversations",
        "LLaVA, ShareGPT4V, InternVL, Cambrian, Infinity-MM, MiniCPM-V, Qwen-VL",
        [{"from": "human", "value": f"{MARK}\n{_QUESTION}"}, {"from": "gpt", "value": _ANSWER}],
    ),
    _list_form("messages", "OpenAI, TRL, ms-swift, LLaMA-Factory, Qwen2-VL", _ROLED),
)
"""The first that is there is read, whatever it holds."""
LISTS = (
    *TURNS,
    _list_form("conversation", "ms-swift", [{"human": _QUESTION, "assistant": _ANSWER}]),
    _list_form(
        "texts",
        "FineVision, The Cauldron, LLaVA-OneVision-1.5",
        [{"user": _QUESTION, "assistant": _ANSWER}],
        _holds_pairs,
    ),
    ConversationForm(
        ("prompt", "completion"),
        "TRL",
        {"prompt": _ROLED[:1], "completion": _ROLED[1:]},
        _prompted,
        _holds_said,
    ),
)
"""A list of turns: {from, value}, {role, content}, {user, assistant} or {human, assistant}."""
PAIRS = (
    _pair_form("query", "response", "ms-swift"),
    _pair_form("instruction", "output", "alpaca, LLaMA-Factory"),
    _pair_form("instruction", "outputs", "M3IT", "inputs"),
    _pair_form("question", "answer", "VQA sets on the hub"),
)
"""Fields that captions may have beside their text, too."""


def form_names(forms: Iterable[ConversationForm]) -> list[str]:
    """The fields of these forms."""
    return [name for form in forms for name in form.fields]


def find_form(item: Mapping[str, Any]) -> ConversationForm:
    """The form of an item; raises SampleError where it holds no conversation."""
    if item.get("chosen") is not None and item.get("rejected") is not None:
        message = "a preference pair (`chosen`, `rejected`), no conversation"
        raise SampleError(Status.NO_CONVERSATION, message)
    there = (form for form in TURNS if item.get(form.fields[0]) is not None)
    found = next(there, None) or next((f for f in (*LISTS, *PAIRS) if f.is_in(item)), None)
    if found is None:
        message = f"neither {' nor '.join(form_names(TURNS))}"
        raise SampleError(Status.TEXT_MISSING, message)
    return found


def put_answer(item: Mapping[str, Any], text: str) -> dict[str, Any]:
    """The field that holds an item's answers, each replaced by a text; raises SampleError."""
    form = find_form(item)
    name = form.fields[-1]
    held = item[name]
    if isinstance(held, str) and len(form.fields) > 1:
        return {name: text}
    turns = parse_json(held.encode()) if isinstance(held, str) else held
    turns = [_answered(turn, text) for turn in turns]
    return {name: json.dumps(turns, ensure_ascii=False) if isinstance(held, str) else turns}


def _answered(turn: Mapping[str, Any], text: str) -> dict[str, Any]:
    """A turn, with another text if it is the assistant's."""
    role = turn.get("role") if turn.get("from") is None else turn["from"]
    if role is None and "assistant" in turn:
        return {**turn, "assistant": text}
    if _ROLES.get(str(role)) != "assistant":
        return dict(turn)
    name = "content" if turn.get("value") is None else "value"
    content = turn[name]
    if isinstance(content, list):
        first = next((part for part in content if isinstance(part, Mapping)), None)
        return {**turn, name: [text if first is None else {**first, "text": text}]}
    return {**turn, name: text}


# Turns, and the images that they name


@dataclass
class Dialogue:
    """A conversation as it is read, turn by turn."""

    own: list[Any]
    """The images that the item has outside of its turns."""
    fields: tuple[str, ...] = ()
    """Of the item, those that hold the conversation."""
    turns: list[Turn] = field(default_factory=list)
    named: list[Any] = field(default_factory=list)
    """The images that the turns name, one per mark."""
    is_marked: bool = False
    """LLaVA's form, in which every image has its mark; other forms may leave the marks out."""

    def __post_init__(self) -> None:
        (only, *others) = self.own or [None]
        is_named = isinstance(only, Mapping) and bool(only) and all(map(_TAG.fullmatch, only))
        self._tags: Mapping[str, Any] = only if is_named and not others else {}

    def read(self, item: Mapping[str, Any]) -> None:
        """Read an item's turns; raises SampleError."""
        form = find_form(item)
        self.fields = form.fields
        for number, (role, content, is_marked) in enumerate(form.says(item)):
            self.turns.append(self._turn(number, role, content))
            self.is_marked |= is_marked
        media = [name for name in _OTHER_MEDIA if item.get(name)]
        if media and not self.images:
            raise SampleError(Status.UNSUPPORTED_MEDIA, f"`{media[0]}`, and no image")

    @property
    def images(self) -> list[Any]:
        """The values of its images, in the order of their marks."""
        return self.named if self._tags or not self.own else self.own

    def put_images_first(self) -> None:
        """Give the images their marks before the first question, where there is no mark at all."""
        marks = len(self.images)
        if any(MARK in turn.text for turn in self.turns):
            return
        for number, turn in enumerate(self.turns):
            if turn.role == "user":
                self.turns[number] = Turn("user", f"{MARK}\n" * marks + turn.text)
                return

    def _turn(self, number: int, role: Any, content: Any) -> Turn:
        if not isinstance(role, str) or role not in _ROLES:
            message = f"turn {number} is from {role!r:.40}, not one of {', '.join(_ROLES)}"
            raise SampleError(Status.JSON_INVALID, message)
        if content is None:
            raise SampleError(Status.TEXT_MISSING, f"turn {number} has no text")
        parts = content if isinstance(content, list) else [content]
        is_answer = _ROLES[role] == "assistant"
        texts = [self._part(part, number, is_answer) for part in parts]
        return Turn(_ROLES[role], "\n".join(texts))

    def _part(self, part: Any, number: int, is_answer: bool) -> str:
        """A part's text; the image that it names is added to `named`."""
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in _IMAGE_PARTS:
            values = [part[name] for name in _PART_VALUES if part.get(name)][:1]
            self.named += [v["url"] if isinstance(v, Mapping) and "url" in v else v for v in values]
            return MARK
        if isinstance(kind, str) and any(media in kind for media in _OTHER_MEDIA):
            message = f"turn {number} holds a part of type {kind!r:.40}"
            raise SampleError(Status.UNSUPPORTED_MEDIA, message)
        text = part.get("text") if kind in _TEXT_PARTS else part
        if isinstance(text, bytes):  # of a Parquet column that is not UTF-8
            text = decode_text(text)
        if not isinstance(text, str):
            what = f"a part of type {kind!r:.40}" if kind is not None else type(part).__name__
            message = f"turn {number} holds {what}, neither text nor image"
            raise SampleError(Status.JSON_INVALID, message)
        return text if is_answer else self._asked(text, number)

    def _asked(self, text: str, number: int) -> str:
        """A question with a mark for each image that it names, or for none of another medium."""
        if _OTHER_MARK.search(text):
            raise SampleError(Status.UNSUPPORTED_MEDIA, f"turn {number} shows a video or audio")
        return _TAG.sub(self._mark, text)

    def _mark(self, tag: re.Match[str]) -> str:
        """The mark of an image in a text; any other text stays as it is."""
        path = tag[1]
        if path is None and tag[0] not in self._tags:
            return tag[0]
        if path is not None and self.own:
            message = f"{tag[0]!r:.80} in the text, beside images of its own"
            raise SampleError(Status.UNSUPPORTED_MEDIA, message)
        self.named.append(self._tags[tag[0]] if path is None else path)
        return MARK
