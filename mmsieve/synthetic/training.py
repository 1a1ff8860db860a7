"""Training data that is drawn while it is used: texts, prompts with completions, a pretext task.

An item follows from a seed and its index: it is the same every time, in any process. Training finds
`draw`, `draw_pretext` and `write_initial` by name (`mmsieve.training.data.drawn_training`).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mmsieve.methods.unifilter.inputs import UniFilterPreparer
from mmsieve.synthetic import transfer
from mmsieve.synthetic.draw import draw_scene
from mmsieve.synthetic.instructions import instruction
from mmsieve.synthetic.scenes import GRID, SIGN, WORLDS, Scene, sample_scene
from mmsieve.synthetic.teacher import Drawing, assessment_group, caption_group, document_group
from mmsieve.training import data
from mmsieve.training.recipe import (
    AnyStage,
    Architecture,
    BaseRecipe,
    Optimisation,
    RaterRecipe,
    Rendered,
    Scenes,
    WeightTransfer,
)
from mmsieve.training.records import RecordInputs, TrainingData


def draw(inputs: RecordInputs[Any], wanted: AnyStage, seed: int) -> TrainingData:
    """Groups of texts for a classifier, prompts with completions for a rater or an enhancer."""
    rendered = wanted.rendered
    if isinstance(inputs, data.RaterInputs | data.EnhancerInputs):
        assert rendered is not None
        return TrainingData(RenderedExamples(rendered, wanted.batch, seed, inputs))
    assert isinstance(inputs, data.ClassifierInputs) and isinstance(rendered, Rendered)
    groups = RenderedGroups(rendered, wanted.batch, seed, inputs.preparer)
    held_out = HeldOutTexts(inputs.preparer, rendered, seed) if rendered.held_out else None
    return TrainingData(groups, held_out=held_out)


def draw_pretext(wanted: Optimisation, seed: int, size: int) -> "RenderedCells":
    """Pictures of `size` pixels a side, and what is in each of their cells."""
    assert wanted.rendered is not None
    return RenderedCells(wanted.rendered, wanted.batch, seed, size)


def write_initial(folder: Path, recipe: BaseRecipe) -> None:
    """Write the checkpoint that an `Architecture` or a `WeightTransfer` stands for."""
    if isinstance(recipe.start, Architecture):
        transfer.write_classifier(folder, recipe.start)
    else:
        assert isinstance(recipe.start, WeightTransfer)
        is_rater = isinstance(recipe, RaterRecipe)
        (transfer.write_rater if is_rater else transfer.write_enhancer)(folder, recipe.start)


def choose_family(
    families: dict[str, float], seed: tuple[int, ...], *, only_things: bool = False
) -> str:
    """A family by its share, of those whose scenes are made of objects if asked for."""
    names = [name for name in families if not only_things or WORLDS[name].has_things]
    shares = np.array([families[name] for name in names])
    rng = np.random.default_rng(seed)
    return names[int(rng.choice(len(names), p=shares / shares.sum()))]


@dataclass(frozen=True)
class _DrawnSteps(Dataset[list[Any]]):
    """A step's worth of `wanted` per index; the same ones every time."""

    wanted: Scenes
    batch: int
    seed: int

    def __len__(self) -> int:
        return self.wanted.groups // self.batch


# Texts at the four levels, for a classifier

_LONGER = 4  # how many groups of captions take the room of one group of documents, about
_UNSEEN = 10**12  # training never counts its groups so far


@dataclass(frozen=True)
class RenderedGroups(_DrawnSteps):
    """Groups of texts over rendered images, those of a step of one kind so that rows pad little."""

    wanted: Rendered
    preparer: UniFilterPreparer

    def __getitem__(self, step: int) -> list[data.PreparedGroup]:
        share = self.wanted.document_share
        documents = int((step + 1) * share) > int(step * share)
        make = document_group if documents else caption_group
        count = max(1, self.batch // _LONGER) if documents else self.batch
        family = choose_family(self.wanted.families, (self.seed, 3, step), only_things=documents)
        drawing = _drawing(self.wanted, family)
        indices = range(step * self.batch, step * self.batch + count)
        return [data.prepare_group(self.preparer, make(self.seed, i, drawing)) for i in indices]


class HeldOutTexts(Dataset[list[data.PreparedGroup]]):
    """Texts over rendered images that no training sees, one per index."""

    def __init__(self, preparer: UniFilterPreparer, wanted: Rendered, seed: int) -> None:
        drawing = _drawing(wanted, "core")
        groups = [
            make(seed, _UNSEEN + index, drawing)
            for index in range(wanted.held_out)
            for make in (caption_group, document_group)
        ]
        self.texts = [replace(group, texts=(text,)) for group in groups for text in group.texts]
        self._preparer = preparer

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> list[data.PreparedGroup]:
        return [data.prepare_group(self._preparer, self.texts[index])]


def _drawing(wanted: Rendered, family: str) -> Drawing:
    return Drawing(family=family, encoding="BMP", blank=wanted.blank_images, aspect=wanted.aspect)


# Prompts with completions, for a rater or an enhancer


@dataclass(frozen=True)
class RenderedExamples(_DrawnSteps):
    """Drawn prompts and completions, those of a step of one family."""

    inputs: data.RaterInputs | data.EnhancerInputs

    def __getitem__(self, step: int) -> list[data.SftExample]:
        family = choose_family(self.wanted.families, (self.seed, 3, step))
        drawing = Drawing(family=family, encoding="BMP", blank=self.wanted.blank_images)
        return [
            example
            for index in range(step * self.batch, (step + 1) * self.batch)
            for example in draw_examples(self.inputs, self.seed, index, drawing)
        ]


def draw_examples(
    inputs: data.RaterInputs | data.EnhancerInputs, seed: int, index: int, drawing: Drawing
) -> list[data.SftExample]:
    """Those of one instruction sample, or of one picture's captions."""
    if isinstance(inputs, data.RaterInputs):
        drawn = instruction(seed, index, drawing.family)
        return inputs.examples(drawn.sample(drawing.draw), drawn.ratings, drawn.styles)
    group = assessment_group(seed, index, drawing)
    captions = [
        (pair.text, data.assessment_of(pair.assessment))
        for pair in group.pairs
        if inputs.negatives or pair.phase == "raw"
    ]
    return [inputs.example(group.image, captions)]


# The pretext task of a vision tower with random weights: what is where in a scene

_WORLD = WORLDS["many"]  # every other world of objects is a part of it
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


@dataclass(frozen=True)
class RenderedCells(_DrawnSteps):
    """Scenes, whose pictures have `size` pixels a side."""

    size: int
    classes: ClassVar[tuple[int, ...]] = CLASSES

    def __getitem__(self, step: int) -> list[Scene]:
        family = choose_family(self.wanted.families, (self.seed, 4, step), only_things=True)
        seeds = np.random.default_rng((self.seed, 2, step)).integers(2**62, size=self.batch)
        return [sample_scene(family, int(seed)) for seed in seeds]

    def collate(self, steps: list[list[Scene]]) -> dict[str, Tensor]:
        """`pixels` [images, size, size, 3] uint8, `labels` [images, cells, len(CLASSES)]."""
        scenes = [scene for step in steps for scene in step]
        pixels = np.stack([np.asarray(draw_scene(scene, self.size)) for scene in scenes])
        labels = np.stack([_labels(scene) for scene in scenes])
        return {"pixels": torch.from_numpy(pixels), "labels": torch.from_numpy(labels)}


def _labels(scene: Scene) -> np.ndarray:
    labels = np.zeros((GRID * GRID, len(CLASSES)), np.int64)
    labels[:, 0] = range(GRID * GRID)
    for thing in scene.things:
        labels[thing.cell, 1:] = [kinds.index(getattr(thing, n)) for n, kinds in ATTRIBUTES.items()]
    return labels
