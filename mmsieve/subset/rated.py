"""What a selection reads: rated samples from a table or from the published code's result files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import polars as pl

from mmsieve.cut.inputs import TableFile
from mmsieve.subset.pool import Pool

Origins: TypeAlias = Sequence[tuple[TableFile, int]]
"""Files, and how many rows of each."""


class Rated(Protocol):
    """Rated samples: the numbers to choose by, and the names of the chosen."""

    name: str
    """What the decisions' headers call it."""
    path: Path
    notes: list[str]
    capabilities: list[str]

    @property
    def files(self) -> Sequence[TableFile]:
        """The files that the rows are from; decisions are cut like them."""
        ...

    @property
    def pool(self) -> Pool:
        """The numbers to choose by."""
        ...

    def named(self) -> Iterator[tuple[Origins, pl.DataFrame]]:
        """`key` and `shard` of all rows in order, some at a time, and from which files."""
        ...
