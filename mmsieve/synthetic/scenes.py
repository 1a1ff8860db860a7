"""Scenes with known truth: the objects, the chart or the table that a synthetic picture shows.

A scene is a plain value, sampled from a seed. `draw` turns it into pixels, `texts`, `assessments`
and `instructions` write about it, `edits` changes it. Its truth is a set of `Fact`s, so whatever is
written about a scene can be checked against it word by word.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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
