"""Tables: a folder with one Parquet file per shard; its schema, header, writing and reading.

Parquet metadata carries a Header under `mmsieve`: what made the file, and whether it is complete.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from mmsieve.errors import RequestError
from mmsieve.sources import one_line

# Table: a folder with one Parquet file per shard, each whole or absent, each saying its origin

COMMON = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("uid", pa.string()),
    ]
)
"""The columns that every table begins with."""

METADATA = pa.field("metadata", pa.string())
"""The sample's metadata as JSON, where it was asked for."""

_HEADER = b"mmsieve"


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a table file says of itself."""

    kind: str
    version: str
    shard: str
    size: int
    """Bytes of the file that the shard was read from."""
    rows: int
    complete: bool = True
    problem: str | None = None
    """Why the shard could only be read in part."""
    limit: int | None = None
    """Set by a trial run (`--limit`): the first so many samples only."""
    fingerprint: dict[str, str] = field(default_factory=dict)
    """Whatever changes a number; a resume with another one is refused."""
    notes: dict[str, str] = field(default_factory=dict)
    """How it was made, beyond what changes a number."""


@cache
def product_version() -> str:
    """The version of mmsieve that is installed; looking it up takes a millisecond."""
    return version("mmsieve")


def write_file(path: Path, table: pa.Table, header: Header) -> None:
    """Write one file of a table so that, whatever happens, it is there whole or not at all."""
    with_header = table.replace_schema_metadata(header_metadata(header))
    write_atomically(path, lambda temporary: pq.write_table(with_header, temporary))


def header_metadata(header: Header) -> dict[bytes, str]:
    """The Parquet metadata that carries a header."""
    return {_HEADER: json.dumps(asdict(header), sort_keys=True)}


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary path)`, then give the file its name; a hidden name never matches *."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))


def remove_leftovers(path: Path) -> None:
    """Remove what a killed run left of a file: only one run at a time writes it."""
    unique = "[0-9a-f]" * 32  # not *: another shard's name may begin with this one's
    for leftover in path.parent.glob(f".{_literal(path.name)}.{unique}.tmp"):
        leftover.unlink(missing_ok=True)


def read_header(path: Path) -> Header | None:
    """The header of a table file; None where mmsieve did not write it."""
    try:
        metadata = pq.read_metadata(path).metadata
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise _other_version(path, error) from error
    return parse_header(path, metadata)


def parse_header(path: Path, metadata: dict[bytes, bytes] | None) -> Header | None:
    """The header in a file's Parquet metadata; None where mmsieve did not write it."""
    try:
        return Header(**json.loads(metadata[_HEADER])) if metadata and _HEADER in metadata else None
    except (TypeError, ValueError) as error:
        raise _other_version(path, error) from error


def _other_version(path: Path, error: Exception) -> RequestError:
    reason = " ".join(str(error).split())
    return RequestError(
        f"{path}: not a table of this version ({reason}); make it again with --overwrite or "
        "another --out"
    )


def existing_header(path: Path) -> Header | None:
    """The header of a table file if there is one, for a resume.

    Raises RequestError for a file that isn't ours: it may be what someone else has to keep, such
    as the sidecars that stand beside tars.
    """
    try:
        header = read_header(path)
    except FileNotFoundError:
        return None
    if header is None:
        raise RequestError(f"{path}: there, and not made by mmsieve; choose another --out")
    return header


def table_files(folder: Path) -> dict[str, Path]:
    """The files of a table: shard name -> path, in the order of the names."""
    found = {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in folder.rglob("*.parquet")
        if not path.name.startswith(".")
    }
    return dict(sorted(found.items()))


def rows_to_table(rows: Iterable[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """A table of the declared schema: an all-null column keeps its type."""
    return pa.Table.from_pylist(list(rows), schema=schema)


def _literal(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def check_folder(folder: Path) -> None:
    """Raise RequestError where a table can't be written to the folder; nothing is made yet."""
    if "://" in str(folder) or ":/" in str(folder):
        raise RequestError(f"--out {folder}: tables are written to local or mounted folders")
    existing = next((path for path in (folder, *folder.absolute().parents) if path.exists()), None)
    if existing is None or not existing.is_dir():
        raise RequestError(f"--out {folder}: {existing} is a file, not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RequestError(f"--out {folder}: {existing} can't be written to")


def make_folder(folder: Path) -> None:
    """Make the folder of a table; raises RequestError where that can't be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--out {folder}: can't be made: {error}") from error


def remove_file(path: Path) -> None:
    """Remove a table file that is made anew; raises RequestError for one that isn't a table's."""
    with suppress(FileNotFoundError):
        if read_header(path) is None:
            raise RequestError(f"{path}: not made by mmsieve, so not replaced; use another --out")
        path.unlink()


# Tables given to a verb: folders of a run, or anyone's Parquet files; their columns and rows

T = TypeVar("T")

CHUNK = 1 << 18
"""Rows of a large file that are read at a time."""
_SHOWN = 40


@dataclass(frozen=True, slots=True)
class TableFile:
    """One file of a table."""

    shard: str
    path: Path
    rows: int
    size: int
    """Bytes of the file that the shard was read from; 0 where that isn't known."""
    complete: bool
    """Whether it holds all samples of its shard."""


@dataclass(frozen=True)
class Table:
    """A table's files in the order of their names, and its columns."""

    name: str
    """The folder's or file's name: the prefix of its columns where two tables share a name."""
    path: Path
    files: tuple[TableFile, ...]
    types: dict[str, pa.DataType]
    mixed: dict[str, str]
    """Columns that can't be used, because the files don't agree on them, and why."""
    is_ours: bool
    """Whether mmsieve wrote it, so that `status` and `shard` mean what we mean by them."""

    @cached_property
    def by_shard(self) -> dict[str, TableFile]:
        """The files by their names."""
        return {file.shard: file for file in self.files}

    @property
    def unfinished(self) -> int:
        """Files that hold only a part of their shard."""
        return sum(not file.complete for file in self.files)

    @property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(file.rows for file in self.files)

    def read(self, file: TableFile, columns: Sequence[str], whole: bool) -> Iterator[pl.DataFrame]:
        """A file's columns, in one frame if it must be whole, else some rows at a time.

        Raises RequestError where they can't be read: a cut over what is left would be another one.
        """
        for piece in self._pieces(file, columns, whole):
            yield pl.DataFrame(piece)

    def batches(
        self, columns: Sequence[str], rows: int = CHUNK
    ) -> Iterator[tuple[list[tuple[TableFile, int]], pl.DataFrame]]:
        """The columns of all files, about `rows` at a time: how many of each file, and they.

        Small files come together: what is done once per batch isn't done thousands of times. The
        next batch is read while one is used.
        """
        yield from _ahead(self._batches(columns, rows))

    def _batches(
        self, columns: Sequence[str], rows: int
    ) -> Iterator[tuple[list[tuple[TableFile, int]], pl.DataFrame]]:
        origins: list[tuple[TableFile, int]] = []
        waiting: list[pa.Table] = []
        height = 0
        for file in self.files:
            for piece in self._pieces(file, columns, whole=False):
                origins.append((file, piece.num_rows))
                waiting.append(piece)
                height += piece.num_rows
                if height >= rows:
                    yield origins, pl.DataFrame(pa.concat_tables(waiting).combine_chunks())
                    origins, waiting, height = [], [], 0
        if waiting:
            yield origins, pl.DataFrame(pa.concat_tables(waiting).combine_chunks())

    def _pieces(self, file: TableFile, columns: Sequence[str], whole: bool) -> Iterator[pa.Table]:
        rows = 0
        try:
            for piece in self._read(file, columns, whole):
                rows += piece.num_rows
                yield piece
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(file.path, error) from error
        if rows != file.rows:
            raise RequestError(f"{file.path}: has changed while it was read: filter again")

    def _read(self, file: TableFile, columns: Sequence[str], whole: bool) -> Iterator[pa.Table]:
        schema = pa.schema([(name, self.types[name]) for name in columns])
        # pre_buffer would hold all of a large file's columns in memory
        with pq.ParquetFile(file.path, pre_buffer=False) as parquet:
            if whole or file.rows <= CHUNK:
                read = parquet.read(list(columns), use_threads=False)
                yield read.select(columns).cast(schema)
                return
            for batch in parquet.iter_batches(CHUNK, columns=list(columns)):
                yield pa.table(batch).select(columns).cast(schema)


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each made in a thread while the one before is used."""
    with ThreadPoolExecutor(1, "mmsieve-ahead") as thread:
        pending = thread.submit(next, items, None)
        while (item := pending.result()) is not None:
            pending = thread.submit(next, items, None)
            yield item


def open_tables(paths: Sequence[str | Path]) -> list[Table]:
    """Open the tables of a request; a name that comes twice gets a number: scores, scores2."""
    if not paths:
        raise RequestError("no TABLE given: name a folder of scores, or a Parquet file")
    opened: list[Table] = []
    for path in map(Path, paths):
        name = number = path.resolve().stem if path.is_file() else path.resolve().name
        names = {table.name for table in opened}
        count = 1
        while number in names:
            count += 1
            number = f"{name}{count}"
        opened.append(_open(path, number))
    return opened


def _open(path: Path, name: str) -> Table:
    if path.is_dir():
        found = table_files(path)
    elif path.is_file():
        found = {path.stem: path}
    else:
        raise RequestError(f"{path}: no such table; name a folder of scores, or a Parquet file")
    if not found:
        raise RequestError(f"{path}: holds no Parquet file, so it is no table")
    files: list[TableFile] = []
    columns = _Columns()
    first_header: Header | None = None
    for shard, file in found.items():
        schema, rows, header = _read_footer(file)
        first_header = header if not files else first_header
        _check_origin(file, first_header, header)
        columns.add(schema, file)
        size, complete = (0, True) if header is None else (header.size, header.complete)
        files.append(TableFile(shard, file, rows, size, complete))
    is_ours = first_header is not None
    return Table(name, path, tuple(files), columns.types, columns.mixed, is_ours)


def _read_footer(path: Path) -> tuple[pa.Schema, int, Header | None]:
    try:
        with pq.ParquetFile(path) as parquet:
            schema, metadata = parquet.schema_arrow, parquet.metadata
            header = parse_header(path, metadata.metadata)
        return schema.remove_metadata(), metadata.num_rows, header
    except (pa.ArrowException, OSError, TypeError, ValueError) as error:
        raise _unreadable(path, error) from error


def _check_origin(path: Path, first: Header | None, header: Header | None) -> None:
    made, first_made = (None if h is None else (h.kind, h.fingerprint) for h in (header, first))
    if made != first_made:
        raise RequestError(
            f"{path}: not made by the model and options of the table's first file: "
            "give tables of one run, each in its own folder"
        )


class _Columns:
    """The types of a table's columns, over all its files."""

    def __init__(self) -> None:
        self.types: dict[str, pa.DataType] = {}
        self.mixed: dict[str, str] = {}
        self._last: pa.Schema | None = None

    def add(self, schema: pa.Schema, path: Path) -> None:
        """Take in one file's columns."""
        if self._last is None:
            self.types = dict(zip(schema.names, schema.types, strict=True))
        elif not schema.equals(self._last):
            for name in dict.fromkeys([*self.types, *schema.names]):
                new = schema.field(name).type if name in schema.names else None
                self._merge(name, new, path)
        self._last = schema

    def _merge(self, name: str, new: pa.DataType | None, path: Path) -> None:
        old = self.types.get(name)
        if old is None or new is None:
            self.mixed[name] = f"not all files of the table have it, see {path}"
            self.types[name] = new if old is None else old
        elif pa.types.is_null(old):  # a file without any value may have lost the type
            self.types[name] = new
        elif old != new and not pa.types.is_null(new):
            self.mixed[name] = f"it is {new} in {path} and {old} in the table's other files"


def column_names(tables: Sequence[Table]) -> str:
    """The columns there are, for messages."""
    parts = []
    for each in tables:
        names = list(each.types)
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        parts.append(f"{each.name} has {', '.join(names[:_SHOWN])}{more}")
    return "; ".join(parts)


def notes_of_unfinished(tables: Sequence[Table]) -> list[str]:
    """What to say of tables that don't hold all samples of their shards."""
    return [
        f"{each.path}: {each.unfinished} of {len(each.files)} files hold a part of their shard "
        "only (a trial run, or a shard that can't be read to its end)"
        for each in tables
        if each.unfinished
    ]


def _unreadable(path: Path, error: Exception) -> RequestError:
    return RequestError(
        f"{path}: can't be read ({one_line(error)}): make that file of the table again"
    )
