"""Tables: a folder with one Parquet file per shard; schema, header, writing and reading.

Parquet metadata carries a Header under `mmsieve`: what made the file, and whether it is complete.
Whoever reads or writes a table file, of a run or anyone's, does it through this module.
"""

import json
import signal
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from glob import has_magic
from importlib.metadata import version
from itertools import chain, count, takewhile
from pathlib import Path
from typing import ClassVar, TypeAlias, TypeVar

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ConfigDict, NonNegativeInt, TypeAdapter

from mmsieve.errors import RequestError
from mmsieve.identity import FileIdentity, TableSource
from mmsieve.outputs import not_ours, write_atomically
from mmsieve.read.parquet import check_expansion, naming_file
from mmsieve.stores import folders
from mmsieve.stores.paths import is_stored, place_of
from mmsieve.validated import parse_json

if hasattr(signal, "siginterrupt"):
    # Imported, polars lets SIGINT restart what it interrupts: a main thread that waits for others
    # would never hear of it.
    signal.siginterrupt(signal.SIGINT, True)

# Table files: columns, header, writing

COMMON = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("uid", pa.string()),
        pa.field("place", pa.int64()),
    ]
)
"""The columns that every table begins with; `place` is the sample's number in its source file."""

METADATA = pa.field("metadata", pa.string())
"""The sample's metadata as JSON, where it was asked for."""

SCORE = "quality_score"
"""The column with the score, unless a table has another one."""

_HEADER = b"mmsieve"


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a table file says of itself."""

    kind: str
    version: str
    shard: str
    size: NonNegativeInt
    """Bytes of the file that the shard was read from."""
    rows: NonNegativeInt
    start: NonNegativeInt = 0
    """Place of the first row in that file."""
    source: FileIdentity | None = None
    """That file; None in a table of before."""
    complete: bool = True
    problem: str | None = None
    """Why the shard could only be read in part."""
    limit: int | None = None
    """Set by a trial run (`--limit`): the first so many samples only."""
    fingerprint: dict[str, str] = field(default_factory=dict)
    """Whatever changes a number; a resume with another one is refused."""
    notes: dict[str, str] = field(default_factory=dict)
    """How it was made, beyond what changes a number."""

    sources: dict[str, TableSource] = field(default_factory=dict)
    """Of a file with the decisions of several shards: shard -> what is known of its source."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    @property
    def of_source(self) -> TableSource:
        """What it says of the samples that its rows are about."""
        return TableSource(self.shard, self.start, self.size, self.source)


_WHOLE_HEADER = TypeAdapter(Header)
_AGAIN = "not a table of this version; make it again with --overwrite or another --out"


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


def read_header(path: Path) -> Header | None:
    """The header of a table file; None where mmsieve did not write it."""
    return _read_footer(path)[0]


def _read_footer(path: Path) -> tuple[Header | None, pa.Schema]:
    with open_file(path, _AGAIN) as file:
        metadata, schema = file.metadata.metadata, file.schema_arrow
    return parse_header(path, metadata), schema


def parse_header(path: Path, metadata: dict[bytes, bytes] | None) -> Header | None:
    """The header in a file's Parquet metadata; None where mmsieve did not write it."""
    if not metadata or _HEADER not in metadata:
        return None
    return parse_json(path, metadata[_HEADER], _WHOLE_HEADER, _AGAIN)


def find_score(columns: pa.Schema | Mapping[str, pa.DataType]) -> str | None:
    """The column of scores: `quality_score`, or the only floating-point one; None: ask the user."""
    types = types_of(columns) if isinstance(columns, pa.Schema) else columns
    if SCORE in types:
        return SCORE
    floating = [name for name, kind in types.items() if pa.types.is_floating(kind)]
    return floating[0] if len(floating) == 1 else None


def types_of(schema: pa.Schema) -> dict[str, pa.DataType]:
    """Column -> type; one without a name, as of an index, is nobody's."""
    return {name: kind for name, kind in zip(schema.names, schema.types, strict=True) if name}


def existing_file(path: Path) -> tuple[Header, pa.Schema] | None:
    """Header and columns of a table file, if it is there; RequestError for one that isn't ours."""
    if not path.exists():
        return None
    header, schema = _read_footer(path)
    if header is None:
        raise not_ours(path, "there, and not made by mmsieve")
    return header, schema


def existing_header(path: Path) -> Header | None:
    """The header of a table file if there is one; raises RequestError as `existing_file` does."""
    found = existing_file(path)
    return None if found is None else found[0]


def remove_file(path: Path) -> None:
    """Remove a table file that is made anew; raises RequestError for one that isn't a table's."""
    if existing_header(path) is not None:
        path.unlink()


def table_files(folder: Path) -> dict[str, Path]:
    """The files of a table: shard name -> path, in the order of the names."""
    if is_stored(folder):
        files: Iterable[Path] = folders.parquet_files(folder)
    else:
        files = folder.rglob("*.parquet")
    found = ((path.relative_to(folder), path) for path in files)
    shown = {
        inside.with_suffix("").as_posix(): path
        for inside, path in found
        if not any(part.startswith(".") for part in inside.parts)
    }
    return dict(sorted(shown.items()))


# Reading: files one by one, and the tables given to a verb, of a run or anyone's

T = TypeVar("T")

CHUNK = 1 << 18
"""Rows of a large file that are read at a time."""
_SHOWN = 40


@contextmanager
def open_file(
    path: Path, fix: str = "make that file of the table again", columns: Collection[str] = ()
) -> Iterator[pq.ParquetFile]:
    """A table file to read these columns from; a RequestError that says the fix where it can't be.

    Whatever goes wrong in the block is that of the file.
    """
    # pre_buffer would hold all of a large file's columns in memory
    with (
        naming_file(path, fix),
        folders.readable(path) as content,
        pq.ParquetFile(content, pre_buffer=False) as file,
    ):
        for group in range(file.num_row_groups):
            check_expansion(content, file, group, columns)
        _check_types(path, file, fix)
        yield file


def _check_types(path: Path, file: pq.ParquetFile, fix: str) -> None:
    """Raise RequestError where a file of ours has other types than what we write."""
    if _HEADER not in (file.metadata.metadata or {}):
        return
    found = types_of(file.schema_arrow)
    for column in COMMON:
        kind = found.get(column.name, column.type)
        plain = kind.value_type if pa.types.is_dictionary(kind) else kind
        is_text = column.type == pa.string() and pa.types.is_large_string(plain)
        if not (is_text or plain == column.type or pa.types.is_null(plain)):
            raise RequestError(f"{path}: column {column.name} is {kind}, not {column.type}: {fix}")


def read_frames(
    files: Iterable[Path], columns: Collection[str], rows: int = CHUNK
) -> Iterator[pl.DataFrame]:
    """Columns of our own table files, so many rows at a time, of each file at least one frame.

    `columns` may be a mapping to the types that they must have. A table of before has no places:
    they are null.
    """
    for path in files:
        with open_file(path, columns=columns) as file:
            has = file.schema_arrow.names
            names = [name for name in columns if name in has or name != PLACE]
            missing = [name for name in names if name not in has]
            if missing:
                raise RequestError(f"{path}: has no column {missing[0]}: make it again")
            batches = file.iter_batches(rows, columns=names)
            empty = pa.Table.from_batches([], file.schema_arrow).select(names)
            none = [] if file.metadata.num_rows else [empty]
            for piece in chain(map(pa.table, batches), none):
                frame = _frame(path, checked(piece.select(names)))
                if len(names) < len(columns):
                    frame = frame.with_columns(pl.lit(None, pl.Int64).alias(PLACE))
                yield frame.cast(dict(columns)) if isinstance(columns, Mapping) else frame


def checked(piece: pa.Table, ours: bool = True) -> pa.Table:
    """A piece of a file; ValueError where it holds what isn't so.

    Texts that are none are undefined to whoever takes them for text, and no library looks.
    """
    piece.validate(full=True)
    for name in _NEVER_NULL & set(piece.column_names) if ours else ():
        if piece[name].null_count:
            raise ValueError(f"column {name} holds nulls")
    return piece


def _frame(path: Path, table: pa.Table) -> pl.DataFrame:
    with naming_file(path, "leave the column out, or make the table again"):
        return pl.DataFrame(table.combine_chunks())


PLACE = "place"
_NEVER_NULL = {"key", "shard", "status", "keep"}
"""Columns that have a value in every row of a table or decisions of ours."""


def can_name(kind: pa.DataType) -> bool:
    """Whether values of a type, of anyone's column, can be the names of samples."""
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind))


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
    source: TableSource | None = None
    """What its header says of its samples; None where it isn't ours."""
    limit: int | None = None
    """Set where a trial run made it."""
    kind: str | None = None
    """Of its table; None where it isn't ours."""


Origins: TypeAlias = Sequence[tuple[TableFile, int]]
"""Files that rows are from, one after the other, and how many rows of each."""


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
        """A file's columns, in one frame or in pieces; RequestError where not all can be read."""
        for piece in self._pieces(file, columns, whole):
            yield _frame(self.path, piece)

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[Origins, pl.DataFrame]]:
        """The columns of all files, about CHUNK rows at a time, and which files they are from.

        Small files come together, and the next batch is read while one is used.
        """
        yield from _ahead(self._batches(columns))

    def _batches(self, columns: Sequence[str]) -> Iterator[tuple[Origins, pl.DataFrame]]:
        origins: list[tuple[TableFile, int]] = []
        waiting: list[pa.Table] = []
        height = 0

        def small(file: TableFile) -> Iterable[pa.Table]:
            pieces = self._pieces(file, columns, whole=False)
            return list(pieces) if file.rows <= CHUNK else pieces

        each = folders.map_many(small, self.files, is_stored(self.path))
        for file, pieces in zip(self.files, each, strict=True):
            for piece in pieces:
                origins.append((file, piece.num_rows))
                waiting.append(piece)
                height += piece.num_rows
                if height >= CHUNK:
                    yield origins, _frame(self.path, pa.concat_tables(waiting))
                    origins, waiting, height = [], [], 0
        if waiting:
            yield origins, _frame(self.path, pa.concat_tables(waiting))

    def _pieces(self, file: TableFile, columns: Sequence[str], whole: bool) -> Iterator[pa.Table]:
        names, rows = list(columns), 0
        schema = pa.schema([(name, self.types[name]) for name in names])
        with open_file(file.path, columns=names) as parquet:
            pieces: Iterable[pa.Table] = map(pa.table, parquet.iter_batches(CHUNK, columns=names))
            if whole or file.rows <= CHUNK:
                pieces = [parquet.read(names, use_threads=False)]
            for piece in pieces:
                rows += piece.num_rows
                yield checked(piece.select(names).cast(schema), self.is_ours)
        if rows != file.rows:
            raise RequestError(f"{file.path}: has changed while it was read: filter again")


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items, each made in a thread while the one before is used."""
    thread = ThreadPoolExecutor(1, "mmsieve-ahead")
    try:
        pending = thread.submit(next, items, None)
        while (item := pending.result()) is not None:
            pending = thread.submit(next, items, None)
            yield item
    finally:
        # never joined: who drops this unfinished may be the garbage collector, while a thread that
        # starts holds the lock that joining needs
        thread.shutdown(wait=False, cancel_futures=True)


def open_tables(paths: Sequence[str | Path]) -> list[Table]:
    """Open the tables of a request; a name that comes twice gets a number: scores, scores2."""
    if not paths:
        raise RequestError("no TABLE given: name a folder of scores, or a Parquet file")
    opened: list[Table] = []
    for path in map(place_of, paths):
        own = path.resolve().stem if path.is_file() else _folder_of(path).resolve().name
        taken = {table.name for table in opened}
        names = chain([own], (f"{own}{number}" for number in count(2)))
        opened.append(_open(path, next(name for name in names if name not in taken)))
    return opened


def _folder_of(path: Path) -> Path:
    """A table's folder; of a glob the folder above what it leaves open."""
    if not has_magic(str(path)) or path.exists():
        return path
    known = sum(1 for _ in takewhile(lambda part: not has_magic(part), path.parts))
    return path.parents[len(path.parts) - known - 1]


def _find_files(path: Path) -> dict[str, Path]:
    """The files of a table, by shard: a file, a folder, or a glob of files; RequestError."""
    if path.is_file():
        if not _may_be_parquet(path):
            raise _no_table(path)
        return {path.stem: path}
    if path.is_dir():
        found = table_files(path)
    elif has_magic(str(path)):
        folder = _folder_of(path)
        files = sorted(
            file for file in folder.glob(str(path.relative_to(folder))) if file.is_file()
        )
        found = {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}
        if others := [file for file in found.values() if file.suffix != ".parquet"]:
            raise _no_table(others[0])
    else:
        raise RequestError(f"{path}: no such table; name a folder of scores, or a Parquet file")
    if not found:
        raise RequestError(f"{path}: holds no Parquet file, so it is no table")
    return found


_TEXTS = (".csv", ".tsv", ".json", ".jsonl", ".gz")


def _may_be_parquet(path: Path) -> bool:
    """Whether a file is called as Parquet, or begins as such: anyone's may have another name."""
    if path.suffix.lower() in (".parquet", *_TEXTS):
        return path.suffix.lower() == ".parquet"
    with naming_file(path, "name a folder of scores, or a Parquet file"), path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _no_table(path: Path) -> RequestError:
    """Tables are Parquet, which knows types: what one is, or how a file of text becomes one."""
    if path.suffix.lower() not in _TEXTS:
        return RequestError(
            f"{path}: is no table: a table is a folder that score, rate or enhance made, or a "
            "Parquet file"
        )
    reading = {".tsv": f"pl.read_csv('{path}', separator='\\t')", ".csv": f"pl.read_csv('{path}')"}
    read = reading.get(path.suffix.lower(), f"pl.read_ndjson('{path}')")
    made = path.with_suffix(".parquet").name
    code = f"import polars as pl; {read}.write_parquet('{made}')"
    return RequestError(f'{path}: a table is Parquet; make one of it: python -c "{code}"')


def _open(path: Path, name: str) -> Table:
    found = _find_files(path)
    files: list[TableFile] = []
    types: dict[str, pa.DataType] = {}
    mixed: dict[str, str] = {}
    made_by = []
    last: pa.Schema | None = None
    for (shard, file), (rows, schema, header) in zip(
        found.items(), folders.map_many(_footer, found.values(), is_stored(path)), strict=True
    ):
        made_by.append(None if header is None else (header.kind, header.fingerprint))
        if made_by[-1] != made_by[0]:
            raise RequestError(
                f"{file}: not made by the model and options of the table's first file: "
                "give tables of one run, each in its own folder"
            )
        if last is None:
            types = types_of(schema)
        elif not schema.equals(last):
            _merge_types(types, mixed, schema, file)
        last = schema
        files.append(_table_file(shard, file, rows, header))
    made = made_by[0] is not None
    return Table(name, _folder_of(path), tuple(files), types, mixed, is_ours=made)


def _footer(path: Path) -> tuple[int, pa.Schema, Header | None]:
    """Rows, columns and header of a file."""
    with open_file(path) as parquet:
        metadata, schema = parquet.metadata, parquet.schema_arrow.remove_metadata()
        return metadata.num_rows, schema, parse_header(path, metadata.metadata)


def _table_file(shard: str, path: Path, rows: int, header: Header | None) -> TableFile:
    if header is None:
        return TableFile(shard, path, rows, 0, complete=True)
    known = header.of_source, header.limit, header.kind
    return TableFile(shard, path, rows, header.size, header.complete, *known)


def _merge_types(
    types: dict[str, pa.DataType], mixed: dict[str, str], schema: pa.Schema, path: Path
) -> None:
    """Take in the columns of another file of a table, and note those that it has otherwise."""
    for name in dict.fromkeys([*types, *types_of(schema)]):
        old, new = types.get(name), schema.field(name).type if name in schema.names else None
        if old is None or new is None:
            mixed[name] = f"not all files of the table have it, see {path}"
            types[name] = new if old is None else old
        elif pa.types.is_null(old):  # a file without any value may have lost the type
            types[name] = new
        elif old != new and not pa.types.is_null(new):
            mixed[name] = f"it is {new} in {path} and {old} in the table's other files"


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
        f"{each.path}: {each.unfinished:,} of {len(each.files):,} files hold a part of their shard "
        "only (a trial run, refused requests, or a shard that can't be read to its end)"
        for each in tables
        if each.unfinished
    ]
