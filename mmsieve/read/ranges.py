"""Files of rows -> shards of about 4,096 rows, so that one large file is resumable and parallel."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec

from mmsieve.errors import RequestError, ShardError
from mmsieve.read import LayoutError, image_parquet, mmc4, open_shard
from mmsieve.read.records import ReadOptions
from mmsieve.sources import TAR, Shard, check_names

ROWS = 4096
_CHUNK = 1 << 24
_SUFFIXES = {
    "captions": ".tar",
    "documents": ".tar",
    "image-parquet": ".parquet",
    "mmc4": ".jsonl",
}


def split_files(files: tuple[Shard, ...], options: ReadOptions) -> list[Shard]:
    """The shards of all files; raises RequestError where the options don't fit the files."""
    _check(files, options)
    shards = [shard for file in files for shard in _split(file, options)]
    check_names(shards)
    return shards


def _check(files: tuple[Shard, ...], options: ReadOptions) -> None:
    """What can be known of a request's layout before anything is read in earnest."""
    if options.images is not None and not Path(options.images).is_dir():
        raise RequestError(f"--images {options.images}: no such folder")
    expected = None if options.layout is None else _SUFFIXES[options.layout]
    for file in files:
        if expected is not None and file.suffix != expected:
            raise RequestError(f"{file.url}: --layout {options.layout} is for {expected} files")
    errors = []
    for file in [file for file in files if file.suffix in TAR and "://" not in file.url][:8]:
        try:
            with open_shard(file, options):
                return
        except LayoutError as error:
            errors.append(f"{file.url}: {error}")
        except ShardError:  # broken: the run names it, and the others may be fine
            continue
    if errors:
        raise RequestError(errors[0])


def _split(file: Shard, options: ReadOptions) -> Iterator[Shard]:
    """The ranges of a file; of one that can't be read one that fails and is named in the run."""
    if file.suffix in TAR:
        yield file
        return
    ranges: list[Shard] = []
    try:
        with fsspec.open(file.url, "rb") as handle:
            ranges += (_parquet if file.suffix == ".parquet" else _lines)(file, handle, options)
    except RequestError as error:
        raise RequestError(f"{file.url}: {error}") from error
    except Exception:  # noqa: BLE001 - every fsspec backend has errors of its own
        ranges = [file]
    for number, shard in enumerate(ranges):
        yield replace(shard, name=f"{file.name}-{number:06d}")


def _parquet(file: Shard, handle: Any, options: ReadOptions) -> Iterator[Shard]:
    """Ranges that end where a row group ends, if groups are small enough for that."""
    parquet = image_parquet.open_parquet(handle)
    image_parquet.Parser(parquet.schema_arrow, options)  # raises where a column is missing
    metadata = parquet.metadata
    start = stop = 0
    for index in range(metadata.num_row_groups):
        stop += metadata.row_group(index).num_rows
        while stop - start >= ROWS:
            end = stop if stop - start < 2 * ROWS else start + ROWS
            yield replace(file, start=start, stop=end)
            start = end
    if stop > start or stop == 0:  # a file without rows is a shard without rows
        yield replace(file, start=start, stop=stop)


def _lines(file: Shard, handle: Any, options: ReadOptions) -> Iterator[Shard]:
    """Ranges of whole lines, with their bytes, in one pass over the file; an empty line is one."""
    mmc4.parser(options.images)  # raises where the folder of images is missing
    first = number = begin = position = 0
    last = b"\n"
    while chunk := handle.read(_CHUNK):
        at = 0
        while (at := chunk.find(b"\n", at) + 1) > 0:
            number += 1
            if number - first == ROWS:
                end = position + at
                yield replace(file, start=first, stop=number, span=(begin, end))
                first, begin = number, end
        position += len(chunk)
        last = chunk[-1:]
    number += last != b"\n"
    if number > first or number == 0:
        yield replace(file, start=first, stop=number, span=(begin, position))
