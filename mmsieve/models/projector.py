"""Projectors: a vision tower's patches -> embeddings of the language model.

The kinds and tensor names of the published code (llava/model/multimodal_projector/builder.py).
"""

import re
from math import isqrt

from torch import Tensor, nn


def build_projector(kind: str, vision: int, hidden: int, tokens: int) -> nn.Module:
    """The projector of a kind, from `vision` wide features to `hidden` wide embeddings.

    `tokens` is what an image becomes under `aapool_mlp` (its square root is floored, as
    published); the other kinds keep one embedding per patch.
    """
    if kind == "aapool_mlp":
        return PooledProjector(vision, hidden, tokens)
    if kind == "linear":
        return nn.Linear(vision, hidden)
    if kind == "identity":
        return nn.Identity()
    match = re.fullmatch(r"mlp(\d+)x_gelu", kind)
    if match is None:
        raise ValueError(f"unknown projector {kind!r}")
    return _mlp(vision, hidden, int(match[1]))


class PooledProjector(nn.Module):
    """Average pooling on the square grid of patches, then a two-layer MLP."""

    def __init__(self, vision: int, hidden: int, tokens: int) -> None:
        super().__init__()
        self.side = isqrt(tokens)
        self.mlp_projector = _mlp(vision, hidden, 2)

    def forward(self, patches: Tensor) -> Tensor:
        """[images, patches, vision] -> [images, side * side, hidden]."""
        side = isqrt(patches.shape[1])
        grid = patches.transpose(1, 2).reshape(*patches.shape[::2], side, side)
        pooled = nn.functional.adaptive_avg_pool2d(grid, self.side)
        embeddings: Tensor = self.mlp_projector(pooled.flatten(2).transpose(1, 2))
        return embeddings


def _mlp(vision: int, hidden: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(vision, hidden)]
    for _ in range(1, depth):
        layers += [nn.GELU(), nn.Linear(hidden, hidden)]
    return nn.Sequential(*layers)
