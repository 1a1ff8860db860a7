"""mmSSR's inputs: an instruction sample -> what all questions share, and how each goes on.

The prompts are those of the released code, token for token (github.com/lyumengyao/mmssr:
config/ss.py, llava/eval/model_ss.py): released checkpoints know no others. Rating and training
both build their inputs here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mmsieve.errors import RequestError, SampleError, Status
from mmsieve.images import ImageLimits, ImageSpec, Pixels, load_square
from mmsieve.labels import STYLES
from mmsieve.methods.base import ArrayItem, Portable
from mmsieve.methods.tokenizer import IMAGE, TokenizerSpec, encode_piece
from mmsieve.sample import Image, Sample, Turn
from mmsieve.wording import counted

SYSTEM = "You are a helpful assistant."
STYLE_QUESTION = f"Interaction style candidates: [{', '.join(STYLES)}]\nStyles: "

MARK = "<image>"
"""Stands for an image in a text."""
START, END = "<|im_start|>", "<|im_end|>"
_HINTS = ("Hint:", f"{MARK}\nHint:")
_STRIPPED = "Question: "


def capability_question(keyword: str) -> str:
    """How the model is asked for a rating."""
    return (
        "On a scale of 0 to 5, how do you rate the helpfulness of the VQA instance in training "
        f"a Multimodal Large Language Model for {keyword}?"
    )


Ids: TypeAlias = tuple[int, ...]
"""Token ids of one question."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """The questions about one sample to one model: a question is `shared` and then its end."""

    shared: npt.NDArray[np.int32]
    """Token ids, one IMAGE per image."""
    ends: tuple[Ids, ...]
    """In the order asked, none of them empty."""
    length: int
    """Tokens of `shared` after each IMAGE has become its embeddings."""


@dataclass(frozen=True, slots=True)
class RatingItem(ArrayItem):
    """The inputs of one sample."""

    prompts: tuple[Prompt, ...]
    """One per model."""
    images: npt.NDArray[np.uint8]
    """[images, size, size, 3], in the order of their IMAGE ids."""
    num_tokens: int
    """Text and image tokens of the conversation, without system text and question."""
    image_source: str | None


@dataclass(frozen=True)
class PromptWriter(Portable):
    """Writes a conversation and questions about it as one model's token ids. Picklable."""

    tokenizer: TokenizerSpec
    image_tokens: int
    questions: tuple[str, ...]
    clean: bool
    """Questions are kept whole, and control strings in a text are ordinary text."""
    system: str = SYSTEM

    @cached_property
    def _backend(self) -> Any:
        return self.tokenizer.build(self.clean)

    @cached_property
    def _frame(self) -> tuple[list[int], list[int], list[int], int]:
        """The ids before a conversation, of a newline, behind it, and the one that ends a turn."""
        ids = [self._backend.token_to_id(name) for name in (START, END)]
        if None in ids:
            raise RequestError(f"the tokenizer has no {START} and {END}: it is not Qwen's")
        start, end = ids
        line = self._encode("\n")
        system = [start, *self._encode("system"), *line, *self._encode(self.system), end, *line]
        head = [*system, start, *self._encode("user"), *line]
        return head, line, [end, *line, start, *self._encode("assistant"), *line], end

    def _encode(self, text: str) -> list[int]:
        return encode_piece(self._backend, text)

    def write(self, turns: Sequence[Turn]) -> tuple[Prompt, int]:
        """All questions about a conversation, piece by piece as published, and its own tokens."""
        *before, last = format_turns(turns, self.clean).split(MARK)
        head, line, tail, _ = self._frame
        middle: list[int] = []
        for piece in before:
            middle += [*self._encode(piece), IMAGE, *line]
        texts = [last, *(f"{last}\n{question}" for question in self.questions)]
        encoded = self._backend.encode_batch(texts, add_special_tokens=False)
        bare, *asked = [found.ids for found in encoded]
        ends = [[*ids, *tail] for ids in asked]
        common = _common(ends)
        shared = [*head, *middle, *ends[0][:common]]
        spliced = len(before) * (self.image_tokens - 1)
        prompt = Prompt(
            shared=np.array(shared, np.int32),
            ends=tuple(tuple(end[common:]) for end in ends),
            length=len(shared) + spliced,
        )
        return prompt, len(middle) + len(bare) + spliced

    def answer(self, text: str) -> list[int]:
        """The ids of an answer as training teaches it, its end included."""
        return [*self._encode(text), self._frame[-1]]


def _common(ends: list[list[int]]) -> int:
    """How many ids all begin with, so that each has one more."""
    same = min(map(len, ends)) - 1
    pairs = zip(min(ends), max(ends), strict=False)  # the two that differ first
    return next((n for n, (a, b) in enumerate(pairs) if n == same or a != b), same)


@dataclass(frozen=True)
class RatingPreparer:
    """The CPU half: conversations to ids, images to pixels. Needs no torch."""

    writers: tuple[PromptWriter, ...]
    image: ImageSpec
    max_tokens: int
    limits: ImageLimits
    orient: bool = False
    fast: bool = False

    def prepare(self, sample: Sample) -> RatingItem:
        """The inputs of a sample; raises SampleError where it can't be rated as it is."""
        source = sample.metadata.get("image_source")
        source = None if source is None else str(source)
        try:
            return self._prepare(sample, source)
        except SampleError as error:
            known = {"image_source": source, "num_images": len(sample.images)}
            raise error.knowing(known) from error

    def _prepare(self, sample: Sample, source: str | None) -> RatingItem:
        check_turns(sample)
        asked = [writer.write(sample.turns) for writer in self.writers]
        prompts = tuple(prompt for prompt, _ in asked)
        longest = max(prompt.length + max(map(len, prompt.ends)) for prompt in prompts)
        if longest > self.max_tokens:
            message = f"{longest:,} tokens with their images, the limit is {self.max_tokens:,}"
            raise SampleError(Status.TEXT_TOO_LONG, message)
        side = self.image.size
        pixels = [self._pixels(image) for image in sample.images]
        return RatingItem(
            prompts=prompts,
            images=np.stack(pixels) if pixels else np.empty((0, side, side, 3), np.uint8),
            num_tokens=asked[0][1],
            image_source=source,
        )

    def _pixels(self, image: Image) -> Pixels:
        return load_square(
            image.data,
            self.image,
            self.limits,
            frame=image.frame,
            orient=self.orient,
            fast=self.fast,
        )


def check_turns(sample: Sample) -> None:
    """Raise SampleError where the published code would rate something else than the sample.

    It drops a conversation that the assistant begins, reads turns by their place and not by their
    role, shows one image in two places, and leaves out an image without a place.
    """
    turns = list(sample.turns)
    if turns and turns[0].role == "system":
        turns = turns[1:]
    if not turns:
        raise SampleError(Status.TEXT_MISSING, "no conversation to rate")
    try:
        "".join(turn.text for turn in sample.turns).encode()
    except UnicodeEncodeError as error:  # half a surrogate pair, as JSON can hold it
        raise SampleError(Status.TEXT_UNDECODABLE, f"not Unicode: {error.reason}") from error
    for number, turn in enumerate(turns):
        role = ("user", "assistant")[number % 2]
        if turn.role != role:
            message = f"turn {number} is the {turn.role}'s, not the {role}'s"
            raise SampleError(Status.CONVERSATION_INVALID, message)
    marks = sum(turn.text.count(MARK) for turn in sample.turns)
    images, shown = len(sample.images), counted(len(sample.images), "images")
    if marks > images:
        raise SampleError(Status.IMAGE_MISSING, f"{marks} {MARK} in the text, {shown}")
    if marks < images:
        fix = "" if marks else " (--images-first)"
        message = f"{shown}, {marks} {MARK} in the text to say where they stand{fix}"
        raise SampleError(Status.CONVERSATION_INVALID, message)


def format_turns(turns: Sequence[Turn], clean: bool) -> str:
    """A conversation as the model reads it; raises SampleError for a system turn unless `clean`.

    Unless `clean`, questions lose the letters of "Question: " at both ends too, as published.
    """
    lines = []
    if turns[0].role == "system":
        if not clean:
            message = "a system turn, which the published prompt has no place for (--clean-format)"
            raise SampleError(Status.CONVERSATION_INVALID, message)
        lines.append(f"System: {turns[0].text}")
        turns = turns[1:]
    for asked, answered in zip_longest(turns[::2], turns[1::2]):
        text, answer = asked.text, answered.text if answered else ""
        if not text.startswith(_HINTS):
            bare = text.removeprefix(_STRIPPED) if clean else text.strip(_STRIPPED)
            text = f"Question: {bare}"
        lines.append(f"{text} Answer: {answer}")
    return "\n".join(lines)
