"""Changes to a scene that make a true text false, and what answers state beyond plain facts.

A negative is the positive of a changed scene. So its wording follows the same rules as a positive's
and nothing but the picture tells them apart. Three distances, with room between them:
one property (`change_one`), several while every object stays recognisable (`change_several`), and a
stranger that shares no object's colour or shape with what stands in the same place (`stranger`).

A text is written first, over its own scene. Whether it is right is decided afterwards, by the
picture that is shown with it: that scene, or one in which a claim of the text is false. So the
words of right and wrong samples have the same distribution, whatever is asked.
"""

from dataclasses import replace

import numpy as np

from mmsieve.synthetic.scenes import (
    FILLS,
    SIGN,
    WORLDS,
    Fact,
    Scene,
    Thing,
    World,
    make_thing,
    pick_one,
    sample_scene,
)

# Changes to a scene that make a true text false, by a known amount

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
            plan.append((index, pick_one(rng, ("colour", "word"))))
            continue
        plan += [(index, pick_one(rng, ("colour", "shape"))), (index, "fill")]
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
        value = pick_one(rng, tuple(option for option in world.values(kind) if option != old))
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


# What answers claim beyond the plain facts of a scene, and pictures that contradict a claim

CORNERS = {"circle": 0, "ring": 0, "square": 4, "triangle": 3, "star": 5, "cross": 12, "diamond": 4}
NOT = "not "
"""Before an attribute: of `subject`, the attribute is anything but `value`."""
_KINDS_CLAIMS = ("colour", "shape", "fill")


def truths(scene: Scene) -> frozenset[Fact]:
    """All facts of a scene (objects or a chart) and what follows from them."""
    if scene.chart is not None:
        return scene.facts() | _chart_truths(scene)
    world = WORLDS[scene.family]
    found: list[Fact] = []
    for kind in _KINDS_CLAIMS:
        values = [getattr(thing, kind) for thing in scene.things]
        found += [Fact("scene", value, str(values.count(value))) for value in world.values(kind)]
    found.append(Fact("scene", "fills", common_fill(scene)))
    for thing in scene.things:
        found += _denials(thing, world)
        if thing.word:
            found.append(Fact("scene", "word", thing.word))
        if thing.shape != SIGN:
            found.append(Fact(thing.place, "corners", str(CORNERS[thing.shape])))
    return scene.facts() | frozenset(found)


def common_fill(scene: Scene) -> str:
    """The fill that all objects share (signs have none), or `mixed`."""
    fills = {thing.fill for thing in scene.things if thing.fill}
    return fills.pop() if len(fills) == 1 else "mixed"


def _denials(thing: Thing, world: World) -> list[Fact]:
    said = thing.attributes()
    return [
        Fact(thing.place, NOT + kind, value)
        for kind in _KINDS_CLAIMS
        if kind in said
        for value in world.values(kind)
        if value != said[kind]
    ]


def _chart_truths(scene: Scene) -> frozenset[Fact]:
    chart = scene.chart
    assert chart is not None
    bars = list(zip(chart.colours, chart.heights, strict=True))
    found: list[Fact] = []
    for pick, word in ((max, "highest"), (min, "lowest")):
        best = pick(chart.heights)
        found += [Fact("chart", word, colour) for colour, height in bars if height == best]
    for colour, height in bars:
        found += [Fact(colour, "above", other) for other, low in bars if height > low]
        found += [Fact(colour, NOT + "above", other) for other, low in bars if height <= low]
    return frozenset(found)


def contradict(
    scene: Scene, claims: tuple[Fact, ...], stranger_share: float, rng: np.random.Generator
) -> Scene:
    """A picture in which claims that hold for this scene are false, but for some of many."""
    denial = any(claim.attribute.startswith(NOT) for claim in claims)
    if rng.random() < stranger_share and not denial:
        scene = stranger(scene, rng)
    wanted = max(1, (len(claims) + 1) // 2)
    for choice in rng.permutation(len(claims))[:wanted]:
        scene = falsify(scene, claims[int(choice)], rng)
    return scene


def falsify(scene: Scene, claim: Fact, rng: np.random.Generator) -> Scene:
    """Change what the claim is about until the claim is false."""
    while claim in truths(scene):
        scene = _step(scene, claim, rng)
    return scene


def _step(scene: Scene, claim: Fact, rng: np.random.Generator) -> Scene:
    if scene.chart is not None:
        whole = claim.attribute in ("place", "count")
        return stranger(scene, rng) if whole else change_numbers(scene, rng, 1)
    world = WORLDS[scene.family]
    if claim.attribute == "count":
        return _recount(scene, world, rng)
    kind = _kind(claim)
    indices = [i for i, thing in enumerate(scene.things) if claim.subject in ("scene", thing.place)]
    index = indices[int(rng.integers(len(indices)))]
    thing = scene.things[index]
    if kind.startswith(NOT):
        changed = replace(thing, **{kind.removeprefix(NOT): claim.value})  # type: ignore[arg-type]
        things = (*scene.things[:index], changed, *scene.things[index + 1 :])
        return with_things(scene, things)
    if kind not in editable(thing):
        if claim.subject == "scene":
            return scene
        kind = "place"
    return alter(scene, index, kind, world, rng)


def _kind(claim: Fact) -> str:
    """The attribute of an object that decides about the claim."""
    if claim.attribute == "corners":
        return "shape"
    if claim.attribute == "fills" or claim.attribute in FILLS:
        return "fill"
    if claim.subject == "scene" and claim.attribute != "word":
        return "colour" if claim.attribute in WORLDS["many"].colours else "shape"
    return claim.attribute


def _recount(scene: Scene, world: World, rng: np.random.Generator) -> Scene:
    """One object more or one less."""
    more = len(scene.things) < max(world.counts)
    if more and (len(scene.things) <= min(world.counts) or rng.random() < 0.5):
        return with_things(scene, (*scene.things, newcomer(scene, world, rng)))
    index = int(rng.integers(len(scene.things)))
    return with_things(scene, scene.things[:index] + scene.things[index + 1 :])
