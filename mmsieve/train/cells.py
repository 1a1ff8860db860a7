"""What is where in rendered scenes: the lessons of a vision tower that starts from nothing."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mmsieve.rendered.draw import draw_scene
from mmsieve.rendered.scenes import GRID, SIGN, WORLDS, Scene, sample_scene

_WORLD = WORLDS["core"]
_NONE = ""
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": (_NONE, *_WORLD.shapes, SIGN),
    "colour": (_NONE, *_WORLD.colours),
    "fill": (_NONE, *_WORLD.fills),
    "word": (_NONE, *_WORLD.words),
}
"""Attribute -> its values; the first stands for an empty cell or an object without it."""


class RenderedCells(Dataset[list[tuple[Scene, int]]]):
    """A step's worth of scenes per index, with the side of their pictures in pixels."""

    def __init__(self, steps: int, batch: int, seed: int, size: int) -> None:
        self._steps, self._batch, self._seed, self._size = steps, batch, seed, size

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> list[tuple[Scene, int]]:
        """The scenes of a step; the same step gives the same scenes."""
        rng = np.random.default_rng((self._seed, 2, step))
        seeds = rng.integers(2**62, size=self._batch)
        return [(sample_scene("core", int(seed)), self._size) for seed in seeds]


def collate_cells(steps: list[list[tuple[Scene, int]]]) -> dict[str, Tensor]:
    """`pixels` [images, size, size, 3] uint8, `labels` [images, cells, attributes]."""
    scenes = [scene for step in steps for scene in step]
    pixels = np.stack([np.asarray(draw_scene(scene, size)) for scene, size in scenes])
    labels = np.stack([_labels(scene) for scene, _ in scenes])
    return {"pixels": torch.from_numpy(pixels), "labels": torch.from_numpy(labels)}


def _labels(scene: Scene) -> np.ndarray:
    labels = np.zeros((GRID * GRID, len(ATTRIBUTES)), np.int64)
    for thing in scene.things:
        said = thing.attributes()
        values = [kinds.index(said.get(name, _NONE)) for name, kinds in ATTRIBUTES.items()]
        labels[thing.cell] = values
    return labels
