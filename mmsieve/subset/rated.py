"""What a selection reads: rated samples from a table or from the published code's result files."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import polars as pl

from mmsieve.cut.inputs import TableFile
from mmsieve.subset.pool import Pool


class Rated(Protocol):
    """Rated samples: the numbers to choose by, and the names of the chosen."""

    name: str
    """What the decisions' headers call it."""
    path: Path
    files: Sequence[TableFile]
    notes: list[str]
    pool: Pool

    def named(self) -> Iterator[tuple[TableFile, pl.DataFrame]]:
        """`key` and `shard` of all rows in order, some at a time."""
        ...
