"""Spool: numbers kept on disk while a cut is found, so that memory doesn't grow with the data."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import numpy as np
import numpy.typing as npt

Records: TypeAlias = npt.NDArray[np.void]
Numbers: TypeAlias = npt.NDArray[np.uint64]

BLOCK = 1 << 20
"""Records read at a time."""


class Spool:
    """Records of one dtype, appended in order and then read in blocks or by range."""

    def __init__(self, folder: Path, dtype: npt.DTypeLike) -> None:
        self.dtype = np.dtype(dtype)
        self.rows = 0
        self._path = folder / f"{uuid4().hex}.spool"
        self._path.touch()

    def append(self, records: npt.NDArray[Any]) -> None:
        """Add records of the spool's dtype at the end."""
        with self._path.open("ab") as file:
            records.tofile(file)
        self.rows += len(records)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """The records from `start` to before `stop`."""
        count = min(stop, self.rows) - start
        offset = start * self.dtype.itemsize
        return np.fromfile(self._path, self.dtype, count=max(count, 0), offset=offset)

    def blocks(self, rows: int = BLOCK) -> Iterator[npt.NDArray[Any]]:
        """All records in order, some at a time."""
        for start in range(0, self.rows, rows):
            yield self.read(start, start + rows)


def records(dtype: npt.DTypeLike, **fields: npt.ArrayLike) -> Records:
    """Records from one array per field."""
    size = len(np.asarray(next(iter(fields.values()))))
    made = np.empty(size, dtype)
    for name, values in fields.items():
        made[name] = values
    return made
