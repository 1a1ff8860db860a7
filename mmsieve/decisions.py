"""Decisions: which samples stay, and why the others don't: a folder, or one file.

A decision file is a table file of kind `decisions`: its header's fingerprint says how the cut was
asked for, its notes what was found.
"""

import glob
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self, TypeAlias
from uuid import uuid4

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmsieve import table
from mmsieve.cut.inputs import TableFile
from mmsieve.errors import RequestError
from mmsieve.table import Header

MakeHeader: TypeAlias = Callable[[TableFile | None, str, int, int], Header]

KIND = "decisions"
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("keep", pa.bool_(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("score", pa.float32()),
    ]
)
_GROUP_ROWS = 1 << 16


@dataclass(frozen=True)
class Decisions:
    """Decisions that were written before: of any verb, or anyone's with `key`, `shard`, `keep`."""

    path: Path

    @cached_property
    def files(self) -> Mapping[str, Path]:
        """The decision files by shard; one under an empty name where all are in one file."""
        return table.files(self.path) if self.path.is_dir() else {"": self.path}

    @property
    def is_folder(self) -> bool:
        """Whether each shard has a file of its own."""
        return self.path.is_dir()

    @cached_property
    def _groups(self) -> dict[str, list[int]]:
        """Shard -> the row groups that have its rows, where all shards are in one file."""
        groups: dict[str, list[int]] = {}
        with pq.ParquetFile(self.path) as parquet:
            for number in range(parquet.num_row_groups):
                shards = parquet.read_row_group(number, ["shard"], use_threads=False)["shard"]
                for shard in pc.unique(shards).to_pylist():
                    groups.setdefault(str(shard), []).append(number)
        return groups

    @property
    def shards(self) -> Sequence[str]:
        """The names of all shards, sorted."""
        return sorted(self.files if self.is_folder else self._groups)

    def kept(self, shard: str) -> list[str]:
        """The keys of a shard's kept samples, in the order of the rows."""
        path = self.files[shard] if self.is_folder else self.path
        try:
            with pq.ParquetFile(path) as parquet:
                if self.is_folder:
                    rows = parquet.read(["key", "keep"], use_threads=False)
                else:
                    groups = self._groups[shard]
                    rows = parquet.read_row_groups(groups, ["key", "shard", "keep"])
                    rows = rows.filter(pc.equal(rows["shard"], shard))
        except (pa.ArrowException, OSError) as error:
            raise RequestError(f"{path}: can't be read ({error}): filter again") from error
        return [str(key) for key in rows.filter(rows["keep"])["key"].to_pylist()]

    def source_size(self, shard: str) -> int | None:
        """Bytes of the shard's source when it was scored, where that is known."""
        header = table.read_header(self.files[shard]) if self.is_folder else None
        return header.size or None if header is not None else None


def open_decisions(path: Path) -> Decisions:
    """Open decisions; raises RequestError where there are none."""
    decisions = Decisions(path)
    if not path.exists():
        raise RequestError(f"--decisions {path}: no such folder or file; make them with filter")
    if not decisions.files:
        raise RequestError(f"--decisions {path}: holds no Parquet file; make them with filter")
    for file in decisions.files.values():
        try:
            names = set(pq.read_schema(file).names)
        except (pa.ArrowException, OSError) as error:
            raise RequestError(f"{file}: can't be read ({error}): filter again") from error
        missing = sorted({"key", "keep", *([] if decisions.is_folder else ["shard"])} - names)
        if missing:
            raise RequestError(f"{file}: not decisions, there is no column {', '.join(missing)}")
    return decisions


class DecisionFile:
    """Writes one decision file, some rows at a time."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(path, SCHEMA)
        self._waiting: list[pa.Table] = []
        self.rows = 0
        self.kept = 0

    def add(self, rows: pl.DataFrame) -> None:
        """Add rows that have the columns of SCHEMA."""
        added = pa.Table.from_batches(rows.to_arrow().to_batches()).cast(SCHEMA)
        self._waiting.append(added)
        self.rows += rows.height
        self.kept += int(rows["keep"].sum())
        if sum(waiting.num_rows for waiting in self._waiting) >= _GROUP_ROWS:
            self._flush()

    def close(self, header: Header) -> None:
        """Write the header and finish."""
        self._flush()
        self._writer.add_key_value_metadata(table.header_metadata(header))
        self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
        self._waiting = []


class DecisionWriter:
    """Writes decisions to a new place, which gets its name when all are there."""

    def __init__(self, out: Path, header: MakeHeader) -> None:
        """`header` makes a file's: of its shard (None: of all), name, rows and kept rows."""
        self._out = out
        self._header = header
        self._staging = out.with_name(f".{out.name}.{uuid4().hex}.tmp")
        self._current: TableFile | None = None
        self._file: DecisionFile | None = None
        self.is_one_file = out.suffix == ".parquet"

    def add(self, source: TableFile, rows: pl.DataFrame) -> None:
        """Add rows of one of the table's files; the rows of a file come one after the other."""
        if self._file is None or (source is not self._current and not self.is_one_file):
            self._close_file()
            name = f"{source.shard}.parquet"
            self._file = DecisionFile(self._staging if self.is_one_file else self._staging / name)
        self._current = source
        self._file.add(rows)

    def finish(self) -> None:
        """Give the decisions their name, in place of what has it."""
        self._close_file()
        old = self._out.with_name(f".{self._out.name}.{uuid4().hex}.old.tmp")
        if self._out.is_dir():  # a folder can't be replaced in one step
            self._out.rename(old)
        self._staging.rename(self._out)
        shutil.rmtree(old, ignore_errors=True)

    def _close_file(self) -> None:
        if self._file is not None:
            source = None if self.is_one_file else self._current
            name = self._out.stem if source is None else source.shard
            self._file.close(self._header(source, name, self._file.rows, self._file.kept))
        self._file = None

    def __enter__(self) -> Self:
        self._out.parent.mkdir(parents=True, exist_ok=True)
        for leftover in self._out.parent.glob(f".{glob.escape(self._out.name)}.*.tmp"):
            _remove(leftover)  # what a killed run left
        return self

    def __exit__(self, *_: object) -> None:
        _remove(self._staging)


def check_replaceable(out: Path, fingerprint: dict[str, str], overwrite: bool) -> bool:
    """Whether decisions of the same cut are there; raises RequestError where --out can't be used.

    Nothing that isn't a decision is ever replaced.
    """
    files = Decisions(out).files if out.exists() else {}
    others = [] if out.is_file() or not out.exists() else _others(out)
    if others:
        raise RequestError(f"--out {out}: holds {others[0]}, no decisions: choose another folder")
    same = bool(files)
    for path in files.values():
        header = table.existing_header(path)
        if header is None or header.kind != KIND:
            raise RequestError(f"--out {out}: {path} isn't decisions: choose another --out")
        same = same and header.fingerprint == fingerprint
    if files and not same and not overwrite:
        raise RequestError(
            f"--out {out}: holds decisions of another cut: choose another --out, or --overwrite"
        )
    return same


def _others(folder: Path) -> list[str]:
    """Names in the folder that no decision file has."""
    found = (path for path in folder.rglob("*") if not path.is_dir())
    return [p.relative_to(folder).as_posix() for p in found if p.suffix != ".parquet"]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
