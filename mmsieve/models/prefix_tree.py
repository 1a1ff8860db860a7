"""Many questions about one beginning: the beginning is computed once, the questions as a tree.

Each question's tokens see the shared beginning and their own ancestors only, and stand at the
positions that they have in a prompt of their own, so every answer is the one of a separate pass
(tree attention: Cai et al., arXiv 2401.10774). What questions have in common is one branch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import DynamicCache

from mmsieve.models.decoding import LanguageModel


@dataclass(frozen=True)
class Tree:
    """Token sequences with their common beginnings merged; parents come before children."""

    ids: npt.NDArray[np.int64]
    """[nodes]."""
    depths: npt.NDArray[np.int64]
    """[nodes]: 0 for the first token of a sequence."""
    sees: npt.NDArray[np.bool_]
    """[nodes, nodes]: whether a node sees another, an ancestor or itself."""
    paths: tuple[npt.NDArray[np.int64], ...]
    """Per sequence the nodes of its tokens."""

    @property
    def leaves(self) -> npt.NDArray[np.int64]:
        """Per sequence the node of its last token."""
        return np.array([path[-1] for path in self.paths])


@lru_cache(1024)
def grow(sequences: tuple[tuple[int, ...], ...]) -> Tree:
    """The tree of token sequences, none of them empty."""
    nodes: dict[tuple[int, ...], int] = {}
    paths = []
    for sequence in sequences:
        beginnings = (sequence[: end + 1] for end in range(len(sequence)))
        paths.append(np.array([nodes.setdefault(start, len(nodes)) for start in beginnings]))
    sees = np.zeros((len(nodes), len(nodes)), np.bool_)
    for path in paths:
        for depth, node in enumerate(path):
            sees[node, path[: depth + 1]] = True
    return Tree(
        ids=np.array([start[-1] for start in nodes]),
        depths=np.array([len(start) - 1 for start in nodes]),
        sees=sees,
        paths=tuple(paths),
    )


@dataclass(frozen=True)
class Begun:
    """Rows whose shared beginnings are computed."""

    cache: DynamicCache
    mask: Tensor
    """[rows, longest], on the CPU: 0 for padding, which is on the right."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        found: list[int] = self.mask.sum(1).tolist()
        return found


def begin(model: LanguageModel, rows: Sequence[Tensor]) -> Begun:
    """Compute the beginnings, embeddings [length, hidden] each.

    Causal attention never looks at padding on the right, so no mask is made.
    """
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
    cache = DynamicCache()
    positions = torch.arange(padded.shape[1], device=padded.device)[None]
    model.run(padded, None, positions, cache)
    mask = torch.zeros(padded.shape[:2], dtype=torch.long)
    for row, own in zip(mask, rows, strict=True):
        row[: len(own)] = 1
    return Begun(cache, mask)


def ask(model: LanguageModel, begun: Begun, trees: Sequence[Tree]) -> Tensor:
    """[leaves of all trees, in order, hidden]: after the last norm, at each sequence's last token.

    The cache is left as it was.
    """
    rows, before = begun.mask.shape
    nodes = max(len(tree.ids) for tree in trees)
    ids = torch.zeros(rows, nodes, dtype=torch.long)
    positions = torch.zeros(rows, nodes, dtype=torch.long)
    sees = torch.zeros(rows, nodes, before + nodes, dtype=torch.bool)
    sees[:, :, :before] = begun.mask[:, None].bool()
    for row, (tree, length) in enumerate(zip(trees, begun.lengths, strict=True)):
        size = len(tree.ids)
        ids[row, :size] = torch.from_numpy(tree.ids)
        positions[row, :size] = length + torch.from_numpy(tree.depths)
        sees[row, :size, before : before + size] = torch.from_numpy(tree.sees)
    embeddings = model.embed(ids)
    device = embeddings.device
    hidden = model.run(embeddings, sees[:, None].to(device), positions.to(device), begun.cache)
    begun.cache.crop(-nodes)
    return torch.cat(
        [
            row[torch.from_numpy(tree.leaves).to(device)]
            for row, tree in zip(hidden, trees, strict=True)
        ]
    )
