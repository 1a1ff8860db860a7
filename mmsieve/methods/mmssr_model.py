"""A rater on its device: what is shared is computed once, then questions are put to it."""

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmsieve.devices import Dtype
from mmsieve.errors import RequestError
from mmsieve.methods.mmssr_inputs import END, Prompt
from mmsieve.methods.mmssr_styles import StyleGrammar
from mmsieve.models.cpu import speed_up
from mmsieve.models.decoding import Decoding, LanguageModel, decode_greedily
from mmsieve.models.onevision import OneVision
from mmsieve.models.prefix_tree import Begun, ask, begin, grow
from mmsieve.models.rater import encode_images, load_rater
from mmsieve.models.tokenizer import IMAGE, load_tokenizer

_IMAGE_ROWS = {"cpu": 1600, "cuda": 147456}
"""Patches encoded at a time."""
_DIGITS = "012345"
_MAX_ANSWER = 1024
"""Tokens of an answer, as published."""


class Ratings(NamedTuple):
    """One sample's ratings, a value per question."""

    ratings: list[int | None]
    """None where the likeliest token is not a digit from 0 to 5."""
    expected: list[float]
    """The mean under the probabilities of the six digits."""
    texts: list[str]
    """The likeliest token."""


class AskedModel:
    """A rater, loaded."""

    def __init__(self, checkpoint: OneVision, dtype: Dtype, device: torch.device) -> None:
        self._checkpoint = checkpoint
        self._device = device
        self._tokenizer = load_tokenizer(checkpoint.folder).build()
        self._digits = torch.tensor(_digit_ids(checkpoint, self._encode), device=device)
        self._model = load_rater(checkpoint, dtype).to(device)
        self.kernels = f"torch {torch.__version__}"
        if device.type == "cpu":
            self.kernels = speed_up(self._model.model, self._model.dtype)
        self._language = LanguageModel(self._model)
        self._images_at_once = max(1, _IMAGE_ROWS[device.type] // checkpoint.tower.patches)
        spec = checkpoint.image
        self._mean, self._std = (
            torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (spec.mean, spec.std)
        )
        end: Any = self._tokenizer.token_to_id(END)
        grammar = StyleGrammar(self._encode, end)
        ends = checkpoint.end_ids | {end}
        self._constrained = Decoding(
            max_new_tokens=_MAX_ANSWER, end_ids=ends, allowed=grammar.allowed
        )
        self._plain = Decoding(
            max_new_tokens=_MAX_ANSWER,
            end_ids=checkpoint.end_ids,
            repetition_penalty=checkpoint.repetition_penalty,
        )

    def encode_fewer_at_once(self) -> bool:
        """Encode half as many images at a time from now on; False where it is one already."""
        more = self._images_at_once > 1
        self._images_at_once = max(1, self._images_at_once // 2)
        return more

    def begin(self, prompts: Sequence[Prompt], images: Sequence[npt.NDArray[np.uint8]]) -> Begun:
        """Compute what each prompt's questions share; `images` are those of each prompt."""
        features = iter(self._embed([image for own in images for image in own]))
        rows = []
        for prompt in prompts:
            ids = torch.from_numpy(prompt.shared)
            text = self._language.embed(ids.clamp(min=0))
            pieces, start = [], 0
            for place in (ids == IMAGE).nonzero().flatten().tolist():
                pieces += [text[start:place], next(features)]
                start = place + 1
            rows.append(torch.cat([*pieces, text[start:]]))
        return begin(self._language, rows)

    def rate(self, begun: Begun, ends: Sequence[tuple[tuple[int, ...], ...]]) -> list[Ratings]:
        """The ratings of each row, which is asked the questions that end in `ends`."""
        logits = self.logits(begun, ends)
        chosen = logits.argmax(1).tolist()
        odds = logits[:, self._digits].float().softmax(1)
        means = (odds @ torch.arange(6.0, device=odds.device)).tolist()
        digits = {token: digit for digit, token in enumerate(self._digits.tolist())}
        texts = self._tokenizer.decode_batch([[i] for i in chosen], skip_special_tokens=False)
        found, start = [], 0
        for own in ends:
            part = slice(start, start + len(own))
            ratings = [digits.get(token) for token in chosen[part]]
            found.append(Ratings(ratings, means[part], texts[part]))
            start = part.stop
        return found

    def logits(self, begun: Begun, ends: Sequence[tuple[tuple[int, ...], ...]]) -> Tensor:
        """[questions of all rows, in order, vocabulary]: of each answer's first token."""
        hidden = ask(self._language, begun, [grow(own) for own in ends])
        logits: Tensor = self._language.head(hidden)
        return logits

    def answer(self, begun: Begun, ends: Sequence[tuple[int, ...]], constrained: bool) -> list[str]:
        """The answer of each row to the question that ends in `ends`; uses `begun` up."""
        rules = self._constrained if constrained else self._plain
        ids = self.generate(begun, ends, rules)
        return [text.strip() for text in self._tokenizer.decode_batch(ids)]

    def generate(
        self, begun: Begun, ends: Sequence[tuple[int, ...]], rules: Decoding | None = None
    ) -> list[list[int]]:
        """The ids of each answer, by default as published; uses `begun` up."""
        prompts = [self._language.embed(end) for end in ends]
        rules = rules or self._plain
        return decode_greedily(self._language, prompts, rules, begun.cache, begun.mask)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _embed(self, pixels: list[npt.NDArray[np.uint8]]) -> list[Tensor]:
        """[image tokens, hidden] of each image."""
        if not pixels:
            return []
        pieces = np.array_split(np.stack(pixels), ceil(len(pixels) / self._images_at_once))
        return [features for piece in pieces for features in self.features(piece)]

    def features(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """[images, size, size, 3] -> [images, image tokens, hidden]."""
        images = torch.from_numpy(pixels).to(self._device)
        scaled = images.permute(0, 3, 1, 2).float() * self._checkpoint.image.scale
        normalised = (scaled - self._mean) / self._std
        return encode_images(self._model, normalised.to(self._model.dtype))


def _digit_ids(checkpoint: OneVision, encode: Callable[[str], list[int]]) -> list[int]:
    ids = [encode(digit) for digit in _DIGITS]
    if any(len(own) != 1 for own in ids):
        raise RequestError(f"{checkpoint.folder}: its tokenizer has no token for each digit")
    return [own[0] for own in ids]
