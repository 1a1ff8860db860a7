"""The tasks: who writes each, over which scenes, how often, and how it is rated."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mmsieve.capabilities import CAPABILITIES
from mmsieve.rendered import accounts, lookups, pairs, readings
from mmsieve.rendered.edits import stranger
from mmsieve.rendered.exchanges import Exchange, Scenes, shapes, signs, told_apart
from mmsieve.rendered.scenes import SIGN, WORLDS, Scene, Thing, pick, sample_scene
from mmsieve.rendered.task_ratings import RATINGS


def _anything(scene: Scene) -> bool:
    return True


def _pointable(scene: Scene) -> bool:
    return bool(told_apart(scene))


def _signed(scene: Scene) -> bool:
    return bool(signs(scene))


def _two_shapes(scene: Scene) -> bool:
    return len(shapes(scene)) > 1


def _uneven(scene: Scene) -> bool:
    return scene.chart is not None and len(set(scene.chart.heights)) == len(scene.chart.heights)


def _as_it_is(scene: Scene, rng: np.random.Generator) -> Scene:
    return scene


def _with_sign(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene, one object of it made a sign unless there is one."""
    if signs(scene):
        return scene
    index = int(rng.integers(len(scene.things)))
    old = scene.things[index]
    sign = Thing(old.cell, SIGN, old.colour, word=pick(rng, WORLDS[scene.family].words))
    return replace(scene, things=(*scene.things[:index], sign, *scene.things[index + 1 :]))


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of question.

    `profile` names its ratings, `fits` says over which scene it can be asked. Where a sample
    starts with it, `prepare` may change the scene first, and `second` makes a second picture.
    """

    write: Callable[[Scenes, np.random.Generator], Exchange]
    profile: str
    share: float = 1.0
    fits: Callable[[Scene], bool] = _anything
    prepare: Callable[[Scene, np.random.Generator], Scene] = _as_it_is
    second: Callable[[Scene, np.random.Generator], Scene] | None = None

    def stage(self, family: str, rng: np.random.Generator) -> Scenes:
        """The pictures of a sample that starts with this task."""
        while True:
            scene = self.prepare(sample_scene(family, int(rng.integers(2**62))), rng)
            if self.fits(scene):
                return (scene,) if self.second is None else (scene, self.second(scene, rng))


TASKS: dict[str, Task] = {
    "count": Task(lookups.count, "count", 1.2),
    "colour": Task(lookups.colour, "colour", 1.2),
    "shape": Task(lookups.shape, "shape"),
    "fill": Task(lookups.fill, "fill"),
    "place": Task(lookups.place, "place", 1.2, _pointable),
    "box": Task(lookups.box_of, "box", 1.0, _pointable),
    "region": Task(lookups.region, "region", 0.6),
    "check": Task(lookups.check, "check", 1.4),
    "choice": Task(lookups.choice, "choice", 1.4),
    "brief": Task(accounts.brief, "brief"),
    "detail": Task(accounts.detail, "detail", 1.2),
    "compare": Task(accounts.compare, "compare", 1.2, _two_shapes),
    "same": Task(accounts.same, "same", 1.0, _two_shapes),
    "steps": Task(accounts.steps, "steps", 1.4),
    "rhyme": Task(accounts.rhyme, "rhyme", 0.8),
    "listing": Task(accounts.listing, "listing", 0.6),
    "rows": Task(accounts.rows, "rows", 0.8),
    "sign": Task(lookups.sign, "sign", 1.0, _signed, _with_sign),
    "culture": Task(lookups.culture, "culture", 1.0, _signed, _with_sign),
    "corners": Task(lookups.corners, "corners"),
    "cost": Task(lookups.cost, "cost", 0.7),
    "whole": Task(accounts.whole, "whole"),
    "remains": Task(accounts.remains, "remains"),
    "example": Task(pairs.example, "example", 1.2, second=stranger),
    "moved": Task(pairs.moved, "moved", 1.0, _pointable, second=pairs.changed),
    "why": Task(pairs.why, "why", 0.8, _pointable, second=pairs.shifted),
}
"""Over scenes of objects, core and many."""

CHART_TASKS: dict[str, Task] = {
    "height": Task(readings.height, "height", 2.0),
    "highest": Task(readings.highest, "highest", 1.0, _uneven),
    "bars": Task(readings.bars, "bars"),
    "difference": Task(readings.difference, "difference"),
    "chart": Task(readings.describe, "chart"),
    "taller": Task(readings.taller, "highest", 1.0, _uneven),
    "bar_choice": Task(readings.bar_choice, "height"),
    "bar_count": Task(readings.bar_count, "height", 0.5),
}

FAMILIES: dict[str, dict[str, Task]] = {"core": TASKS, "many": TASKS, "chart": CHART_TASKS}
"""Family of scenes -> the tasks over it."""


def share_above(capability: str, floor: int, tasks: dict[str, Task] = TASKS) -> float:
    """The share of single right turns that are rated above `floor`."""
    total = sum(task.share for task in tasks.values())
    above = (t.share for t in tasks.values() if RATINGS[t.profile][capability] > floor)
    return sum(above) / total


NEEDS_PICTURE: tuple[str, ...] = tuple(name for name in CAPABILITIES if share_above(name, 1) >= 0.7)
"""Capabilities that most right answers are good for: what remains of their ratings depends on
whether the picture agrees, so nobody rates them well without looking. More turns only raise this.
"""
