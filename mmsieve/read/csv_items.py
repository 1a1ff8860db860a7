"""CSV and TSV files with a line of names: each row as the JSON object of its columns.

So whatever reads items of JSON reads rows too. A row may go over several lines, in quotes; lines
are counted in bytes, so that a range of rows is found again.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from mmsieve.errors import ShardError
from mmsieve.read import MAX_BYTES
from mmsieve.stores.asking import one_line

CSV = (".csv", ".tsv")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_BOM = b"\xef\xbb\xbf"

csv.field_size_limit(MAX_BYTES)  # 131,072 by default: less than an image in base64 has


def row_starts(file: BinaryIO, suffix: str) -> Iterator[int]:
    """The first byte of each row behind the line of names; raises ShardError, as the other does."""
    rows = _CsvRows(file, suffix, 0)
    next(rows, None)
    start = rows.position
    for row in rows:
        if row:
            yield start
        start = rows.position


def row_items(
    file: BinaryIO, suffix: str, begin: int = 0, end: int | None = None
) -> Iterator[bytes]:
    """The rows from byte `begin` (0: the first) to `end`, empty lines left out."""
    head = _CsvRows(file, suffix, 0)
    names = next(head, [])
    rows = _CsvRows(file, suffix, begin or head.position)
    while end is None or rows.position < end:
        row = next(rows, None)
        if row is None:
            break
        if row:
            yield _item(names, row)


def raw_rows(file: BinaryIO, suffix: str) -> Iterator[bytes]:
    """The line of names, then each row, as they stand in the file."""
    rows = _CsvRows(file, suffix, 0)
    start = 0
    for number, row in enumerate(rows):
        if row or number == 0:
            file.seek(start)
            yield file.read(rows.position - start)
        start = rows.position


def parse_row(raw: bytes, suffix: str) -> list[str]:
    """The values of a row, or the names of the first line."""
    return next(_CsvRows(io.BytesIO(raw), suffix, 0), [])


def format_row(values: Iterable[object], suffix: str) -> bytes:
    """A row of values, or of names."""
    text = io.StringIO()
    csv.writer(text, delimiter=_DELIMITERS[suffix], lineterminator="\n").writerow(values)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _item(names: list[str], row: list[str]) -> bytes:
    """A row as JSON; one with more values than there are names, or none at all, is no object."""
    value = dict(zip(names, row, strict=False)) if len(row) <= len(names) else row
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")


class _CsvRows(Iterator[list[str]]):
    """The rows of a file from a byte on; `position` is where the next one begins."""

    def __init__(self, file: BinaryIO, suffix: str, begin: int) -> None:
        self.position = begin
        self._file = file
        self._reader = csv.reader(self._lines(), delimiter=_DELIMITERS[suffix])

    def __next__(self) -> list[str]:
        self._file.seek(self.position)
        try:
            return next(self._reader)
        except csv.Error as error:
            raise ShardError(f"no rows from byte {self.position} on: {one_line(error)}") from error

    def _lines(self) -> Iterator[str]:
        while line := self._file.readline(MAX_BYTES):
            begins = self.position == 0
            self.position += len(line)
            text = line.removeprefix(_BOM) if begins else line
            yield text.decode("utf-8", "surrogateescape")
