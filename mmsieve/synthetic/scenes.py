"""Scenes with known truth: what a synthetic picture shows, and changes that make a text false.

A scene is a plain value, sampled from a seed. Its truth is a set of `Fact`s, so whatever is written
about it can be checked word by word. A text is written first, as a true one about its own scene;
what is false is the picture beside it: nothing else tells right and wrong texts apart.

Captions and documents describe a scene at one of three distances from the picture: one property
(`change_one`), several while every object stays recognisable (`change_several`), or a stranger that
shares no object's colour or shape with what stands in the same place (`stranger`). Answers to
questions are shown with a picture in which a statement of theirs is false (`contradict`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple, TypeVar

import numpy as np

_T = TypeVar("_T")

GRID = 3
PLACES = (
    "top-left", "top", "top-right",
    "left", "center", "right",
    "bottom-left", "bottom", "bottom-right",
)  # fmt: skip

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 38, 38),
    "green": (38, 158, 58),
    "blue": (42, 78, 214),
    "yellow": (236, 206, 36),
    "purple": (140, 48, 172),
    "orange": (242, 128, 26),
    "black": (24, 24, 28),
    "teal": (24, 150, 152),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "ring")
FILLS = ("solid", "striped", "dotted")
SIZES = ("small", "large")
CORNERS = {"circle": 0, "ring": 0, "square": 4, "triangle": 3, "star": 5, "cross": 12, "diamond": 4}
WORDS = ("SUN", "CAT", "BUS", "MAP", "TEA", "FOX")
SIGN = "sign"
"""The shape of an object that carries a word."""
ROW_NAMES = ("apples", "pears", "plums", "figs")
COLUMN_NAMES = ("may", "june", "july")


class Fact(NamedTuple):
    """One checkable statement about a scene: of `subject`, the `attribute` is `value`."""

    subject: str
    attribute: str
    value: str


@dataclass(frozen=True, slots=True)
class Thing:
    """One object in one cell of the grid. A sign has a word, and neither fill nor size."""

    cell: int
    shape: str
    colour: str
    fill: str = ""
    size: str = ""
    word: str = ""

    @property
    def place(self) -> str:
        """The name of its cell, which is how sentences point at it."""
        return PLACES[self.cell]

    def attributes(self) -> dict[str, str]:
        """The attributes that it has, besides its place."""
        names = ("shape", "colour", "fill", "size", "word")
        return {name: value for name in names if (value := getattr(self, name))}

    def facts(self) -> list[Fact]:
        """Its place, and its attributes under that place's name."""
        said = {"place": self.place} | self.attributes()
        return [Fact(self.place, name, value) for name, value in said.items()]


@dataclass(frozen=True, slots=True)
class BarChart:
    """A bar chart: colours from left to right and their heights, whole numbers."""

    colours: tuple[str, ...]
    heights: tuple[int, ...]

    def facts(self) -> list[Fact]:
        """One fact per bar, and the number of bars."""
        found = [Fact("chart", "count", str(len(self.colours)))]
        for colour, height in zip(self.colours, self.heights, strict=True):
            found += [Fact(colour, "place", colour), Fact(colour, "height", str(height))]
        return found


@dataclass(frozen=True, slots=True)
class NumberTable:
    """A table of small numbers, addressed by row and column name."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[int, ...]

    def at(self, row: str, column: str) -> int:
        """The number in one cell."""
        return self.cells[self.rows.index(row) * len(self.columns) + self.columns.index(column)]

    def facts(self) -> list[Fact]:
        """One fact per cell, and one per name, for what can be missing."""
        found = [Fact(name, "place", name) for name in (*self.rows, *self.columns)]
        for row, column in product(self.rows, self.columns):
            cell, number = f"{row} {column}", str(self.at(row, column))
            found += [Fact(cell, "place", cell), Fact(cell, "number", number)]
        return found


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture's truth. `seed` decides only how it is drawn: jitter, shades and noise."""

    family: str
    seed: int
    tint: tuple[int, int, int]
    things: tuple[Thing, ...] = ()
    chart: BarChart | None = None
    table: NumberTable | None = None

    def facts_in_order(self) -> list[Fact]:
        """What is true of its objects, bars or cells, in reading order."""
        parts = (*self.things, self.chart, self.table)
        return [fact for part in parts if part for fact in part.facts()]

    def facts(self) -> frozenset[Fact]:
        """All that is true and can be said."""
        count = [Fact("scene", "count", str(len(self.things)))] if self.things else []
        return frozenset(self.facts_in_order() + count)

    def thing_at(self, cell: int) -> Thing | None:
        """What stands in a cell, if anything does."""
        return next((thing for thing in self.things if thing.cell == cell), None)


Scenes = tuple[Scene, ...]
"""The pictures of a document or a conversation."""


@dataclass(frozen=True, slots=True)
class World:
    """What the scenes of a family may contain. `core` is what the tiny models must master."""

    name: str
    counts: tuple[int, ...] = (2, 3)
    cells: tuple[int, ...] = (1, 3, 4, 5, 7)
    shapes: tuple[str, ...] = SHAPES[:5]
    colours: tuple[str, ...] = tuple(COLOURS)[:6]
    fills: tuple[str, ...] = FILLS[:2]
    sizes: tuple[str, ...] = ()
    words: tuple[str, ...] = WORDS
    sign_share: float = 0.1

    @property
    def has_things(self) -> bool:
        """Whether its scenes are made of objects; documents are only written over those."""
        return self.name not in ("chart", "table")

    def values(self, attribute: str) -> tuple[str, ...]:
        """What an attribute of an object may be."""
        options: tuple[str, ...] = getattr(self, f"{attribute}s")
        return options


WORLDS: dict[str, World] = {
    world.name: world
    for world in (
        World("core"),
        World("many", (4, 5, 6), tuple(range(len(PLACES))), SHAPES, tuple(COLOURS), FILLS, SIZES),
        World("chart", counts=(3, 4)),
        World("table", counts=(2, 3)),
    )
}


def pick_one(rng: np.random.Generator, options: Sequence[_T]) -> _T:
    """One of the options. Faster than `rng.choice`, and it keeps the type."""
    return options[int(rng.integers(len(options)))]


def pick_several(rng: np.random.Generator, options: Sequence[_T], count: int) -> tuple[_T, ...]:
    """Several different options, in random order."""
    return tuple(options[int(i)] for i in rng.permutation(len(options))[:count])


def sample_thing(world: World, cell: int, rng: np.random.Generator, *, sign: bool) -> Thing:
    """One object for a cell."""
    colour = pick_one(rng, world.colours)
    if sign:
        return Thing(cell, SIGN, colour, word=pick_one(rng, world.words))
    shape, fill = pick_one(rng, world.shapes), pick_one(rng, world.fills)
    return Thing(cell, shape, colour, fill, pick_one(rng, world.sizes) if world.sizes else "")


def _sample_things(world: World, count: int, rng: np.random.Generator) -> tuple[Thing, ...]:
    """Objects in reading order; at most one of them is a sign."""
    cells = sorted(pick_several(rng, world.cells, count))
    sign = int(rng.integers(count)) if rng.random() < world.sign_share * count else -1
    return tuple(sample_thing(world, cell, rng, sign=i == sign) for i, cell in enumerate(cells))


def sample_scene(family: str, seed: int) -> Scene:
    """The scene of a family that belongs to a seed; always the same one."""
    rng = np.random.default_rng(seed)
    world = WORLDS[family]
    red, green, blue = map(int, rng.integers(214, 256, 3))
    tint = (red, green, blue)
    count = pick_one(rng, world.counts)
    draw_seed = int(rng.integers(2**62))
    if family == "chart":
        heights = tuple(map(int, rng.integers(1, 10, count)))
        chart = BarChart(pick_several(rng, world.colours, count), heights)
        return Scene(family, draw_seed, tint, chart=chart)
    if family == "table":
        columns = COLUMN_NAMES[: 2 + int(rng.integers(2))]
        cells = tuple(map(int, rng.integers(0, 10, count * len(columns))))
        table = NumberTable(pick_several(rng, ROW_NAMES, count), columns, cells)
        return Scene(family, draw_seed, tint, table=table)
    return Scene(family, draw_seed, tint, things=_sample_things(world, count, rng))


_WEIGHTS = {
    "colour": 4, "shape": 4, "fill": 3, "size": 3, "word": 4, "place": 3, "add": 1, "drop": 1
}  # fmt: skip
"""How often one change is of each kind, of those that a scene allows."""
NOT = "not "
"""Before an attribute: of `subject`, the attribute is anything but `value`."""
_DENIABLE = ("colour", "shape", "fill")  # attributes that an answer may deny or count


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
        return replace_thing(scene, int(rng.integers(len(scene.things))))
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
    subject, attribute, _ = statement
    if attribute == "corners":
        return "shape"
    if attribute == "fills" or attribute in FILLS:
        return "fill"
    if subject == "scene" and attribute != "word":
        return "colour" if attribute in WORLDS["many"].colours else "shape"
    return attribute


def _recount(scene: Scene, world: World, rng: np.random.Generator) -> Scene:
    more = len(scene.things) < max(world.counts)
    if more and (len(scene.things) <= min(world.counts) or rng.random() < 0.5):
        return _add(scene, world, rng)
    return replace_thing(scene, int(rng.integers(len(scene.things))))
