"""Files -> shards -> records: the ranges that files become, and the reader of a shard.

A reader works in two steps, so that parsing runs in worker processes: records (raw bytes, in the
order of the file) and `parse` (record -> sample, or the reason why there is none). A tar is a
shard; a file of rows, or a folder of image files, becomes shards of about 4,096, so that a large
one is resumable and parallel.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import pyarrow as pa

from mmsieve.errors import MmsieveError, RequestError, SampleError, ShardError
from mmsieve.read import (
    ReadOptions,
    Record,
    ShardReader,
    captions,
    csv_items,
    duplicate,
    files,
    json_items,
    layouts,
    parquet,
    tar,
)
from mmsieve.read.columns import parse_column
from mmsieve.read.layouts import LAYOUTS, LayoutError, RowFile, RowParser
from mmsieve.sources import FOLDER, TAR, Shard, check_names, local_path, open_file
from mmsieve.stores.asking import one_line
from mmsieve.stores.paths import place_of

T = TypeVar("T")
ROWS = 4096
"""Of a shard."""

# Files -> shards


def split_files(files: tuple[Shard, ...], options: ReadOptions) -> list[Shard]:
    """The shards of all files; raises RequestError where the options don't fit the files."""
    _check(files, options)
    known = [_with_layout(file, options) for file in files]  # all requests before a long pass
    shards = [shard for file in known for shard in _split(file, options)]
    check_names(shards)
    return shards


def _check(files: tuple[Shard, ...], options: ReadOptions) -> None:
    """What can be known of a request's layout before anything is read in earnest."""
    if options.images is not None and not place_of(options.images).is_dir():
        raise RequestError(f"--images {options.images}: no such folder")
    expected = None if options.layout is None else LAYOUTS[options.layout].suffixes
    for file in files:
        if expected is not None and file.suffix not in expected:
            suffixes = ", ".join(expected)
            raise RequestError(f"{file.url}: --layout {options.layout} is for {suffixes} files")
    errors = []
    looked = [file for file in files if file.suffix in (*TAR, FOLDER) and "://" not in file.url]
    for file in looked[:8]:
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
    if file.suffix in (*TAR, FOLDER, *layouts.TABLES):
        return file
    options = options_of(file, options)
    layout = _look_into(
        file, lambda handle: layouts.json_layout(handle, file.suffix, options, file.names)
    )
    return replace(file, layout=layout)


def _split(file: Shard, options: ReadOptions) -> Iterator[Shard]:
    """The ranges of a file; of one that can't be read one that fails and is named in the run."""
    if file.suffix in TAR:
        yield file
        return
    options = options_of(file, options)
    if file.suffix == FOLDER:
        ranges = list(_even_ranges(file, len(files.list_pairs(file.url))))
    else:
        found = (
            _look_into(file, lambda rows: list(_row_ranges(file, rows, options)), _open_rows)
            if file.suffix in layouts.TABLES
            else _look_into(file, lambda handle: list(_item_ranges(file, handle)))
        )
        ranges = found or [file]
    for number, shard in enumerate(ranges):
        name = f"{file.name}-{number:06d}"
        yield replace(shard, name=file.name if file.suffix == FOLDER and len(ranges) < 2 else name)


def _even_ranges(file: Shard, count: int) -> Iterator[Shard]:
    for start in range(0, count, ROWS):
        yield replace(file, start=start, stop=min(start + ROWS, count))


@contextmanager
def _open_file(file: Shard) -> Iterator[BinaryIO]:
    """A file whose places are found again: a compressed one unpacked while it is open."""
    if not file.is_packed:
        with open_file(file) as handle:
            yield handle
        return
    with local_path(file) as path, Path(path).open("rb") as handle:
        yield handle


@contextmanager
def _open_rows(file: Shard) -> Iterator[RowFile]:
    if file.suffix == ".parquet":
        with _open_file(file) as opened:
            yield parquet.ParquetRows(opened)
        return
    with local_path(file) as path:
        yield parquet.ArrowRows(path)


def _look_into(
    file: Shard,
    read: Callable[[Any], T],
    opener: Callable[[Shard], AbstractContextManager[Any]] = _open_file,
) -> T | None:
    """What `read` finds in a file; None where it is broken or out of reach: the run names it."""
    try:
        with opener(file) as handle:
            return read(handle)
    except RequestError as error:
        raise RequestError(f"{file.url}: {error}") from error
    except Exception:  # noqa: BLE001 - every fsspec backend has errors of its own
        return None


def _row_ranges(file: Shard, rows: RowFile, options: ReadOptions) -> Iterator[Shard]:
    """Ranges that end where a row group ends, if groups are small enough for that."""
    layout, parser = _row_parser(file, rows, options)  # raises where a column is missing
    own = _own_names(file, parser.columns)
    paths = [name for name in own if not parquet.holds_bytes(rows.schema.field(name).type)]
    with suppress(ShardError, OSError, pa.ArrowException):  # a broken page: the run names it
        first = rows.rows(0, min(layouts.PROBE, sum(rows.groups)), paths)
        found = first if file.names is None else map(file.names.apply, first)
        layouts.check_images(layout, found, options)
    start = stop = 0
    for group in rows.groups:
        stop += group
        while stop - start >= ROWS:
            end = stop if stop - start < 2 * ROWS else start + ROWS
            yield replace(file, start=start, stop=end)
            start = end
    if stop > start or stop == 0:  # a file without rows is a shard without rows
        yield replace(file, start=start, stop=stop)


def _row_parser(file: Shard, rows: RowFile, options: ReadOptions) -> tuple[str, RowParser]:
    """The layout of a file of columns, under their usual names, and what parses its rows."""
    schema = rows.schema
    if file.names is not None:
        schema = pa.schema(
            [
                field.with_name(name)
                for field, name in zip(schema, file.names.rename(schema.names), strict=True)
            ]
        )
    return layouts.row_parser(schema, options)


def _own_names(file: Shard, columns: list[str]) -> list[str]:
    """The names that columns have in the file, of those that it has."""
    if file.names is None:
        return columns
    return file.names.own(name for name in columns if not name.endswith(" (unused)"))


def _item_ranges(file: Shard, handle: BinaryIO) -> Iterator[Shard]:
    """Ranges of the items of a JSON list, or of lines, with their bytes, in one pass over the file.

    The last ends with the file, so that who reads it finds what is broken behind the last item.
    A compressed file, which has to be unpacked for each range, is one.
    """
    if file.suffix in csv_items.CSV:
        starts = csv_items.row_starts(handle, file.suffix)
    elif json_items.is_list(handle, file.suffix):
        starts = (start for start, _ in json_items.item_spans(handle))
    else:
        starts = json_items.line_starts(handle)
    first = number = begin = 0
    with suppress(ShardError):
        for start in starts:
            if number - first == ROWS and not file.is_packed:
                yield replace(file, start=first, stop=number, span=(begin, start))
                first, begin = number, start
            number += 1
    yield replace(file, start=first, stop=number, span=(begin, handle.seek(0, 2)))


def options_of(shard: Shard, options: ReadOptions) -> ReadOptions:
    """The options with the folder of images that a manifest names for a file, if one does, or that
    holds it, if it is `metadata.csv`, `.jsonl` or `.parquet`."""
    if shard.images is not None:
        return replace(options, images=shard.images)
    if options.images is not None or shard.stem != "metadata" or "://" in shard.url:
        return options
    return replace(options, images=Path(shard.url).parent)


# Shards -> records and their parser


@contextmanager
def open_shard(shard: Shard, options: ReadOptions) -> Iterator[ShardReader]:
    """Open a shard; raises ShardError where nothing of it can be read."""
    with ExitStack() as stack:
        with _as_shard_error():
            opener = _OPENERS[shard.suffix]
            reader = stack.enter_context(opener(shard, options_of(shard, options)))
        count, records = reader.count, _read_on(reader.records)
        if shard.limit is not None and shard.limit < count:
            count, records = shard.limit, islice(records, shard.limit)
        yield replace(reader, count=count, records=records)


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
        index = tar.index_tar(file)
        also = captions.members_asked(options)
        layout = layouts.tar_layout(_probe(file, index, also), options)
        if problem := layouts.wrong_kind(layout, options):
            raise LayoutError(problem)
        parse = LAYOUTS[layout].tar
        assert parse is not None
        records = tar.read_records(file, index, also)
        yield ShardReader(len(index.groups), records, parse(options), layout)


def _probe(file: BinaryIO, index: tar.TarIndex, also: frozenset[str]) -> Iterator[Record]:
    """The first records of an archive, then some from all over it."""
    rest = index.groups[layouts.PROBE :]
    chosen = (*index.groups[: layouts.PROBE], *rest[:: max(1, len(rest) // layouts.PROBE)])
    return tar.read_records(file, replace(index, groups=chosen), also)


@contextmanager
def _open_folder(shard: Shard, options: ReadOptions) -> Iterator[ShardReader]:
    if problem := layouts.wrong_kind("captions", options):
        raise LayoutError(problem)
    stop = shard.start if shard.stop is None else shard.stop
    records = files.read_files(shard.url, shard.start, stop)
    yield ShardReader(stop - shard.start, records, captions.MemberParser(options), "captions")


@contextmanager
def _open_table(shard: Shard, options: ReadOptions) -> Iterator[ShardReader]:
    with _open_rows(shard) as rows:
        stop = sum(rows.groups) if shard.stop is None else shard.stop
        layout, parser = _row_parser(shard, rows, options)
        key_of = partial(parser.key, shard.stem)
        own = _own_names(shard, parser.columns)
        records = parquet.read_records(rows, shard.start, stop, own, key_of)
        records = _with_usual_names(records, shard)
        records = _with_keys(records, shard, layout, options)
        yield ShardReader(stop - shard.start, records, parser, layout)


@contextmanager
def _open_items(shard: Shard, options: ReadOptions) -> Iterator[ShardReader]:
    with _open_file(shard) as file:
        if shard.span is None or shard.stop is None:
            raise ShardError("its items could not be counted when the run was planned")
        layout = shard.layout or "instructions"
        reader = layouts.item_reader(layout)
        items = layouts.raw_items(file, shard.suffix, *shard.span)
        records = reader.records(items, shard.start, shard.stop, shard.stem)
        records = _with_usual_names(records, shard)
        records = _with_keys(records, shard, layout, options)
        parser = reader.parser(options)
        yield ShardReader(shard.stop - shard.start, records, parser, layout)


def _with_usual_names(records: Iterator[Record], shard: Shard) -> Iterator[Record]:
    names = shard.names
    if names is None:
        return records
    return (replace(record, fields=names.apply(record.fields)) for record in records)


def _with_keys(
    records: Iterator[Record], shard: Shard, layout: str, options: ReadOptions
) -> Iterator[Record]:
    """Records of rows under keys of --key-column, of which a second one is a duplicate; or under
    their own, of which a second one is the row's place, unless the layout lets them repeat."""
    asked = options.key_column and parse_column(options.key_column, "key-column")
    if not asked and LAYOUTS[layout].repeats_keys:
        yield from records
        return
    seen: set[str] = set()
    for number, record in enumerate(records, shard.start):
        place, key, problem = f"{shard.stem}-{number:09d}", record.key, record.problem
        if asked:
            with suppress(SampleError):
                fields = record.fields
                fields = json_items.parse_object(fields["line"]) if "line" in fields else fields
                key = captions.key_text(asked.value(fields)) or place
            problem = problem or (duplicate(key) if key in seen else None)
        elif key in seen:
            key = place
        yield replace(record, key=key, problem=problem)
        seen.add(key)


_OPENERS = {
    ".tar": _open_tar,
    FOLDER: _open_folder,
    **dict.fromkeys(layouts.TABLES, _open_table),
    **dict.fromkeys((*layouts.JSON, *csv_items.CSV), _open_items),
}
