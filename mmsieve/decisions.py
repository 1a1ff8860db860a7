"""Decisions: which samples stay, and why the others don't: a folder, or one file.

A decision file is a table file of kind `decisions`: its header's fingerprint says how the cut was
asked for, its notes what was found.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TypeAlias

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmsieve import tables
from mmsieve.errors import RequestError
from mmsieve.outputs import check_apart, check_folder, is_same_request, not_ours, staged
from mmsieve.sources import one_line
from mmsieve.tables import Header, TableFile

MakeHeader: TypeAlias = Callable[[TableFile | None, str, int, int], Header]

KIND = "decisions"
_WRITERS = 2
"""Files of a folder that are written at a time."""
_Piece: TypeAlias = tuple[TableFile, pa.Table]
"""Rows of one of the table's files."""
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


class Decisions:
    """Decisions that were written before: of any verb, or anyone's with `key`, `shard`, `keep`.

    Raises RequestError where they can't be read, or aren't decisions.
    """

    def __init__(self, path: Path) -> None:
        self.label = f"--decisions {path}"
        self.path = path
        self._groups: dict[str, list[tuple[Path, int]]] = {}
        """Shard -> the row groups that hold its rows."""
        self._sizes: dict[str, int] = {}
        files = decision_files(path)
        if not files:
            raise RequestError(f"--decisions {path}: no decisions there; make them with filter")
        for name, file in files.items():
            with _reading(file):
                self._add(name, file)

    @property
    def shards(self) -> Sequence[str]:
        """The names of all shards, sorted."""
        return sorted(self._groups)

    def kept(self, shard: str) -> list[str]:
        """The keys of a shard's kept samples, in the order of the rows."""
        keys: list[str] = []
        for path, groups in groupby(self._groups[shard], key=lambda place: place[0]):
            with _reading(path), pq.ParquetFile(path) as parquet:
                names = [n for n in ("key", "shard", "keep") if n in parquet.schema_arrow.names]
                rows = parquet.read_row_groups([number for _, number in groups], names)
                if "shard" in names:
                    rows = rows.filter(pc.equal(rows["shard"], shard))
                keys += rows.filter(rows["keep"])["key"].cast(pa.string()).to_pylist()
        return keys

    def source_size(self, shard: str) -> int | None:
        """Bytes of the shard's source when it was scored, where that is known."""
        return self._sizes.get(shard)

    def _add(self, name: str, path: Path) -> None:
        with pq.ParquetFile(path) as parquet:
            header = tables.read_header(path)
            is_ours = header is not None and header.kind == KIND
            if header is not None and is_ours and header.shard == name and header.size:
                self._sizes[name] = header.size
            types = dict(zip(parquet.schema_arrow.names, parquet.schema_arrow.types, strict=True))
            by_name = path != self.path  # a file of a folder is named after its shard
            for column in ("key", "keep") if by_name else ("key", "keep", "shard"):
                if column not in types:
                    raise RequestError(f"{path}: not decisions, there is no column {column}")
            if not pa.types.is_boolean(types["keep"]):
                raise RequestError(f"{path}: not decisions, keep is {types['keep']}, not a bool")
            if by_name:
                self._groups.setdefault(name, [])
            for number in range(parquet.num_row_groups):
                shards = [name]
                if "shard" in types:
                    shards = _shards(parquet, number, trust_statistics=is_ours)
                for shard in shards:
                    self._groups.setdefault(shard, []).append((path, number))


def decision_files(path: Path) -> dict[str, Path]:
    """The Parquet files of decisions: shard -> path in a folder, or the one file."""
    if path.is_dir():
        return tables.table_files(path)
    return {path.stem: path} if path.is_file() else {}


def _shards(parquet: pq.ParquetFile, group: int, trust_statistics: bool) -> list[str]:
    """The shards whose rows a row group holds; from the footer where that says it."""
    columns = parquet.metadata.row_group(group)
    number = parquet.schema_arrow.names.index("shard")
    statistics = columns.column(number).statistics if trust_statistics else None
    if statistics is not None and statistics.has_min_max and statistics.min == statistics.max:
        return [statistics.min]
    shards = parquet.read_row_group(group, ["shard"], use_threads=False)["shard"]
    return [str(shard) for shard in pc.unique(shards).to_pylist()]


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, TypeError, ValueError) as error:
        raise RequestError(
            f"{path}: can't be read ({one_line(error)}): make the decisions again"
        ) from error


class DecisionFile:
    """Writes one decision file, some rows at a time."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # keys don't repeat: to look for a dictionary takes most of the time
        self._writer = pq.ParquetWriter(
            path, SCHEMA, use_dictionary=["shard", "reason"], write_statistics=["shard"]
        )
        self._waiting: list[pa.Table] = []
        self.rows = 0
        self.kept = 0

    def add(self, rows: pa.Table) -> None:
        """Add rows of SCHEMA."""
        self._waiting.append(rows)
        self.rows += rows.num_rows
        self.kept += pc.sum(rows["keep"]).as_py() or 0
        if sum(waiting.num_rows for waiting in self._waiting) >= _GROUP_ROWS:
            self._flush()

    def close(self, header: Header) -> None:
        """Write the header and finish."""
        self._flush()
        self._writer.add_key_value_metadata(tables.header_metadata(header))
        self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
        self._waiting = []


class DecisionWriter:
    """Writes decisions to a staging place: a file per shard, or all into one file."""

    def __init__(self, staging: Path, out: Path, header: MakeHeader) -> None:
        """`header` makes a file's: of its shard (None: of all), name, rows and kept rows."""
        self._staging = staging
        self._out = out
        self._header = header
        self._current: TableFile | None = None
        self._file: DecisionFile | None = None
        self._threads = ThreadPoolExecutor(_WRITERS, "mmsieve-decisions")
        self._pending: list[Future[None]] = []
        self._is_one_file = out.suffix == ".parquet"

    def add(self, source: TableFile, rows: pl.DataFrame) -> None:
        """Add rows of one of the table's files; the rows of a file come one after the other."""
        self.add_all([(source, rows.height)], rows)

    def add_all(self, origins: Sequence[tuple[TableFile, int]], rows: pl.DataFrame) -> None:
        """Add rows of several files: so many of each, one after the other.

        They are written while the caller goes on to the next ones.
        """
        added = rows.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(SCHEMA)
        whole: list[_Piece] = []
        parts: list[_Piece] = []
        start = 0
        for source, count in origins:
            is_whole = count == source.rows and not self._is_one_file
            (whole if is_whole else parts).append((source, added.slice(start, count)))
            start += count
        self._wait()
        self._pending = [self._threads.submit(self._add_parts, parts)]
        for number in range(_WRITERS):
            self._pending.append(self._threads.submit(self._write_whole, whole[number::_WRITERS]))

    def finish(self) -> None:
        """Write what is left."""
        self._wait()
        self._close_file()

    def close(self) -> None:
        """Wait for the threads, whatever happened."""
        self._threads.shutdown()

    def _wait(self) -> None:
        for pending in self._pending:
            pending.result()
        self._pending = []

    def _write_whole(self, pieces: Sequence[_Piece]) -> None:
        for source, rows in pieces:
            file = DecisionFile(self._staging / f"{source.shard}.parquet")
            file.add(rows)
            file.close(self._header(source, source.shard, file.rows, file.kept))

    def _add_parts(self, pieces: Sequence[_Piece]) -> None:
        for source, rows in pieces:
            if self._file is None or (source is not self._current and not self._is_one_file):
                self._close_file()
                name = f"{source.shard}.parquet"
                place = self._staging if self._is_one_file else self._staging / name
                self._file = DecisionFile(place)
            self._current = source
            self._file.add(rows)

    def _close_file(self) -> None:
        if self._file is not None:
            source = None if self._is_one_file else self._current
            name = self._out.stem if source is None else source.shard
            self._file.close(self._header(source, name, self._file.rows, self._file.kept))
        self._file = None


@contextmanager
def writing_decisions(out: Path, header: MakeHeader) -> Iterator[DecisionWriter]:
    """A writer whose decisions take the place of `out` when all are there."""
    with staged(out) as staging:
        writer = DecisionWriter(staging, out, header)
        try:
            yield writer
            writer.finish()
        finally:
            writer.close()


def check_place(out: Path, inputs: Sequence[Path]) -> None:
    """Raise RequestError where decisions can't be written, or would be among a verb's inputs."""
    is_file = out.suffix == ".parquet"
    if is_file and out.is_dir():
        raise RequestError(f"--out {out}: is a folder; name a file, or a folder without suffix")
    if not is_file and out.is_file():
        raise RequestError(f"--out {out}: is a file; name a folder, or a file ending in .parquet")
    check_folder(out.absolute().parent)
    check_apart(out, inputs)


def check_replaceable(out: Path, fingerprint: dict[str, str], overwrite: bool) -> bool:
    """Whether decisions of the same request are there; RequestError where --out can't be used.

    Nothing that isn't a decision is ever replaced.
    """
    files = decision_files(out)
    found = (path for path in out.rglob("*") if out.is_dir() and not path.is_dir())
    other = next((path for path in found if path.suffix != ".parquet"), None)
    if other is not None:
        raise not_ours(out, f"holds {other.relative_to(out)}, no decisions")
    same = []
    for path in files.values():
        header = tables.existing_header(path)
        if header is None or header.kind != KIND:
            raise not_ours(out, f"{path} isn't decisions")
        same.append(is_same_request(out, header.fingerprint, fingerprint, overwrite))
    return bool(same) and all(same)
