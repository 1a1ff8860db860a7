"""Changes to a scene that make a true text about it false.

A text is written first, as a true one about its own scene; what is false is the picture beside it.
So right and wrong texts follow the same rules, and nothing but the picture tells them apart.

Captions and documents describe a scene at one of three distances from the picture: one property
(`change_one`), several while every object stays recognisable (`change_several`), or a stranger that
shares no object's colour or shape with what stands in the same place (`stranger`). Answers to
questions are shown with a picture in which a statement of theirs is false (`contradict`).
"""

from dataclasses import replace
from itertools import product

import numpy as np

from mmsieve.synthetic.scenes import (
    CORNERS,
    FILLS,
    SIGN,
    WORLDS,
    BarChart,
    Fact,
    Scene,
    Scenes,
    Thing,
    World,
    pick_one,
    sample_scene,
    sample_thing,
)

_WEIGHTS = {
    "colour": 4, "shape": 4, "fill": 3, "size": 3, "word": 4, "place": 3, "add": 1, "drop": 1
}  # fmt: skip
"""How often one change is of each kind, of those that a scene allows."""
NOT = "not "
"""Before an attribute: of `subject`, the attribute is anything but `value`."""
_DENIABLE = ("colour", "shape", "fill")
"""Attributes that an answer may deny or count."""


def change_one(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with exactly one property changed."""
    if scene.chart or scene.table:
        return _change_numbers(scene, rng, 1)
    world = WORLDS[scene.family]
    kinds = [kind for kind in _WEIGHTS if _possible(scene, world, kind)]
    weights = np.array([_WEIGHTS[kind] for kind in kinds], dtype=float)
    kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
    if kind == "add":
        return _add(scene, world, rng)
    if kind == "drop":
        return _drop(scene, rng)
    index = pick_one(rng, [i for i, thing in enumerate(scene.things) if kind in _editable(thing)])
    return alter(scene, index, kind, world, rng)


def change_several(scene: Scene, rng: np.random.Generator) -> Scene:
    """About half of the properties changed; every object keeps its place and colour or shape."""
    if scene.chart or scene.table:
        return _change_numbers(scene, rng)
    world = WORLDS[scene.family]
    changes: list[tuple[int, str]] = []
    for index, thing in enumerate(scene.things):
        changes.append((index, pick_one(rng, ("colour", "word" if thing.word else "shape"))))
        changes += [(index, kind) for kind in ("fill", "size") if getattr(thing, kind)]
    count = int(rng.integers(min(3, len(changes)), len(changes) + 1))
    for choice in rng.permutation(len(changes))[:count]:
        index, kind = changes[int(choice)]
        scene = alter(scene, index, kind, world, rng)
    return scene


def stranger(scene: Scene, rng: np.random.Generator) -> Scene:
    """Another scene of the same family in which nothing fits the first one."""
    return stranger_to((scene,), rng)


def stranger_to(scenes: Scenes, rng: np.random.Generator) -> Scene:
    """Another scene that is a stranger to each of these."""
    while True:
        other = sample_scene(scenes[0].family, int(rng.integers(2**62)))
        if all(_strange(other, scene) for scene in scenes):
            return other


def _strange(other: Scene, scene: Scene) -> bool:
    if scene.chart or scene.table:
        shared = [fact for fact in other.facts() & scene.facts() if fact.attribute != "place"]
        return len(shared) <= 1
    pairs = [(thing, scene.thing_at(thing.cell)) for thing in other.things]
    alike = any(old and (old.colour == new.colour or old.shape == new.shape) for new, old in pairs)
    return not alike and any(old is None for _, old in pairs)


def replace_thing(scene: Scene, index: int, *changed: Thing) -> Scene:
    """The scene with another object, or none or several, for one; in reading order again."""
    things = (*scene.things[:index], *changed, *scene.things[index + 1 :])
    return replace(scene, things=tuple(sorted(things, key=lambda thing: thing.cell)))


def _editable(thing: Thing) -> tuple[str, ...]:
    """What of an object can be changed; a sign stays a sign."""
    return ("place", *(kind for kind in thing.attributes() if kind != "shape" or not thing.word))


def _free(scene: Scene, world: World) -> list[int]:
    return [cell for cell in world.cells if scene.thing_at(cell) is None]


def _possible(scene: Scene, world: World, kind: str) -> bool:
    if kind == "add":
        return len(scene.things) < max(world.counts)
    if kind == "drop":
        return len(scene.things) > min(world.counts)
    if kind == "place" and not _free(scene, world):
        return False
    return any(kind in _editable(thing) for thing in scene.things)


def _add(scene: Scene, world: World, rng: np.random.Generator) -> Scene:
    newcomer = sample_thing(world, pick_one(rng, _free(scene, world)), rng, sign=False)
    return replace_thing(scene, len(scene.things), newcomer)


def _drop(scene: Scene, rng: np.random.Generator) -> Scene:
    return replace_thing(scene, int(rng.integers(len(scene.things))))


def alter(scene: Scene, index: int, kind: str, world: World, rng: np.random.Generator) -> Scene:
    """Give one object another value of one attribute."""
    thing = scene.things[index]
    if kind == "place":
        return replace_thing(scene, index, replace(thing, cell=pick_one(rng, _free(scene, world))))
    others = [value for value in world.values(kind) if value != getattr(thing, kind)]
    return _set(scene, index, kind, pick_one(rng, others))


def _set(scene: Scene, index: int, kind: str, value: str) -> Scene:
    changed = replace(scene.things[index], **{kind: value})  # type: ignore[arg-type]
    return replace_thing(scene, index, changed)


def _change_numbers(scene: Scene, rng: np.random.Generator, count: int | None = None) -> Scene:
    """Other numbers in a chart or table, well off: this many, or half of them and one more."""
    chart, table = scene.chart, scene.table
    numbers = list(chart.heights if chart is not None else table.cells if table is not None else ())
    lowest = 1 if chart is not None else 0
    for index in map(int, rng.permutation(len(numbers))[: count or len(numbers) // 2 + 1]):
        far = [value for value in range(lowest, 10) if abs(value - numbers[index]) >= 3]
        numbers[index] = pick_one(rng, far)
    if chart is not None:
        return replace(scene, chart=replace(chart, heights=tuple(numbers)))
    assert table is not None
    return replace(scene, table=replace(table, cells=tuple(numbers)))


def entailed_facts(scene: Scene) -> frozenset[Fact]:
    """All facts of a scene (objects or a chart) and what follows from them, denials included."""
    if scene.chart is not None:
        return scene.facts() | _entailed_by_chart(scene.chart)
    world = WORLDS[scene.family]
    found = [Fact("scene", "fills", common_fill(scene))]
    for kind in _DENIABLE:
        truths = [(thing.place, getattr(thing, kind)) for thing in scene.things]
        for value in world.values(kind):
            others = [place for place, truth in truths if truth not in ("", value)]
            found += [Fact(place, NOT + kind, value) for place in others]
            number = sum(truth == value for _, truth in truths)
            found.append(Fact("scene", value, str(number)))
    for thing in scene.things:
        if thing.word:
            found.append(Fact("scene", "word", thing.word))
        if thing.shape != SIGN:
            found.append(Fact(thing.place, "corners", str(CORNERS[thing.shape])))
    return scene.facts() | frozenset(found)


def common_fill(scene: Scene) -> str:
    """The fill that all objects share (signs have none), or `mixed`."""
    fills = {thing.fill for thing in scene.things if thing.fill}
    return fills.pop() if len(fills) == 1 else "mixed"


def _entailed_by_chart(chart: BarChart) -> frozenset[Fact]:
    bars = list(zip(chart.colours, chart.heights, strict=True))
    found: list[Fact] = []
    for best, word in ((max(chart.heights), "highest"), (min(chart.heights), "lowest")):
        found += [Fact("chart", word, colour) for colour, height in bars if height == best]
    for (one, height), (other, low) in product(bars, repeat=2):
        found.append(Fact(one, "above" if height > low else NOT + "above", other))
    return frozenset(found)


def contradict(
    scene: Scene, statements: tuple[Fact, ...], stranger_share: float, rng: np.random.Generator
) -> Scene:
    """A picture in which about half or more of these statements, true of the scene, are false."""
    denial = any(statement.attribute.startswith(NOT) for statement in statements)
    if rng.random() < stranger_share and not denial:
        scene = stranger(scene, rng)
    wanted = max(1, (len(statements) + 1) // 2)
    for choice in rng.permutation(len(statements))[:wanted]:
        scene = falsify(scene, statements[int(choice)], rng)
    return scene


def falsify(scene: Scene, statement: Fact, rng: np.random.Generator) -> Scene:
    """Change what the statement is about until it is false."""
    while statement in entailed_facts(scene):
        scene = _change_subject(scene, statement, rng)
    return scene


def _change_subject(scene: Scene, statement: Fact, rng: np.random.Generator) -> Scene:
    """One change to what the statement is about, which may leave it true."""
    subject, attribute, value = statement
    if scene.chart is not None:
        whole = attribute in ("place", "count")
        return stranger(scene, rng) if whole else _change_numbers(scene, rng, 1)
    world = WORLDS[scene.family]
    if attribute == "count":
        return _recount(scene, world, rng)
    kind = _deciding_attribute(statement)
    index = pick_one(rng, [i for i, t in enumerate(scene.things) if subject in ("scene", t.place)])
    if kind.startswith(NOT):
        return _set(scene, index, kind.removeprefix(NOT), value)
    if kind not in _editable(scene.things[index]):
        if subject == "scene":
            return scene
        kind = "place"
    return alter(scene, index, kind, world, rng)


def _deciding_attribute(statement: Fact) -> str:
    """The attribute of an object that decides about the statement."""
    subject, attribute, _ = statement
    if attribute == "corners":
        return "shape"
    if attribute == "fills" or attribute in FILLS:
        return "fill"
    if subject == "scene" and attribute != "word":
        return "colour" if attribute in WORLDS["many"].colours else "shape"
    return attribute


def _recount(scene: Scene, world: World, rng: np.random.Generator) -> Scene:
    """One object more or one less."""
    more = len(scene.things) < max(world.counts)
    if more and (len(scene.things) <= min(world.counts) or rng.random() < 0.5):
        return _add(scene, world, rng)
    return _drop(scene, rng)
