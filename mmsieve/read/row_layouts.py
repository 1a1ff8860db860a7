"""Which layout a file of rows is in, from its columns or its first items."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa

from mmsieve.errors import RequestError, SampleError, ShardError
from mmsieve.read import image_parquet, instructions, mmc4
from mmsieve.read.captions import parse_object
from mmsieve.read.columns import is_turns
from mmsieve.read.conversations import TURNS
from mmsieve.read.json_items import first_sign, line_items, list_items
from mmsieve.read.records import Layout, ReadOptions, wrong_kind

_PROBE = 64

RowParser: TypeAlias = image_parquet.Parser | instructions.RowParser


def parquet_parser(schema: pa.Schema, options: ReadOptions) -> RowParser:
    """The parser for a Parquet file's rows; raises RequestError where the columns don't fit."""
    types = dict(zip(schema.names, schema.types, strict=True))
    has_turns = any(is_turns(types[name]) for name in TURNS if name in types)
    layout = options.layout
    if layout is None:
        layout = "instructions" if has_turns and not options.text_column else "image-parquet"
    _check_kind(layout, options)
    if layout == "instructions":
        return instructions.RowParser(schema, options)
    return image_parquet.Parser(schema, options)


def is_in_list(file: BinaryIO, suffix: str) -> bool:
    """Whether a JSON or JSONL file's items are in a list, and not one a line."""
    sign = first_sign(file)
    return sign == "[" or (suffix == ".json" and sign != "{")


def json_layout(file: BinaryIO, suffix: str, options: ReadOptions) -> Layout:
    """The layout of a JSON or JSONL file, from the first of its items that tell.

    Raises RequestError where that layout is not read, or images are named that nobody can find.
    """
    raw = list_items(file, 0) if is_in_list(file, suffix) else line_items(file)
    items = [_parsed(data) for data in _before_break(islice(raw, _PROBE))]
    layout = options.layout or _recognised(items, suffix)
    _check_kind(layout, options)
    if layout == "mmc4":
        mmc4.parser(options.images)  # raises where the folder of images is missing
    elif options.images is None and any(map(instructions.names_image_files, items)):
        raise RequestError("its items name image files: say where they are with --images DIR")
    return layout


def _recognised(items: list[Mapping[str, Any]], suffix: str) -> Layout:
    if any(map(instructions.looks_right, items)) or (suffix == ".json" and not items):
        return "instructions"
    if suffix == ".jsonl" or any("text_list" in item for item in items):
        return "mmc4"
    raise RequestError(
        f"layout not recognised: none of its first items has {' or '.join(TURNS)}; "
        "say --layout instructions if others have, or name the files that are meant"
    )


def _before_break(items: Iterator[bytes]) -> Iterator[bytes]:
    """What can be read: where a file breaks off, and why, is said when its rows are read."""
    with suppress(ShardError):
        yield from items


def _parsed(data: bytes) -> Mapping[str, Any]:
    try:
        return parse_object(data)
    except SampleError:
        return {}


def _check_kind(layout: Layout, options: ReadOptions) -> None:
    if problem := wrong_kind(layout, options):
        raise RequestError(problem)
