"""Table: a folder with one Parquet file per shard, each whole or absent, each saying its origin.

Parquet metadata carries a Header under `mmsieve`: what made the file, and whether it is complete.
"""

import json
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from mmsieve.errors import RequestError

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


def files(folder: Path) -> dict[str, Path]:
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
