"""Lookup: another table's values for rows in order, joined by a column, in bounded memory.

Both sides are cut into parts by the hash of the join column. Each part is joined by itself and
kept on disk in the order of the rows that asked, so that they can be read back row after row.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from mmsieve.cut.hashing import hash_strings

PART_ROWS = 1 << 19
"""Rows of the other table that one part holds in memory."""
MOST_PARTS = 512
_BUFFER = 1 << 18
_RUN_ROWS = 1 << 13
ON = "on"
"""The join column of both sides."""
ROW = "row"
_PART, _FOUND = "part", "found"


class Lookup:
    """The joined values, read in the order of the rows."""

    def __init__(self, runs: list[Path], matched: int) -> None:
        self.matched = matched
        """Rows that were found in the other table."""
        self._runs = [_Run(run) for run in runs]
        self._row = 0

    def take(self, count: int) -> pl.DataFrame:
        """The values for the next `count` rows; null where the other table has no such row."""
        self._row += count
        frame = pl.concat([run.take_below(self._row) for run in self._runs]).sort(ROW)
        assert frame.height == count, "every row is in exactly one part"
        return frame.drop(ROW)


def look_up(
    rows: Iterable[pl.Series],
    other: Iterable[pl.DataFrame],
    empty: pl.DataFrame,
    size: int,
    folder: Path,
) -> Lookup:
    """Join `rows` (values of the join column) with `other`, which has about `size` rows.

    `other`, and `empty` which shows its types, have the join column as ON, and what to look up.
    Raises DuplicateError where one of its values comes twice: which row is meant isn't known.
    """
    parts = min(MOST_PARTS, 1 + size // PART_ROWS)
    none = pl.DataFrame(schema={ON: pl.String, ROW: pl.UInt64})
    right = _partition(_rebatch(other, _BUFFER), empty, parts, folder / "right")
    left = _partition(_rebatch(_numbered(rows), _BUFFER), none, parts, folder / "left")
    runs = [folder / f"run-{part}" for part in range(parts)]
    matched = sum(_join(*files) for files in zip(left, right, runs, strict=True))
    return Lookup(runs, matched)


class DuplicateError(Exception):
    """A value of the join column that comes more than once."""


class _Run:
    """One part's joined rows, read in order."""

    def __init__(self, path: Path) -> None:
        self._frames = _frames(path)
        self._frame = next(self._frames)

    def take_below(self, row: int) -> pl.DataFrame:
        """The rows not yet taken whose number is below `row`."""
        taken = []
        while True:
            count = int(self._frame[ROW].search_sorted(row, side="left"))
            taken.append(self._frame.head(count))
            self._frame = self._frame.slice(count)
            if self._frame.height:
                return pl.concat(taken)
            following = next(self._frames, None)
            if following is None:
                return pl.concat(taken)
            self._frame = following


def _numbered(rows: Iterable[pl.Series]) -> Iterator[pl.DataFrame]:
    start = 0
    for values in rows:
        numbers = pl.Series(ROW, np.arange(start, start + len(values), dtype=np.uint64))
        yield pl.DataFrame([values.cast(pl.String).alias(ON), numbers])
        start += len(values)


def _rebatch(frames: Iterable[pl.DataFrame], rows: int) -> Iterator[pl.DataFrame]:
    """The same rows in frames of `rows` or somewhat more."""
    waiting: list[pl.DataFrame] = []
    height = 0
    for frame in frames:
        waiting.append(frame)
        height += frame.height
        if height >= rows:
            yield pl.concat(waiting)
            waiting, height = [], 0
    if waiting:
        yield pl.concat(waiting)


def _partition(
    frames: Iterable[pl.DataFrame], empty: pl.DataFrame, parts: int, folder: Path
) -> list[Path]:
    """Append each row to the file of its part."""
    folder.mkdir()
    paths = [folder / str(part) for part in range(parts)]
    with ExitStack() as stack:
        schema = _arrow(empty).schema
        writers = [stack.enter_context(pa.ipc.new_stream(str(path), schema)) for path in paths]
        for frame in frames:
            part = pl.Series(_PART, hash_strings(frame[ON]) % np.uint64(parts))
            for piece in frame.with_columns(part).partition_by(_PART, maintain_order=True):
                writers[piece[_PART][0]].write_table(_arrow(piece.drop(_PART)))
    return paths


def _join(left: Path, right: Path, run: Path) -> int:
    """Join one part and write it in the order of the left rows; returns the number of matches."""
    others = pl.concat(_frames(right)).drop_nulls(ON)
    twice = others.filter(pl.col(ON).is_duplicated())
    if twice.height:
        raise DuplicateError(twice[ON].min())
    others = others.with_columns(pl.lit(True).alias(_FOUND))
    matched = 0
    with ExitStack() as stack:
        writer = None
        for rows in _rebatch(_frames(left), _BUFFER):
            joined = rows.join(others, on=ON, how="left", maintain_order="left").drop(ON)
            matched += joined[_FOUND].count()
            table = _arrow(joined.drop(_FOUND))
            if writer is None:
                writer = stack.enter_context(pa.ipc.new_stream(str(run), table.schema))
            writer.write_table(table, max_chunksize=_RUN_ROWS)
    return matched


def _arrow(frame: pl.DataFrame) -> pa.Table:
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest())


def _frames(path: Path) -> Iterator[pl.DataFrame]:
    """The frames of a file, after an empty one that shows its columns."""
    with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
        yield pl.DataFrame(reader.schema.empty_table())
        for batch in reader:
            yield pl.DataFrame(batch)
