"""Which layout a shard is in, seen from its content, and the reader of each.

A reader works in two steps, so that parsing runs in worker processes: records (raw bytes, in the
order of the file) and `parse` (record -> sample, or the reason why there is none).
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, TypeAlias

import fsspec
import pyarrow as pa

from mmsieve.errors import MmsieveError, RequestError, SampleError, ShardError
from mmsieve.read import captions, documents, instructions, parquet
from mmsieve.read.captions import parse_object
from mmsieve.read.instructions import TURNS
from mmsieve.read.json_items import first_sign, line_items, list_items
from mmsieve.read.parquet import is_turns
from mmsieve.read.records import Layout, ReadOptions, Record, ShardReader, wrong_kind
from mmsieve.read.tar import index_tar, read_records
from mmsieve.sources import Shard, local_path, one_line

# Which layout a file of rows is in, from its columns or its first items

_PROBE = 64

RowParser: TypeAlias = parquet.Parser | instructions.RowParser


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
    return parquet.Parser(schema, options)


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
        documents.parser(options.images)  # raises where the folder of images is missing
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


# Shards -> samples: one reader per layout, chosen from the content

_PROBE_READ = 64
_TAR_LAYOUTS: dict[Layout, ModuleType] = {"documents": documents, "captions": captions}
_LAYOUTS = (
    "captions are an image and a txt of one key, documents a json with `texts` and `image_info` "
    "or `images`"
)


class LayoutError(ShardError):
    """The shard's content is in no layout that is read, or not in the one that was asked for."""


@contextmanager
def open_shard(shard: Shard, options: ReadOptions) -> Iterator[ShardReader]:
    """Open a shard; raises ShardError where nothing of it can be read."""
    with ExitStack() as stack:
        with _as_shard_error():
            reader = stack.enter_context(_OPENERS[shard.suffix](shard, options))
        count, records = reader.count, _read_on(reader.records)
        if shard.limit is not None and shard.limit < count:
            count, records = shard.limit, islice(records, shard.limit)
        yield ShardReader(count, records, reader.parse)


@contextmanager
def _as_shard_error() -> Iterator[None]:
    """Whatever a file system or a broken file raises is the shard's failure, and names it."""
    try:
        yield
    except MmsieveError:
        raise
    except Exception as error:
        raise ShardError(f"can't be read: {one_line(error)}") from error


def _read_on(records: Iterator[Record]) -> Iterator[Record]:
    with _as_shard_error():
        yield from records


@contextmanager
def _open_tar(shard: Shard, options: ReadOptions) -> Iterator[ShardReader]:
    with local_path(shard) as path, Path(path).open("rb") as file:
        index = index_tar(file)
        layout = _recognise(islice(read_records(file, index), _PROBE_READ), options.layout)
        if problem := wrong_kind(layout, options):
            raise LayoutError(problem)
        yield ShardReader(len(index.groups), read_records(file, index), _TAR_LAYOUTS[layout].parse)


@contextmanager
def _open_parquet(shard: Shard, options: ReadOptions) -> Iterator[ShardReader]:
    with fsspec.open(shard.url, "rb") as file:
        opened = parquet.open_parquet(file)
        stop = opened.metadata.num_rows if shard.stop is None else shard.stop
        parser = parquet_parser(opened.schema_arrow, options)
        records = parquet.read_records(opened, shard.start, stop, shard.stem, parser)
        yield ShardReader(stop - shard.start, records, parser)


@contextmanager
def _open_json(shard: Shard, options: ReadOptions) -> Iterator[ShardReader]:
    with fsspec.open(shard.url, "rb") as file:
        if shard.span is None or shard.stop is None:
            raise ShardError("its items could not be counted when the run was planned")
        begin, end = shard.span
        if is_in_list(file, shard.suffix):
            is_last = end >= file.seek(0, 2)  # in it the list must end
            items = list_items(file, begin, None if is_last else end)
        else:
            items = line_items(file, begin, end)
        of_range = shard.start, shard.stop, shard.stem
        count = shard.stop - shard.start
        if shard.layout == "instructions":
            records = instructions.read_records(items, *of_range)
            yield ShardReader(count, records, instructions.Parser(options.images))
        else:
            yield ShardReader(
                count, documents.read_records(items, *of_range), documents.parser(options.images)
            )


_OPENERS = {
    ".tar": _open_tar,
    ".parquet": _open_parquet,
    ".jsonl": _open_json,
    ".json": _open_json,
}


def _recognise(records: Iterator[Record], asked: Layout | None) -> Layout:
    """A tar's layout, from the first of its records that tells.

    One that was asked for is used as long as the content doesn't say that it is another.
    """
    right: list[Layout] = []
    may_be_captions = False
    seen: list[str] = []
    with suppress(ShardError):  # cut short: the run says so when it has read what there is
        for record in records:
            right = [n for n, reader in _TAR_LAYOUTS.items() if reader.looks_right(record.fields)]
            if right:
                break
            may_be_captions |= captions.looks_possible(record.fields)
            seen += [f"{record.key}.{extension}" for extension in record.fields]
    if asked is not None and (not right or asked in right):
        return asked
    if asked is not None:
        raise LayoutError(f"not {asked}: {_LAYOUTS}")
    if right or may_be_captions or not seen:
        return right[0] if right else "captions"
    raise LayoutError(f"layout not recognised from {', '.join(seen[:3])}: {_LAYOUTS}")
