"""Shards -> samples: one reader per layout, chosen from the content.

A reader works in two steps, so that parsing runs in worker processes: records (raw bytes, in the
order of the file) and `parse` (record -> sample, or the reason why there is none).
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from types import ModuleType

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from mmsieve.errors import ShardError
from mmsieve.read import captions, documents, image_parquet, mmc4
from mmsieve.read.records import Layout, Parse, ReadOptions, Record, ShardReader, parse_record
from mmsieve.read.tar import index_tar, read_records
from mmsieve.sources import Shard, local_path

__all__ = [
    "Layout",
    "LayoutError",
    "Parse",
    "ReadOptions",
    "Record",
    "ShardReader",
    "open_shard",
    "parse_record",
]

_PROBE = 64
_TAR_LAYOUTS = {"captions": captions, "documents": documents}


class LayoutError(ShardError):
    """The shard's content is in no layout that is read, or not in the one that was asked for."""


@contextmanager
def open_shard(shard: Shard, options: ReadOptions) -> Iterator[ShardReader]:
    """Open a shard; raises ShardError where nothing of it can be read."""
    try:
        opened = _openers[shard.suffix](shard, options)
    except OSError as error:
        raise ShardError(str(error)) from error
    with opened as reader:
        yield _limit(reader, shard.limit)


@contextmanager
def _open_tar(shard: Shard, options: ReadOptions) -> Iterator[ShardReader]:
    with local_path(shard) as path, Path(path).open("rb") as file:
        index = index_tar(file)
        layout = _recognise(islice(read_records(file, index), _PROBE), options.layout)
        yield ShardReader(len(index.groups), read_records(file, index), layout.parse)


@contextmanager
def _open_parquet(shard: Shard, options: ReadOptions) -> Iterator[ShardReader]:
    with fsspec.open(shard.url, "rb") as file:
        try:
            parquet = pq.ParquetFile(file)
        except pa.ArrowException as error:
            raise ShardError(f"not a Parquet file: {error}") from error
        stop = parquet.metadata.num_rows if shard.stop is None else shard.stop
        parser = image_parquet.Parser(parquet.schema_arrow, options)
        records = image_parquet.read_records(parquet, shard.start, stop, shard.stem, parser)
        yield ShardReader(stop - shard.start, records, parser)


@contextmanager
def _open_jsonl(shard: Shard, options: ReadOptions) -> Iterator[ShardReader]:
    parser = mmc4.parser(options.images)
    if shard.span is None or shard.stop is None:
        raise ShardError("a JSONL file is read in ranges of lines: plan it first")
    with fsspec.open(shard.url, "rb") as file:
        records = mmc4.read_records(file, shard.span, shard.start, shard.stem)
        yield ShardReader(shard.stop - shard.start, records, parser)


_openers = {".tar": _open_tar, ".parquet": _open_parquet, ".jsonl": _open_jsonl}


def _recognise(records: Iterator[Record], asked: Layout | None) -> ModuleType:
    """The reader of a tar's layout, from its first records; it must be the one asked for."""
    layouts = [_TAR_LAYOUTS[asked]] if asked else [documents, captions]
    seen: list[str] = []
    with suppress(ShardError):  # cut short: the run says so when it has read what there is
        for record in records:
            for layout in layouts:
                if layout.looks_right(record.fields):
                    return layout
            seen += [f"{record.key}.{extension}" for extension in record.fields]
    if not seen:
        return layouts[0]
    raise LayoutError(
        f"{asked or 'layout'} not recognised from {', '.join(seen[:3])}: captions are an image "
        "and a txt of one key, documents a json with `texts`"
    )


def _limit(reader: ShardReader, limit: int | None) -> ShardReader:
    if limit is None or limit >= reader.count:
        return reader
    return ShardReader(limit, islice(reader.records, limit), reader.parse)
