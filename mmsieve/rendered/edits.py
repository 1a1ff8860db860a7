"""Changes to a scene that make a true text false, by a known amount.

A negative is the positive of a changed scene. So its wording follows the same rules as a positive's
and nothing but the picture tells them apart. Three distances, with room between them:
one property (`change_one`), several while every object stays recognisable (`change_several`), and a
stranger that shares no object's colour or shape with what stands in the same place (`stranger`).
"""

from dataclasses import replace

import numpy as np

from mmsieve.rendered.scenes import (
    SIGN,
    WORLDS,
    Scene,
    Thing,
    World,
    make_thing,
    pick,
    sample_scene,
)

_KINDS = {"colour": 4, "shape": 4, "fill": 3, "size": 3, "word": 4, "place": 3, "add": 1, "drop": 1}


def change_one(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with exactly one property changed."""
    if scene.chart is not None or scene.table is not None:
        return change_numbers(scene, rng, 1)
    world = WORLDS[scene.family]
    kinds = [kind for kind in _KINDS if _possible(scene, world, kind)]
    weights = np.array([_KINDS[kind] for kind in kinds], dtype=float)
    kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
    if kind == "add":
        return with_things(scene, (*scene.things, newcomer(scene, world, rng)))
    candidates = [i for i, thing in enumerate(scene.things) if kind in (*editable(thing), "drop")]
    index = candidates[int(rng.integers(len(candidates)))]
    if kind == "drop":
        return with_things(scene, scene.things[:index] + scene.things[index + 1 :])
    return alter(scene, index, kind, world, rng)


def change_several(scene: Scene, rng: np.random.Generator) -> Scene:
    """About half of the properties changed; every object keeps its place and colour or shape."""
    if scene.chart is not None or scene.table is not None:
        return change_numbers(scene, rng, 0)
    world = WORLDS[scene.family]
    plan: list[tuple[int, str]] = []
    for index, thing in enumerate(scene.things):
        if thing.shape == SIGN:
            plan.append((index, pick(rng, ("colour", "word"))))
            continue
        plan += [(index, pick(rng, ("colour", "shape"))), (index, "fill")]
        plan += [(index, "size")] if thing.size else []
    count = int(rng.integers(min(3, len(plan)), len(plan) + 1))
    for choice in rng.permutation(len(plan))[:count]:
        index, kind = plan[int(choice)]
        scene = alter(scene, index, kind, world, rng)
    return scene


def stranger(scene: Scene, rng: np.random.Generator) -> Scene:
    """Another scene of the same family in which nothing fits the first one."""
    return stranger_to((scene,), rng)


def stranger_to(scenes: tuple[Scene, ...], rng: np.random.Generator) -> Scene:
    """Another scene that is a stranger to each of these."""
    while True:
        other = sample_scene(scenes[0].family, int(rng.integers(2**62)))
        if all(_strange(other, scene) for scene in scenes):
            return other


def _strange(other: Scene, scene: Scene) -> bool:
    if scene.chart is not None or scene.table is not None:
        shared = [fact for fact in other.facts() & scene.facts() if fact.attribute != "place"]
        return len(shared) <= 1
    lonely = 0
    for thing in other.things:
        here = scene.thing_at(thing.cell)
        if here is None:
            lonely += 1
        elif here.colour == thing.colour or here.shape == thing.shape:
            return False
    return lonely > 0


def with_things(scene: Scene, things: tuple[Thing, ...]) -> Scene:
    """The scene with these objects, told in reading order like any sampled one."""
    return replace(scene, things=tuple(sorted(things, key=lambda thing: thing.cell)))


def editable(thing: Thing) -> tuple[str, ...]:
    """What of an object can be changed."""
    if thing.shape == SIGN:
        return ("colour", "word", "place")
    return ("colour", "shape", "fill", "place", *(("size",) if thing.size else ()))


def _free(scene: Scene, world: World) -> list[int]:
    return [cell for cell in world.cells if scene.thing_at(cell) is None]


def _possible(scene: Scene, world: World, kind: str) -> bool:
    if kind == "add":
        return len(scene.things) < max(world.counts)
    if kind == "drop":
        return len(scene.things) > min(world.counts)
    if kind == "place" and not _free(scene, world):
        return False
    return any(kind in editable(thing) for thing in scene.things)


def newcomer(scene: Scene, world: World, rng: np.random.Generator) -> Thing:
    """One more object, in a free cell."""
    free = _free(scene, world)
    return make_thing(world, free[int(rng.integers(len(free)))], rng, sign=False)


def alter(scene: Scene, index: int, kind: str, world: World, rng: np.random.Generator) -> Scene:
    """Give one object another value of one attribute."""
    thing = scene.things[index]
    if kind == "place":
        free = _free(scene, world)
        changed = replace(thing, cell=free[int(rng.integers(len(free)))])
    else:
        old = getattr(thing, kind)
        value = pick(rng, tuple(option for option in world.values(kind) if option != old))
        changed = replace(thing, **{kind: value})  # type: ignore[arg-type]
    return with_things(scene, (*scene.things[:index], changed, *scene.things[index + 1 :]))


def change_numbers(scene: Scene, rng: np.random.Generator, count: int) -> Scene:
    """Other numbers in a chart or table, well off; `count` 0 means half of them and one more."""
    chart, table = scene.chart, scene.table
    numbers = list(chart.heights if chart is not None else table.cells if table is not None else ())
    lowest = 1 if chart is not None else 0
    count = count or min(len(numbers), len(numbers) // 2 + 1)
    for index in rng.permutation(len(numbers))[:count]:
        far = [v for v in range(lowest, 10) if abs(v - numbers[int(index)]) >= 3]
        numbers[int(index)] = far[int(rng.integers(len(far)))]
    if chart is not None:
        return replace(scene, chart=replace(chart, heights=tuple(numbers)))
    assert table is not None
    return replace(scene, table=replace(table, cells=tuple(numbers)))
