"""Items of JSON, JSONL and Parquet files, found by their place and written as they came.

Never by a key: ids repeat in the files of the field.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mmsieve.errors import RequestError, ShardError
from mmsieve.outputs import write_atomically
from mmsieve.read.json_items import is_list, line_items, list_items
from mmsieve.read.parquet import open_parquet, rows_at_once
from mmsieve.sources import split_name, suffix_of, unpacked

Places: TypeAlias = npt.NDArray[np.int64]
JSON, LINES, PARQUET = ".json", ".jsonl", ".parquet"
ITEM_FILES = (JSON, LINES, PARQUET)


def form_of(path: Path) -> str:
    """The suffix that says a file's form: of a compressed one that of its content."""
    return suffix_of(str(path))


def plain_name(path: Path) -> str:
    """The name of a file's items once they are written: a compressed file's without `.gz`."""
    return split_name(str(path))[0] + form_of(path)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A file's content, unpacked where it is compressed; what goes wrong is a RequestError."""
    try:
        with unpacked(str(path)) as content, Path(content).open("rb") as file:
            yield file
    except (OSError, ShardError, pa.ArrowException) as error:
        raise RequestError(f"{path}: can't be read: {error}") from error


def write_items(out: Path, parts: Sequence[tuple[Path, Places]]) -> None:
    """Write the items at some places of some files: as Parquet, a JSON list or JSON lines.

    Places ascend; the suffix of `out` says the form. JSON items keep their bytes, rows of Parquet
    their types. Raises RequestError where a file can't be read, or has no such place any more.
    """
    (_write_rows if out.suffix == PARQUET else _write_json)(out, parts)


def _write_json(out: Path, parts: Sequence[tuple[Path, Places]]) -> None:
    """Items of JSON lists or lines, as a list or as lines."""
    as_lines = out.suffix == LINES

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
        with _opened(path) as file:
            is_line = not is_list(file, form_of(path))
            left = iter(places.tolist())
            wanted = next(left, None)
            for place, raw in enumerate(line_items(file) if is_line else list_items(file, 0)):
                if place == wanted:
                    yield raw.removeprefix(b"\xef\xbb\xbf").strip(), is_line
                    wanted = next(left, None)
                if wanted is None:
                    break
        if wanted is not None:
            raise RequestError(f"{path}: has no item {wanted} any more: rate it again")


def read_schema(path: Path) -> pa.Schema:
    """The columns of a Parquet file; raises RequestError where it can't be read."""
    with _opened(path) as file:
        return open_parquet(file).schema_arrow


def _write_rows(out: Path, parts: Sequence[tuple[Path, Places]]) -> None:
    """Rows of Parquet files, a bounded number at a time."""

    def write(temporary: Path) -> None:
        schema = read_schema(parts[0][0])
        with pq.ParquetWriter(temporary, schema) as writer:
            for path, places in parts:
                for rows in _chosen_rows(path, places):
                    writer.write_table(rows.cast(schema))

    write_atomically(out, write)


def _chosen_rows(path: Path, places: Places) -> Iterator[pa.Table]:
    with _opened(path) as file:
        opened = open_parquet(file)
        first = 0
        for group in range(opened.num_row_groups):
            at_once = rows_at_once(opened, group, opened.schema_arrow.names)
            for batch in opened.iter_batches(at_once, row_groups=[group]):
                low, high = np.searchsorted(places, [first, first + batch.num_rows])
                if low < high:
                    yield pa.table(batch).take(pa.array(places[low:high] - first))
                first += batch.num_rows
