"""What is where in rendered scenes: the lessons of a vision tower that starts from nothing."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mmsieve.rendered.draw import draw_scene
from mmsieve.rendered.scenes import GRID, SIGN, WORLDS, Scene, sample_scene
from mmsieve.train.recipe import Rendered
from mmsieve.train.rendered import choose_family

_WORLD = WORLDS["many"]
"""Every other world of objects is a part of it."""
_NONE = ""
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": (_NONE, *_WORLD.shapes, SIGN),
    "colour": (_NONE, *_WORLD.colours),
    "fill": (_NONE, *_WORLD.fills),
    "size": (_NONE, *_WORLD.sizes),
    "word": (_NONE, *_WORLD.words),
}
"""Attribute -> its values; the first stands for an empty cell or an object without it."""
CLASSES = (GRID * GRID, *(len(values) for values in ATTRIBUTES.values()))
"""What a patch is asked: which cell it is, then each attribute of what is in it."""


class RenderedCells(Dataset[list[tuple[Scene, int]]]):
    """A step's worth of scenes per index, with the side of their pictures in pixels."""

    def __init__(self, wanted: Rendered, batch: int, seed: int, size: int) -> None:
        self._wanted, self._batch = wanted, batch
        self._seed, self._size = seed, size

    def __len__(self) -> int:
        return self._wanted.groups // self._batch

    def __getitem__(self, step: int) -> list[tuple[Scene, int]]:
        """The scenes of a step; the same step gives the same scenes."""
        family = choose_family(self._wanted.families, (self._seed, 4, step), only_things=True)
        seeds = np.random.default_rng((self._seed, 2, step)).integers(2**62, size=self._batch)
        return [(sample_scene(family, int(seed)), self._size) for seed in seeds]


def collate_cells(steps: list[list[tuple[Scene, int]]]) -> dict[str, Tensor]:
    """`pixels` [images, size, size, 3] uint8, `labels` [images, cells, len(CLASSES)]."""
    scenes = [scene for step in steps for scene in step]
    pixels = np.stack([np.asarray(draw_scene(scene, size)) for scene, size in scenes])
    labels = np.stack([_labels(scene) for scene, _ in scenes])
    return {"pixels": torch.from_numpy(pixels), "labels": torch.from_numpy(labels)}


def _labels(scene: Scene) -> np.ndarray:
    labels = np.zeros((GRID * GRID, len(CLASSES)), np.int64)
    labels[:, 0] = range(GRID * GRID)
    for thing in scene.things:
        said = thing.attributes()
        values = [kinds.index(said.get(name, _NONE)) for name, kinds in ATTRIBUTES.items()]
        labels[thing.cell, 1:] = values
    return labels
