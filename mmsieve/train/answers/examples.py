"""Examples: what a generating model reads and how it should answer, as token ids.

An example is a prefix and branches that each go on from it and end with an answer: the capability
queries of one instruction sample, or several captions of one image. In a batch they lie in one
row, a branch sees the prefix and itself (`mmsieve.models.prefix_tree`), so a row trains just what
separate rows would and reads the shared part once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

IGNORED = -100
"""A target that no loss looks at, as torch has it."""
_PADDING = -1
_SHARED = 0


@dataclass(frozen=True, slots=True)
class Branch:
    """A way on from the prefix; its last `answer` ids are what the model should say."""

    ids: npt.NDArray[np.int32]
    answer: int


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a batch."""

    pixels: npt.NDArray[np.uint8]
    """[images, size, size, 3], in the order of their ids in the prefix."""
    prefix: npt.NDArray[np.int32]
    """An IMAGE for every embedding of an image."""
    branches: tuple[Branch, ...]

    def __len__(self) -> int:
        return len(self.prefix) + sum(len(branch.ids) for branch in self.branches)


def collate_examples(steps: Sequence[Sequence[Example]]) -> dict[str, Tensor]:
    """Examples as one batch, rows padded to the longest.

    `pixels` [images, size, size, 3] uint8; `input_ids`, `positions`, `segments`, `labels` [rows,
    longest]: a segment is 0 in the prefix, then one number per branch, -1 beyond the row's end;
    labels stand at the ids that they are, and are IGNORED where nothing is to be said.
    """
    examples = [example for step in steps for example in step]
    shape = (len(examples), max(map(len, examples)))
    ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    segments, labels = np.full(shape, _PADDING, np.int64), np.full(shape, IGNORED, np.int64)
    for row, example in enumerate(examples):
        start = len(example.prefix)
        ids[row, :start] = example.prefix
        positions[row, :start] = np.arange(start)
        segments[row, :start] = _SHARED
        for number, branch in enumerate(example.branches, 1):
            stop = start + len(branch.ids)
            ids[row, start:stop] = branch.ids
            positions[row, start:stop] = len(example.prefix) + np.arange(len(branch.ids))
            segments[row, start:stop] = number
            labels[row, stop - branch.answer : stop] = branch.ids[len(branch.ids) - branch.answer :]
            start = stop
    pixels = [example.pixels for example in examples if len(example.pixels)]
    arrays: dict[str, npt.NDArray[Any]] = {
        "input_ids": ids,
        "positions": positions,
        "segments": segments,
        "labels": labels,
    }
    if pixels:
        arrays["pixels"] = np.concatenate(pixels)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
