"""Groups of images and texts -> a model's training inputs, made by the method's own Preparer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmsieve.generate.groups import Group, LabelledText, Span
from mmsieve.methods.unifilter_inputs import Item, UniFilterPreparer
from mmsieve.models.tokenizer import IMAGE

IGNORED = -100
"""A target that no loss looks at, as torch has it."""
RIGHT, WRONG = 0, 1
KINDS = ("caption", "document")


@dataclass(frozen=True, slots=True)
class Row:
    """One text as a sequence with its targets."""

    ids: npt.NDArray[np.int32]
    """An IMAGE for every embedding of an image."""
    shown: npt.NDArray[np.int32]
    """Per IMAGE id, which of the group's embeddings (image * tokens per image + token) it is."""
    facts: npt.NDArray[np.int8]
    """Per id: WRONG or RIGHT where it ends a word that states a fact, IGNORED elsewhere."""
    label: float
    kind: int


@dataclass(frozen=True, slots=True)
class PreparedGroup:
    """Pixels [images, size, size, 3], and the rows that look at them."""

    pixels: npt.NDArray[np.uint8]
    rows: tuple[Row, ...]


def prepare_group(preparer: UniFilterPreparer, group: Group) -> PreparedGroup:
    """The inputs of a group; an image that several of its texts show is kept once."""
    pixels: dict[int, npt.NDArray[np.uint8]] = {}
    rows = []
    for labelled in group.texts:
        item = preparer.prepare(group.sample(labelled))
        places = [
            list(pixels).index(image)
            for image, values in zip(labelled.images, item.images, strict=False)
            if pixels.setdefault(image, values) is not None
        ]
        rows.append(_row(preparer, labelled, item, places))
    return PreparedGroup(np.stack(list(pixels.values())), tuple(rows))


def text_by_text(group: Group) -> list[Group]:
    """A group for each text of a group."""
    return [replace(group, texts=(told,)) for told in group.texts]


def _row(preparer: UniFilterPreparer, labelled: LabelledText, item: Item, places: list[int]) -> Row:
    """A text's item with each IMAGE spread over its embeddings; `places`: of its images."""
    tokens = preparer.image_tokens
    repeats = np.where(item.ids == IMAGE, tokens, 1)
    ids = np.repeat(item.ids, repeats)[: item.num_tokens]
    facts = np.repeat(_facts(preparer, labelled, item.ids), repeats)[: item.num_tokens]
    shown = (np.array(places, np.int32)[:, None] * tokens + np.arange(tokens)).ravel()
    kept = int((ids == IMAGE).sum())
    return Row(ids, shown[:kept], facts, labelled.label, KINDS.index(labelled.kind))


def _facts(
    preparer: UniFilterPreparer, labelled: LabelledText, ids: npt.NDArray[np.int32]
) -> npt.NDArray[np.int8]:
    """The targets of Row.facts; what lies beyond a cut has none."""
    targets = np.full(len(ids), IGNORED, np.int8)
    if not labelled.right and not labelled.wrong:
        return targets
    encoded, spans = preparer.encode(labelled.text)
    ends = {end: index for index, (start, end) in enumerate(spans) if end > start}
    if encoded[: len(ids)] != ids.tolist():
        raise ValueError("a training text and its scoring input differ in their ids")
    for value, known in ((RIGHT, labelled.right), (WRONG, labelled.wrong)):
        for index in _last_tokens(known, ends):
            if index < len(ids):
                targets[index] = value
    return targets


def _last_tokens(words: Sequence[Span], ends: dict[int, int]) -> list[int]:
    return [ends[end] for _, end in words if end in ends]


def collate(steps: list[list[PreparedGroup]], image_tokens: int) -> dict[str, Tensor]:
    """Groups as one batch: rows padded to the longest, each image once.

    `pixels` [images, size, size, 3] uint8; `shown` [IMAGE ids] says which of their embeddings
    each stands for, in row-major order; `input_ids`, `facts` [rows, longest]; `lengths`,
    `labels`, `kinds` [rows].
    """
    groups = [group for step in steps for group in step]
    rows = [row for group in groups for row in group.rows]
    shown, before = [], 0
    for group in groups:
        shown += [row.shown + before for row in group.rows]
        before += len(group.pixels) * image_tokens
    return {
        "pixels": torch.from_numpy(np.concatenate([group.pixels for group in groups])),
        "shown": torch.from_numpy(np.concatenate(shown)),
        "input_ids": _padded([row.ids for row in rows], 0),
        "facts": _padded([row.facts for row in rows], IGNORED),
        "lengths": torch.tensor([len(row.ids) for row in rows]),
        "labels": torch.tensor([row.label for row in rows]),
        "kinds": torch.tensor([row.kind for row in rows]),
    }


def _padded(arrays: list[npt.NDArray[Any]], fill: int) -> Tensor:
    longest = max(len(array) for array in arrays)
    padded = np.full((len(arrays), longest), fill, np.int64)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(padded)
