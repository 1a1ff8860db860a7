"""Counts over two properties at once: a table of numbers whose colour says how unusual each is."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

STEPS = (0.5, 0.8, 1.25, 2.0, 4.0)
"""Where the colours begin, in times of what chance gives."""
_NARROW = 5
TIMES = ("under 0.5", "from 0.5", "0.8", "1.25", "2", "4 times as many as at random")
"""What the colours of a map against chance say."""


def step_of(count: float, expected: float) -> int:
    """The colour of a count, by how many times the expected one it is."""
    return bisect_right(STEPS, count / expected) if expected else 0


@dataclass(frozen=True)
class HeatCell:
    """A number of the table."""

    text: str
    says: str
    """The number in words."""
    step: int = 0
    """The colour, 0 to 5."""
    below: str = ""
    """A second number."""


@dataclass(frozen=True)
class HeatMap:
    """A table whose cells are coloured."""

    title: str
    rows: list[str]
    columns: list[str]
    cells: list[list[HeatCell]]
    """Of each row its columns."""
    note: str = ""
    legend: tuple[str, ...] = ()
    """What each colour says."""

    @property
    def is_narrow(self) -> bool:
        """Whether the columns' names fit above their numbers."""
        return max(map(len, self.columns), default=0) <= _NARROW


@dataclass(frozen=True)
class Against:
    """How many samples of a cell the pool has, and how many of them were chosen and at random."""

    pool: int
    chosen: int
    random: int

    def cell(self, row: str, column: str, share: float) -> HeatCell:
        """The cell, coloured by how many times the chosen `share` of all rows it holds."""
        if not self.pool:
            return HeatCell("", f"{row}, {column}: none in the pool")
        step = step_of(self.chosen, self.pool * share)
        says = (
            f"{row}, {column}: {self.chosen:,} of {self.pool:,} chosen "
            f"({self.chosen / self.pool:.1%}); at random {self.random:,}"
        )
        return HeatCell(f"{self.chosen:,}", says, step, f"{self.random:,}")


def counted_map(
    title: str, rows: Sequence[str], columns: Sequence[str], counts: Sequence[Sequence[int]]
) -> HeatMap:
    """A map of plain counts [rows, columns], coloured by their part of the largest."""
    most = max((max(row, default=0) for row in counts), default=0) or 1
    cells = [
        [
            HeatCell(f"{n:,}" if n else "", f"{row}, {column}: {n:,}", -(-5 * n // most))
            for column, n in zip(columns, of_row, strict=True)
        ]
        for row, of_row in zip(rows, counts, strict=True)
    ]
    return HeatMap(title, list(rows), list(columns), cells)
