"""Decisions: for each row of a table whether it is kept, and why not: a folder, or one file.

A decision file is a table file of kind `decisions`: its header's fingerprint says what was asked
for, its notes what was found.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, TypeAlias

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mmsieve import tables
from mmsieve.errors import MmsieveError, RequestError
from mmsieve.identity import TableSource
from mmsieve.outputs import (
    check_apart,
    check_folder,
    check_name,
    contents,
    is_same_request,
    not_ours,
    staged,
    workplace,
)
from mmsieve.progress import Advance
from mmsieve.stores.folders import is_in_the_making
from mmsieve.stores.paths import is_stored
from mmsieve.tables import Header, Origins, TableFile

KIND = "decisions"
_ABOUT = "about"
"""The note that says which kind of table the rows are of."""
_REMAKE = "make the decisions again"
_READ = ("key", "shard", "keep", "place")
_WRITERS = 2
"""Files of a folder that are written at a time."""
MakeHeader: TypeAlias = Callable[[TableFile | None, str, int, int], Header]
"""Header of a decision file: of its shard (None: of all), name, rows and kept rows."""
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("keep", pa.bool_(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("place", pa.int64()),
    ]
)
_GROUP_ROWS = 1 << 16


class Kept(NamedTuple):
    """A kept sample."""

    place: int | None
    """Its number in its source file; None in decisions of somebody else's that don't say it."""
    key: str


class Decisions:
    """Decisions of a verb, or anyone's with `key`, `shard` and `keep`; RequestError for others."""

    def __init__(self, path: Path) -> None:
        self.label = f"--decisions {path}"
        self.path = path
        self._groups: dict[str, list[tuple[Path, int]]] = {}
        """Shard -> the row groups that hold its rows."""
        self._sources: dict[str, TableSource] = {}
        self.limit: int | None = None
        """Set where they are about a trial run."""
        self.fingerprint: dict[str, str] = {}
        """What was asked for, of ours."""
        self.about: str | None = None
        """The kind of table that they were made from, where that is known."""
        files = decision_files(path)
        if not files:
            raise RequestError(f"--decisions {path}: no decisions there; make them with filter")
        for name, file in files.items():
            with tables.open_file(file, _REMAKE, ("shard",)) as parquet:
                self._add(name, file, parquet)

    @property
    def shards(self) -> Sequence[str]:
        """The names of all shards, sorted."""
        return sorted(self._groups)

    def kept(self, shard: str) -> list[Kept]:
        """A shard's kept samples, in the order of the rows."""
        kept: list[Kept] = []
        start = self.source(shard).start if shard in self._sources else None
        for path, groups in groupby(self._groups[shard], key=lambda place: place[0]):
            with tables.open_file(path, _REMAKE, _READ) as parquet:
                names = [n for n in _READ if n in parquet.schema_arrow.names]
                numbers = [number for _, number in groups]
                rows = tables.checked(parquet.read_row_groups(numbers, names))
                if "shard" in names:
                    rows = rows.filter(pc.equal(rows["shard"], shard))
                if "place" not in names:
                    # ours have a row for every sample; somebody else's don't say where it is
                    count = rows.num_rows
                    stop = None if start is None else start + count
                    places = pa.nulls(count) if stop is None else pa.array(range(start or 0, stop))
                    rows = rows.append_column("place", places)
                    start = stop
                rows = rows.filter(rows["keep"])
                keys = rows["key"].cast(pa.string()).to_pylist()
                kept += map(Kept, rows["place"].to_pylist(), keys)
        return kept

    def source(self, shard: str) -> TableSource:
        """What is known of the shard's source."""
        return self._sources.get(shard) or TableSource(shard, 0, 0, None)

    def _add(self, name: str, path: Path, parquet: pq.ParquetFile) -> None:
        header = tables.parse_header(path, parquet.metadata.metadata)
        is_ours = header is not None and header.kind == KIND
        if header is not None and is_ours:
            self.limit = self.limit or header.limit
            self.fingerprint = header.fingerprint
            self.about = header.notes.get(_ABOUT)
            if header.shard == name:
                self._sources[name] = header.of_source
            self._sources |= header.sources
        types = tables.types_of(parquet.schema_arrow)
        by_name = path != self.path  # a file of a folder is named after its shard
        for column in ("key", "keep") if by_name else ("key", "keep", "shard"):
            if column not in types:
                raise RequestError(f"{path}: not decisions, there is no column {column}")
        _check_types(path, types)
        if by_name:
            self._groups.setdefault(name, [])
        for number in range(parquet.num_row_groups):
            shards = _shards(parquet, number, is_ours) if "shard" in types else [name]
            for shard in shards:
                self._groups.setdefault(shard, []).append((path, number))


def _check_types(path: Path, types: Mapping[str, pa.DataType]) -> None:
    """Raise RequestError where columns can't be those of decisions, anyone's."""
    key, keep, place = types["key"], types["keep"], types.get("place", pa.int64())
    if not pa.types.is_boolean(keep):
        raise RequestError(f"{path}: not decisions, keep is {keep}, not a bool")
    if not tables.can_name(key):
        raise RequestError(f"{path}: not decisions, key is {key}, not a text")
    if not pa.types.is_integer(place):
        raise RequestError(f"{path}: not decisions, place is {place}, not a whole number")


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
    read = parquet.read_row_group(group, ["shard"], use_threads=False)
    shards = tables.checked(read)["shard"]
    return [str(shard) for shard in pc.unique(shards).to_pylist()]


# Writing


@dataclass
class DecisionRows:
    """All rows of a table with their decisions: once to be read, and counted on the way."""

    rows: Iterable[tuple[Origins, pl.DataFrame]]
    """With at least the columns of SCHEMA."""
    files: Sequence[TableFile]
    """Those of the table."""
    fingerprint: dict[str, str]
    """What was asked for."""
    header_notes: dict[str, str]
    """What the headers hold beside it."""
    advance: Advance
    kept: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[tuple[Origins, pl.DataFrame]]:
        for origins, rows in self.rows:
            self.reasons.update(dict(rows["reason"].drop_nulls().value_counts().iter_rows()))
            self.kept += int(rows["keep"].sum())
            self.advance(rows.height, rows.height)
            yield origins, rows

    def count(self) -> None:
        """Count the rows and write nothing."""
        for _ in self:
            pass

    def write(self, out: Path) -> None:
        """Write a folder with a file per shard, or one file, in place of what is there."""
        threads = ThreadPoolExecutor(_WRITERS, "mmsieve-decisions")
        shards = {file.shard for file in self.files}
        with staged(out) as staging, threads:
            writer = _Writer(staging, out, self._header, threads)
            for origins, rows in self:
                writer.add(origins, rows.select(SCHEMA.names))
            writer.finish()
            if staging.is_dir() and tables.table_files(staging).keys() != shards:
                raise MmsieveError(f"--out {out}: files went missing while it was written")

    def _header(self, source: TableFile | None, name: str, rows: int, kept: int) -> Header:
        files = self.files if source is None else [source]
        own = None if source is None else source.source
        of_files = {file.shard: file.source for file in self.files if file.source}
        kind = next((file.kind for file in files if file.kind), None)
        about = {} if kind is None else {_ABOUT: kind}
        return Header(
            kind=KIND,
            version=tables.product_version(),
            shard=name,
            size=0 if source is None else source.size,
            start=0 if own is None else own.start,
            source=None if own is None else own.identity,
            sources=of_files if source is None else {},
            limit=next((file.limit for file in files if file.limit), None),
            rows=rows,
            complete=all(file.complete for file in files),
            fingerprint=self.fingerprint,
            notes=self.header_notes | about | {"kept": str(kept)},
        )


class _Writer:
    """Writes decisions while the next ones are made; a shard's rows come one after the other."""

    def __init__(
        self, staging: Path, out: Path, header: MakeHeader, threads: ThreadPoolExecutor
    ) -> None:
        self._staging = staging
        self._one_file = out.stem if out.suffix == ".parquet" else None
        self._header = header
        self._threads = threads
        self._pending: list[Future[None]] = []
        self._current: TableFile | None = None
        self._file: _DecisionFile | None = None

    def add(self, origins: Origins, rows: pl.DataFrame) -> None:
        """Add rows of several files: so many of each, one after the other."""
        added = rows.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(SCHEMA)
        self._wait()
        parts = []
        start = 0
        for source, count in origins:
            piece = source, added.slice(start, count)
            start += count
            if count == source.rows and self._one_file is None:
                self._pending.append(self._threads.submit(self._write_whole, *piece))
            else:
                parts.append(piece)
        self._pending.append(self._threads.submit(self._add_parts, parts))

    def finish(self) -> None:
        self._wait()
        if self._file is not None:
            self._file.close()

    def _wait(self) -> None:
        for pending in self._pending:
            pending.result()
        self._pending = []

    def _open(self, source: TableFile) -> "_DecisionFile":
        if self._one_file is not None:
            return _DecisionFile(self._staging, partial(self._header, None, self._one_file))
        path = self._staging / f"{source.shard}.parquet"
        return _DecisionFile(path, partial(self._header, source, source.shard))

    def _write_whole(self, source: TableFile, rows: pa.Table) -> None:
        file = self._open(source)
        file.add(rows)
        file.close()

    def _add_parts(self, parts: Sequence[tuple[TableFile, pa.Table]]) -> None:
        for source, rows in parts:
            if self._file is None or (source is not self._current and self._one_file is None):
                if self._file is not None:
                    self._file.close()
                self._file = self._open(source)
            self._current = source
            self._file.add(rows)


class _DecisionFile:
    """One decision file, written some rows at a time."""

    def __init__(self, path: Path, header: Callable[[int, int], Header]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # keys don't repeat: to look for a dictionary takes most of the time
        self._writer = pq.ParquetWriter(
            path, SCHEMA, use_dictionary=["shard", "reason"], write_statistics=["shard"]
        )
        self._header = header
        self._waiting: list[pa.Table] = []
        self._rows = self._kept = 0

    def add(self, rows: pa.Table) -> None:
        self._waiting.append(rows)
        self._rows += rows.num_rows
        self._kept += pc.sum(rows["keep"]).as_py() or 0
        if sum(waiting.num_rows for waiting in self._waiting) >= _GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        header = self._header(self._rows, self._kept)
        self._writer.add_key_value_metadata(tables.header_metadata(header))
        self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
        self._waiting = []


# The place of decisions: free, or held by decisions of the same request


def check_place(out: Path, inputs: Sequence[Path]) -> None:
    """Raise RequestError where decisions can't be written, or would be among a verb's inputs."""
    check_name(out)
    is_file = out.suffix == ".parquet"
    if is_file and out.is_dir():
        raise RequestError(f"--out {out}: is a folder; name a file, or a folder without suffix")
    if out.suffix.lower() in (".csv", ".tsv") and not out.exists():
        csv = f"python -c \"import mmsieve; mmsieve.read_table('DIR').write_csv('{out.name}')\""
        raise RequestError(
            f"--out {out}: decisions are Parquet: name a folder, or a file ending in .parquet; "
            f"a CSV of them comes from {csv}"
        )
    if not is_file and out.is_file():
        raise RequestError(f"--out {out}: is a file; name a folder, or a file ending in .parquet")
    if not is_stored(out):  # where folders need none around them
        check_folder(workplace(out))
    check_apart(out, inputs)


def check_replaceable(out: Path, fingerprint: dict[str, str], overwrite: bool) -> bool:
    """Whether decisions of the same request are there; RequestError for what isn't decisions."""
    if is_in_the_making(out):  # what a killed run left at a store counts for nothing
        return False
    files = decision_files(out)
    found = (path for top in contents(out) for path in (top, *top.rglob("*")))
    other = next((p for p in found if p.suffix != ".parquet" and not p.is_dir()), None)
    if other is not None:
        raise not_ours(out, f"holds {other.relative_to(out)}, no decisions")
    same = []
    for path in files.values():
        header = tables.existing_header(path)
        if header is None or header.kind != KIND:
            raise not_ours(out, f"{path} isn't decisions")
        same.append(is_same_request(out, header.fingerprint, fingerprint, overwrite))
    return bool(same) and all(same)
