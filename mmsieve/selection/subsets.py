"""The chosen items of instruction files, written in the form in which they came.

An item is found by its place in its file, never by its key: ids repeat in the files of the field.
JSON items keep their bytes, Parquet rows their columns, types and metadata.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mmsieve.errors import RequestError, ShardError
from mmsieve.identity import SourceFiles, TableSource
from mmsieve.outputs import check_folder, write_atomically
from mmsieve.read.json_items import first_sign, raw_items
from mmsieve.read.parquet import open_parquet, rows_at_once
from mmsieve.selection.groups import Bools
from mmsieve.selection.pool import RatedSamples
from mmsieve.tables import TableFile

Places: TypeAlias = npt.NDArray[np.int64]
_JSON, _LINES, _PARQUET = ".json", ".jsonl", ".parquet"
_KINDS = (_JSON, _LINES, _PARQUET)


@dataclass(frozen=True)
class SubsetRequest:
    """Which files hold the rated items, and where the chosen ones go."""

    data: tuple[Path, ...]
    out: Path

    @property
    def is_folder(self) -> bool:
        """Whether each file's items go into a file of its name."""
        return self.out.suffix not in _KINDS

    @property
    def outputs(self) -> dict[Path, list[Path]]:
        """File to write -> the files whose items it holds."""
        if self.is_folder:
            return {self.out / path.name: [path] for path in self.data}
        return {self.out: list(self.data)}

    def check(self, overwrite: bool) -> None:
        """Raise RequestError where the chosen items can't be written as asked."""
        if not self.data:
            raise RequestError("--subset: say --data FILE too, the items that are chosen from")
        if self.is_folder and len(self.outputs) < len(self.data):
            raise RequestError(
                f"--subset {self.out}: two files of --data have one name: name a file for all"
            )
        for out, files in self.outputs.items():
            if any(out.resolve() == path.resolve() for path in files):
                raise RequestError(f"--subset {out}: is the file of --data: choose another name")
            if out.is_dir():
                raise RequestError(f"--subset {out}: is a folder; name a file in it")
            if out.exists() and not overwrite:
                raise RequestError(f"--subset {out}: exists: choose another name, or --overwrite")
            self._check_kinds(out, files)
        check_folder(self.out.absolute() if self.is_folder else self.out.absolute().parent)

    def _check_kinds(self, out: Path, files: Sequence[Path]) -> None:
        tables = [path for path in files if path.suffix == _PARQUET]
        if len(tables) not in (0, len(files)) or bool(tables) != (out.suffix == _PARQUET):
            raise RequestError(
                f"--subset {out}: Parquet comes out as Parquet, JSON as .json or .jsonl; name a "
                "folder for a file of each"
            )
        schemas = [_schema(path) for path in tables]
        if any(not schema.equals(schemas[0]) for schema in schemas):
            raise RequestError(f"--subset {out}: the columns of --data differ: name a folder")


def check_data(data: Sequence[Path]) -> None:
    """Raise RequestError for a file of items that isn't there, or none that is read."""
    for path in data:
        if not path.is_file():
            raise RequestError(f"--data {path}: no such file; give a JSON list, JSONL or Parquet")
        if path.suffix not in _KINDS:
            raise RequestError(f"--data {path}: not one of {', '.join(_KINDS)}")


def write_subset(rated: RatedSamples, chosen: Bools, request: SubsetRequest) -> list[str]:
    """Write the chosen items, in the order of their files; returns what to say of it."""
    wanted, notes = _places(rated, chosen, request.data)
    for out, files in request.outputs.items():
        write = _write_rows if out.suffix == _PARQUET else _write_items
        write(out, [(path, wanted[path]) for path in files])
    empty = [str(path) for path in request.data if not len(wanted[path])]
    return notes + ([f"--subset: none of {', '.join(empty)} are chosen"] if empty else [])


def _places(
    rated: RatedSamples, chosen: Bools, data: Sequence[Path]
) -> tuple[dict[Path, Places], list[str]]:
    """File of --data -> places of its chosen items, ascending; RequestError for one not rated."""
    by_url = {str(path.absolute()): path for path in data}
    known = SourceFiles((url, path.stat().st_size) for url, path in by_url.items())
    found: dict[Path, list[Places]] = {path: [] for path in data}
    rated_files: dict[str, Path | None] = {}
    lost, problems, start = 0, [], 0
    for origins, named in rated.named():
        places = named["place"]
        at = 0
        for file, count in origins:
            if file.shard not in rated_files:
                url, problem = known.find(_source(file))
                rated_files[file.shard] = None if problem or url is None else by_url[url]
                problems += [f"{url} {problem}" if url else problem] if problem else []
            part = places.slice(at, count)
            kept = np.flatnonzero(chosen[start + at : start + at + count])
            path = rated_files[file.shard]
            if path is None:
                lost += len(kept)
            elif part.null_count():
                raise RequestError(
                    f"--subset: {file.path} doesn't say where its rows are in {path}: rate again"
                )
            else:
                found[path].append(part.to_numpy()[kept])
            at += count
        start += at
    if not_rated := [path for path in data if path not in rated_files.values()]:
        reason = f" ({problems[0]})" if problems else ""
        raise RequestError(f"--data {not_rated[0]}: its items were not rated{reason}")
    notes = [f"--subset: {lost} of {chosen.sum()} chosen samples aren't in --data"] if lost else []
    empty: list[Places] = [np.zeros(0, np.int64)]
    return {path: np.sort(np.concatenate(parts or empty)) for path, parts in found.items()}, notes


def _source(file: TableFile) -> TableSource:
    return file.source or TableSource(file.shard, 0, file.size, None)


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ShardError, pa.ArrowException) as error:
        raise RequestError(f"--data {path}: can't be read: {error}") from error


def _write_items(out: Path, parts: Sequence[tuple[Path, Places]]) -> None:
    """Items of JSON lists or lines, as a list or as lines."""
    as_lines = out.suffix == _LINES

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(b"" if as_lines else b"[")
            for number, (raw, is_line) in enumerate(_raw_chosen(parts)):
                if as_lines:
                    # no string holds a raw line break, so that those are white space
                    file.write(raw if is_line else b" ".join(raw.split(b"\n")))
                    file.write(b"\n")
                else:
                    file.write(b",\n" if number else b"\n")
                    file.write(raw)
            file.write(b"" if as_lines else b"\n]\n")

    write_atomically(out, write)


def _raw_chosen(parts: Sequence[tuple[Path, Places]]) -> Iterator[tuple[bytes, bool]]:
    """The bytes of chosen items, and whether they are a line of their file."""
    for path, places in parts:
        with _read_errors(path), path.open("rb") as file:
            is_line = first_sign(file) != "["
            left = iter(places.tolist())
            wanted = next(left, None)
            for place, raw in enumerate(raw_items(file)):
                if place == wanted:
                    yield raw.removeprefix(b"\xef\xbb\xbf").strip(), is_line
                    wanted = next(left, None)
                if wanted is None:
                    break
        if wanted is not None:
            raise RequestError(f"--data {path}: has no item {wanted} any more: rate it again")


def _schema(path: Path) -> pa.Schema:
    with _read_errors(path), path.open("rb") as file:
        return open_parquet(file).schema_arrow


def _write_rows(out: Path, parts: Sequence[tuple[Path, Places]]) -> None:
    """Rows of Parquet files, a bounded number at a time."""

    def write(temporary: Path) -> None:
        schema = _schema(parts[0][0])
        with pq.ParquetWriter(temporary, schema) as writer:
            for path, places in parts:
                for rows in _chosen_rows(path, places):
                    writer.write_table(rows.cast(schema))

    write_atomically(out, write)


def _chosen_rows(path: Path, places: Places) -> Iterator[pa.Table]:
    with _read_errors(path), path.open("rb") as file:
        opened = open_parquet(file)
        first = 0
        for group in range(opened.num_row_groups):
            at_once = rows_at_once(opened, group, opened.schema_arrow.names)
            for batch in opened.iter_batches(at_once, row_groups=[group]):
                low, high = np.searchsorted(places, [first, first + batch.num_rows])
                if low < high:
                    yield pa.table(batch).take(pa.array(places[low:high] - first))
                first += batch.num_rows
