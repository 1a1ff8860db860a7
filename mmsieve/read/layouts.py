"""Layouts: which one a file is in, the shards that it becomes, and the reader of a shard.

A reader works in two steps, so that parsing runs in worker processes: records (raw bytes, in the
order of the file) and `parse` (record -> sample, or the reason why there is none). A tar is a
shard; a file of rows becomes shards of about 4,096, so that a large one is resumable and parallel.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeVar

import pyarrow as pa

from mmsieve.errors import MmsieveError, RequestError, SampleError, ShardError
from mmsieve.read import (
    Parse,
    ReadOptions,
    Record,
    ShardReader,
    captions,
    documents,
    instructions,
    json_items,
    parquet,
    tar,
)
from mmsieve.sample import Kind
from mmsieve.sources import TAR, Shard, check_names, local_path, one_line, open_file

T = TypeVar("T")
ROWS = 4096
"""Of a shard."""
_PROBE = 64
"""Records that are looked at to recognise a layout."""
_JSON = (".jsonl", ".json")
_PARQUET = (".parquet",)


@dataclass(frozen=True)
class ItemReader:
    """How the items of a layout's JSON files are read."""

    records: Callable[[Iterable[bytes], int, int, str], Iterator[Record]]
    """Of raw items, the number of the first and one past the last, and the file's stem."""
    parser: Callable[[Path | None], Parse]
    """Of the folder of images; raises RequestError where it can't do without one."""


RowParser: TypeAlias = captions.ImageTextParser | instructions.InstructionRowParser


@dataclass(frozen=True)
class LayoutReader:
    """What samples a layout holds, and how it is recognised and read in each kind of file."""

    kinds: tuple[Kind, ...]
    looks_right: Callable[[Mapping[str, Any]], bool]
    """Whether a record is in it: a tar's members, a JSON item, a Parquet file's column types."""
    tar: Parse | None = None
    items: ItemReader | None = None
    rows: Callable[[dict[str, pa.DataType], ReadOptions], RowParser] | None = None

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The suffixes of its files."""
        known = ((self.tar, TAR), (self.items, _JSON), (self.rows, _PARQUET))
        return tuple(suffix for way, suffixes in known if way for suffix in suffixes)


LAYOUTS: dict[str, LayoutReader] = {
    "documents": LayoutReader(("document",), documents.looks_right, tar=documents.parse),
    "captions": LayoutReader(("caption",), captions.looks_right, tar=captions.parse),
    "instructions": LayoutReader(
        ("instruction",),
        instructions.looks_right,
        items=ItemReader(instructions.read_items, instructions.InstructionParser),
        rows=instructions.InstructionRowParser,
    ),
    "mmc4": LayoutReader(
        ("document",),
        documents.is_mmc4,
        items=ItemReader(documents.read_lines, documents.Mmc4Parser),
    ),
    "image-parquet": LayoutReader(
        ("caption", "document"), lambda columns: True, rows=captions.ImageTextParser
    ),
}
"""A row per layout; the first that looks right is taken."""


class LayoutError(ShardError):
    """The shard's content is in no layout that is read, or not in the one that was asked for."""


# Which layout a file is in


def _wrong_kind(layout: str, options: ReadOptions) -> str | None:
    """Why the caller can't do with samples of a layout, if that is so."""
    kinds = LAYOUTS[layout].kinds
    if options.kinds is None or set(kinds) & set(options.kinds):
        return None
    verbs = "rate and select are" if kinds[0] == "instruction" else "score is"
    wanted = " and ".join(options.kinds)
    return f"holds {kinds[0]} samples, where {wanted} samples are read; {verbs} for those"


def _tar_layout(records: Iterator[Record], asked: str | None) -> str:
    """A tar's layout: what was asked for, unless its records show another, or what they show."""
    right: list[str] = []
    may_be_captions = False
    seen: list[str] = []
    with suppress(ShardError):  # cut short: the run says so when it has read what there is
        for record in records:
            right = [n for n, one in LAYOUTS.items() if one.tar and one.looks_right(record.fields)]
            if right:
                break
            may_be_captions |= captions.looks_possible(record.fields)
            seen += [f"{record.key}.{extension}" for extension in record.fields]
    if asked is not None and (not right or asked in right):
        return asked
    known = (
        "captions are an image and a txt of one key, documents a json with `texts` and "
        "`image_info` or `images`"
    )
    if asked is not None:
        raise LayoutError(f"not {asked}: {known}")
    if right or may_be_captions or not seen:
        return right[0] if right else "captions"
    raise LayoutError(f"layout not recognised from {', '.join(seen[:3])}: {known}")


def _json_layout(file: BinaryIO, suffix: str, options: ReadOptions) -> str:
    """The layout of a JSON or JSONL file; RequestError for one not read, or without its images."""
    items = _first_items(file, suffix)
    layout = options.layout or _recognised(items, suffix)
    if problem := _wrong_kind(layout, options):
        raise RequestError(problem)
    _item_reader(layout).parser(options.images)  # raises where it can't do without images
    if options.images is None and any(map(instructions.names_image_files, items)):
        raise RequestError("its items name image files: say where they are with --images DIR")
    return layout


def _item_reader(layout: str) -> ItemReader:
    items = LAYOUTS[layout].items
    assert items is not None  # a layout that was asked for has been checked against the suffix
    return items


def _first_items(file: BinaryIO, suffix: str) -> list[dict[str, Any]]:
    """The first items that can be read; where a file breaks off is said when its rows are read."""
    found: list[dict[str, Any]] = []
    is_list = json_items.is_list(file, suffix)
    raw = json_items.list_items(file, 0) if is_list else json_items.line_items(file)
    with suppress(ShardError):
        for data in islice(raw, _PROBE):
            found.append({})
            with suppress(SampleError):
                found[-1] = json_items.parse_object(data)
    return found


def _recognised(items: list[dict[str, Any]], suffix: str) -> str:
    if not items and suffix == ".json":
        return "instructions"
    for layout, reader in LAYOUTS.items():
        if reader.items and any(map(reader.looks_right, items)):
            return layout
    if suffix == ".jsonl":
        return "mmc4"
    raise RequestError(
        f"layout not recognised: none of its first items has {' or '.join(instructions.TURNS)}; "
        "say --layout instructions if others have, or name the files that are meant"
    )


def _row_parser(schema: pa.Schema, options: ReadOptions) -> RowParser:
    types = dict(zip(schema.names, schema.types, strict=True))
    fitting = (n for n, one in LAYOUTS.items() if one.rows and one.looks_right(types))
    usual = "image-parquet" if options.text_column else next(fitting)
    layout = options.layout or usual
    if problem := _wrong_kind(layout, options):
        raise RequestError(problem)
    make = LAYOUTS[layout].rows
    assert make is not None  # as for JSON
    return make(types, options)


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
    if options.images is not None and not Path(options.images).is_dir():
        raise RequestError(f"--images {options.images}: no such folder")
    expected = None if options.layout is None else LAYOUTS[options.layout].suffixes
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
    layout = _look_into(file, lambda handle: _json_layout(handle, file.suffix, options))
    return replace(file, layout=layout)


def _split(file: Shard, options: ReadOptions) -> Iterator[Shard]:
    """The ranges of a file; of one that can't be read one that fails and is named in the run."""
    if file.suffix in TAR:
        yield file
        return
    split = _row_ranges if file.suffix in _PARQUET else _item_ranges
    ranges = _look_into(file, lambda handle: list(split(file, handle, options))) or [file]
    for number, shard in enumerate(ranges):
        yield replace(shard, name=f"{file.name}-{number:06d}")


def _look_into(file: Shard, read: Callable[[BinaryIO], T]) -> T | None:
    """What `read` finds in a file; None where it is broken or out of reach: the run names it."""
    try:
        with open_file(file) as handle:
            return read(handle)
    except RequestError as error:
        raise RequestError(f"{file.url}: {error}") from error
    except Exception:  # noqa: BLE001 - every fsspec backend has errors of its own
        return None


def _row_ranges(file: Shard, handle: BinaryIO, options: ReadOptions) -> Iterator[Shard]:
    """Ranges that end where a row group ends, if groups are small enough for that."""
    opened = parquet.open_parquet(handle)
    _row_parser(opened.schema_arrow, options)  # raises where a column is missing
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


def _item_ranges(file: Shard, handle: BinaryIO, options: ReadOptions) -> Iterator[Shard]:
    """Ranges of the items of a JSON list, or of lines, with their bytes, in one pass over the file.

    The last ends with the file, so that who reads it finds what is broken behind the last item.
    """
    starts = json_items.line_starts(handle)
    if json_items.is_list(handle, file.suffix):
        starts = (start for start, _ in json_items.item_spans(handle))
    first = number = begin = 0
    with suppress(ShardError):
        for start in starts:
            if number - first == ROWS:
                yield replace(file, start=first, stop=number, span=(begin, start))
                first, begin = number, start
            number += 1
    yield replace(file, start=first, stop=number, span=(begin, handle.seek(0, 2)))


# Shards -> records and their parser


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
        index = tar.index_tar(file)
        layout = _tar_layout(islice(tar.read_records(file, index), _PROBE), options.layout)
        if problem := _wrong_kind(layout, options):
            raise LayoutError(problem)
        parse = LAYOUTS[layout].tar
        assert parse is not None
        yield ShardReader(len(index.groups), tar.read_records(file, index), parse)


@contextmanager
def _open_parquet(shard: Shard, options: ReadOptions) -> Iterator[ShardReader]:
    with open_file(shard) as file:
        opened = parquet.open_parquet(file)
        stop = opened.metadata.num_rows if shard.stop is None else shard.stop
        parser = _row_parser(opened.schema_arrow, options)
        key_of = partial(parser.key, shard.stem)
        records = parquet.read_records(opened, shard.start, stop, parser.columns, key_of)
        yield ShardReader(stop - shard.start, records, parser)


@contextmanager
def _open_json(shard: Shard, options: ReadOptions) -> Iterator[ShardReader]:
    with open_file(shard) as file:
        if shard.span is None or shard.stop is None:
            raise ShardError("its items could not be counted when the run was planned")
        begin, end = shard.span
        if json_items.is_list(file, shard.suffix):
            is_last = end >= file.seek(0, 2)  # in it the list must end
            items = json_items.list_items(file, begin, None if is_last else end)
        else:
            items = json_items.line_items(file, begin, end)
        reader = _item_reader(shard.layout or "mmc4")
        records = reader.records(items, shard.start, shard.stop, shard.stem)
        yield ShardReader(shard.stop - shard.start, records, reader.parser(options.images))


_OPENERS = {".tar": _open_tar, ".parquet": _open_parquet, ".jsonl": _open_json, ".json": _open_json}
