"""Captions of a scene at the four quality levels, with their errors known word by word.

0 tells another picture, 1 is about this one with several conspicuous errors, 2 has exactly one
property wrong, 3 is complete and right. Each level is the right telling of a scene at a chosen
distance from the picture, so the wording alone says nothing about the level.
"""

from dataclasses import dataclass

import numpy as np

from mmsieve.levels import HARD_NEGATIVE, LEVELS, MEDIUM_NEGATIVE, POSITIVE
from mmsieve.rendered.edits import change_one, change_several, stranger
from mmsieve.rendered.scenes import Scene
from mmsieve.rendered.words import Marked, mark, tell


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption of a picture, its level, and the scene that it really tells."""

    level: int
    text: Marked
    told: Scene


def told_scene(scene: Scene, level: int, rng: np.random.Generator) -> Scene:
    """The scene that a caption of this level describes."""
    if level == POSITIVE:
        return scene
    if level == HARD_NEGATIVE:
        return change_one(scene, rng)
    if level == MEDIUM_NEGATIVE:
        return change_several(scene, rng)
    return stranger(scene, rng)


def caption(scene: Scene, level: int, rng: np.random.Generator) -> Caption:
    """Write one caption of a picture."""
    told = told_scene(scene, level, rng)
    return Caption(level, mark(tell(told, rng), scene), told)


def caption_set(scene: Scene, rng: np.random.Generator) -> tuple[Caption, ...]:
    """One caption per level, in the order of the levels."""
    return tuple(caption(scene, level, rng) for level in LEVELS)
