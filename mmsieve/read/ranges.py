"""Files of rows -> shards of about 4,096 rows, so that one large file is resumable and parallel."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec

from mmsieve.errors import RequestError, ShardError
from mmsieve.read import parquet
from mmsieve.read.json_items import item_spans
from mmsieve.read.layouts import LayoutError, is_in_list, json_layout, open_shard, parquet_parser
from mmsieve.read.records import Layout, ReadOptions
from mmsieve.sources import TAR, Shard, check_names

ROWS = 4096
_CHUNK = 1 << 24
_JSON = (".jsonl", ".json")
_SUFFIXES: dict[Layout, tuple[str, ...]] = {
    "captions": TAR,
    "documents": TAR,
    "image-parquet": (".parquet",),
    "mmc4": _JSON,
    "instructions": (*_JSON, ".parquet"),
}


def split_files(files: tuple[Shard, ...], options: ReadOptions) -> list[Shard]:
    """The shards of all files; raises RequestError where the options don't fit the files."""
    _check(files, options)
    known = [_with_layout(file, options) for file in files]  # all requests before a long pass
    shards = [shard for file in known for shard in _split(file, options)]
    check_names(shards)
    return shards


def _check(files: tuple[Shard, ...], options: ReadOptions) -> None:
    """What can be known of a request's layout before anything is read in earnest."""
    if options.images is not None and not Path(options.images).is_dir():
        raise RequestError(f"--images {options.images}: no such folder")
    expected = None if options.layout is None else _SUFFIXES[options.layout]
    for file in files:
        if expected is not None and file.suffix not in expected:
            suffixes = ", ".join(expected)
            raise RequestError(f"{file.url}: --layout {options.layout} is for {suffixes} files")
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


def _with_layout(file: Shard, options: ReadOptions) -> Shard:
    """The file with its layout where that has to be known before its rows are read."""
    if file.suffix not in _JSON:
        return file
    try:
        with fsspec.open(file.url, "rb") as handle:
            return replace(file, layout=json_layout(handle, file.suffix, options))
    except RequestError as error:
        raise RequestError(f"{file.url}: {error}") from error
    except Exception:  # noqa: BLE001 - broken, or out of reach: the run names it
        return file


def _split(file: Shard, options: ReadOptions) -> Iterator[Shard]:
    """The ranges of a file; of one that can't be read one that fails and is named in the run."""
    if file.suffix in TAR:
        yield file
        return
    ranges: list[Shard] = []
    try:
        with fsspec.open(file.url, "rb") as handle:
            ranges += _ranges(file, handle, options)
    except RequestError as error:
        raise RequestError(f"{file.url}: {error}") from error
    except Exception:  # noqa: BLE001 - every fsspec backend has errors of its own
        ranges = [file]
    for number, shard in enumerate(ranges):
        yield replace(shard, name=f"{file.name}-{number:06d}")


def _ranges(file: Shard, handle: Any, options: ReadOptions) -> Iterator[Shard]:
    if file.suffix == ".parquet":
        return _parquet(file, handle, options)
    return (_list if is_in_list(handle, file.suffix) else _lines)(file, handle)


def _parquet(file: Shard, handle: Any, options: ReadOptions) -> Iterator[Shard]:
    """Ranges that end where a row group ends, if groups are small enough for that."""
    opened = parquet.open_parquet(handle)
    parquet_parser(opened.schema_arrow, options)  # raises where a column is missing
    metadata = opened.metadata
    start = stop = 0
    for index in range(metadata.num_row_groups):
        stop += metadata.row_group(index).num_rows
        while stop - start >= ROWS:
            end = stop if stop - start < 2 * ROWS else start + ROWS
            yield replace(file, start=start, stop=end)
            start = end
    if stop > start or stop == 0:  # a file without rows is a shard without rows
        yield replace(file, start=start, stop=stop)


def _list(file: Shard, handle: Any) -> Iterator[Shard]:
    """Ranges of the items of a JSON list, with their bytes, in one pass over the file.

    The first range begins with the file. The last ends with it, so that who reads it finds what
    comes after the last item, or what is broken there.
    """
    first = number = begin = 0
    with suppress(ShardError):
        for start, _ in item_spans(handle):
            if number - first == ROWS:
                yield replace(file, start=first, stop=number, span=(begin, start))
                first, begin = number, start
            number += 1
    yield replace(file, start=first, stop=number, span=(begin, handle.seek(0, 2)))


def _lines(file: Shard, handle: Any) -> Iterator[Shard]:
    """Ranges of whole lines, with their bytes, in one pass over the file; an empty line is one."""
    handle.seek(0)
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
