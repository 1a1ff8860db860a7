"""The items of an instruction file (JSON list or JSONL): keys, sources, a part of them.

Items are streamed: a file of any size is read through a window of a few megabytes.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from mmsieve.errors import RequestError, ShardError
from mmsieve.read.instructions import image_source, item_key
from mmsieve.read.json_items import raw_items
from mmsieve.table import write_atomically


def read_items(data: Path) -> Iterator[tuple[str, str | None]]:
    """Key and image source of each item in order; raises RequestError where one can't be read."""
    stem = data.stem
    for number, raw in _raw(data):
        item = _parsed(data, number, raw)
        yield item_key(item, stem, number), image_source(item)


def key_in(data: Path, number: int, raw: bytes) -> str:
    """The key of one item."""
    return item_key(_parsed(data, number, raw), data.stem, number)


def write_part(data: Path, out: Path, is_wanted: Callable[[int, bytes], bool]) -> int:
    """Write the wanted items into a JSON list, as they stand and in their order.

    `is_wanted` is asked with each item's number among the file's, from 0, and its bytes. Returns
    how many were written.
    """
    written = 0

    def write(temporary: Path) -> None:
        nonlocal written
        with temporary.open("wb") as file:
            file.write(b"[")
            for number, raw in _raw(data):
                if is_wanted(number, raw):
                    file.write(b",\n" if written else b"\n")
                    file.write(raw)
                    written += 1
            file.write(b"\n]\n")

    write_atomically(out, write)
    return written


def _raw(data: Path) -> Iterator[tuple[int, bytes]]:
    """Each item's number in the file, as keys count them, and its bytes; no empty lines."""
    try:
        with data.open("rb") as file:
            for number, raw in enumerate(raw_items(file)):
                if raw and not raw.isspace():
                    yield number, raw.strip()
    except (OSError, ShardError) as error:
        raise RequestError(f"--data {data}: can't be read: {error}") from error


def _parsed(data: Path, number: int, raw: bytes) -> dict[str, Any]:
    try:
        item = from_json(raw)
    except ValueError as error:
        raise RequestError(f"--data {data}: item {number} is no JSON: {error}") from error
    if not isinstance(item, dict):
        raise RequestError(f"--data {data}: item {number} is no object: give a list of objects")
    return item
