"""Layouts: which one a file is in, the shards that it becomes, and the reader of a shard.

A reader works in two steps, so that parsing runs in worker processes: records (raw bytes, in the
order of the file) and `parse` (record -> sample, or the reason why there is none). A tar is a
shard; a file of rows, or a folder of image files, becomes shards of about 4,096, so that a large
one is resumable and parallel.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeVar

import fsspec
import pyarrow as pa

from mmsieve.errors import MmsieveError, RequestError, SampleError, ShardError
from mmsieve.read import (
    Parse,
    ReadOptions,
    Record,
    ShardReader,
    captions,
    conversations,
    csv_items,
    documents,
    duplicate,
    files,
    instructions,
    json_items,
    parquet,
    tar,
)
from mmsieve.read.columns import parse_column
from mmsieve.read.image_values import image_path, is_address
from mmsieve.sample import Kind
from mmsieve.sources import FOLDER, TAR, Shard, check_names, local_path, one_line

T = TypeVar("T")
ROWS = 4096
"""Of a shard."""
_PROBE = 64
"""Records that are looked at to recognise a layout, and as many again where those don't tell."""
_JSON = (".jsonl", ".json")
_TABLES = (".parquet", ".arrow")


@dataclass(frozen=True)
class ItemReader:
    """How the items of a layout's JSON files are read."""

    records: Callable[[Iterable[bytes], int, int, str], Iterator[Record]]
    """Of raw items, the number of the first and one past the last, and the file's stem."""
    parser: Callable[[ReadOptions], Parse]
    """Raises RequestError where it can't do without what isn't there, as a folder of images."""
    suffixes: tuple[str, ...] = _JSON


RowParser: TypeAlias = (
    captions.ImageTextParser | documents.DocumentRowParser | instructions.InstructionRowParser
)
RowFile: TypeAlias = parquet.ParquetRows | parquet.ArrowRows


@dataclass(frozen=True)
class LayoutReader:
    """What samples a layout holds, and how it is recognised and read in each kind of file."""

    kinds: tuple[Kind, ...]
    looks_right: Callable[[Mapping[str, Any]], bool]
    """Whether a record is in it: a tar's members, a JSON item, a Parquet file's column types."""
    tar: Callable[[ReadOptions], Parse] | None = None
    in_folders: bool = False
    """Whether files of a folder, grouped by name, are read as a tar's members are."""
    items: ItemReader | None = None
    rows: Callable[[dict[str, pa.DataType], ReadOptions], RowParser] | None = None
    all_look_so: bool = False
    """Whether not one, but each item that is looked at must look right: they could be another's."""
    images: Callable[[Mapping[str, Any], ReadOptions], list[Any]] = lambda item, options: []
    """The values that stand for an item's or a row's images."""
    repeats_keys: bool = False
    """Whether several items may have one key: where not, all but the first get their place's."""

    def is_of(self, items: Sequence[Mapping[str, Any]]) -> bool:
        """Whether items, some of which may be broken and so empty, look right."""
        found = map(self.looks_right, filter(None, items))
        return (all if self.all_look_so and any(items) else any)(found)

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The suffixes of its files."""
        of_items = self.items.suffixes if self.items else ()
        known = (
            (self.tar, TAR),
            (self.in_folders, (FOLDER,)),
            (self.items, of_items),
            (self.rows, _TABLES),
        )
        return tuple(suffix for way, suffixes in known if way for suffix in suffixes)


def _objects(key_of: Callable[[Mapping[str, Any], str, int], str], parser: Any) -> ItemReader:
    return ItemReader(partial(json_items.read_objects, key_of=key_of), parser)


_CAPTION_ITEMS = replace(
    _objects(captions.item_key, captions.CaptionItemParser), suffixes=(*_JSON, *csv_items.CSV)
)

LAYOUTS: dict[str, LayoutReader] = {
    "documents": LayoutReader(
        ("document",),
        documents.looks_right,
        tar=lambda _: documents.parse,
        items=_objects(documents.item_key, documents.DocumentItemParser),
        rows=documents.DocumentRowParser,
        images=documents.image_slots,
    ),
    "instructions": LayoutReader(
        ("instruction",),
        instructions.looks_right,
        items=_objects(instructions.item_key, instructions.InstructionParser),
        rows=instructions.InstructionRowParser,
        images=instructions.image_slots,
        repeats_keys=True,
    ),
    "mmc4": LayoutReader(
        ("document",),
        documents.is_mmc4,
        items=ItemReader(
            documents.read_lines, lambda options: documents.Mmc4Parser(options.images)
        ),
        images=documents.image_slots,
    ),
    "question-answer": LayoutReader(
        ("instruction",),
        instructions.looks_like_pairs,
        items=_objects(instructions.item_key, instructions.InstructionParser),
        rows=instructions.InstructionRowParser,
        images=instructions.image_slots,
        repeats_keys=True,
    ),
    "captions": LayoutReader(
        ("caption", "document"),
        captions.looks_right,
        tar=captions.MemberParser,
        in_folders=True,
        items=_CAPTION_ITEMS,
        images=captions.image_slots,
    ),
    "image-parquet": LayoutReader(
        ("caption", "document"),
        captions.has_columns,
        rows=captions.ImageTextParser,
        images=captions.image_slots,
    ),
    "instruction-tar": LayoutReader(
        ("instruction",), instructions.tar_looks_right, tar=instructions.InstructionTarParser
    ),
    "turn-captions": LayoutReader(
        ("caption",),
        instructions.looks_like_caption,
        items=_objects(instructions.item_key, instructions.caption_parser),
        rows=instructions.caption_row_parser,
        all_look_so=True,
        images=instructions.image_slots,
        repeats_keys=True,
    ),
}
"""A row per layout; the first that looks right, and that the caller can do with, is taken."""


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


def _tar_layout(records: Iterator[Record], options: ReadOptions) -> str:
    """A tar's layout: what was asked for, unless its records show another, or what they show."""
    asked = options.layout
    if asked is None and options.text_column and not _wrong_kind("captions", options):
        asked = "captions"
    right: list[str] = []
    may_be_captions = has_image = False
    seen: list[str] = []
    with suppress(ShardError):  # cut short: the run says so when it has read what there is
        for record in records:
            right = [n for n, one in LAYOUTS.items() if one.tar and one.looks_right(record.fields)]
            if right:
                break
            may_be_captions |= captions.looks_possible(record.fields, options)
            has_image |= captions.has_image_member(record.fields)
            seen += [f"{record.key}.{extension}" for extension in record.fields]
    if asked is not None and (not right or asked in right):
        return asked
    known = (
        "captions are an image and a txt of one key, documents a json with `texts` and "
        "`image_info` or `images`, instructions a json with turns"
    )
    if asked is not None:
        raise LayoutError(f"not {asked}: {known}")
    if right or may_be_captions or not seen:
        return _suited(right, options) if right else "captions"
    rule = f"; {captions.RULE}; name members with --image-column and --text-column"
    found = rule if has_image else f"; no image member in it ({captions.DOWNLOAD}, if it has url)"
    raise LayoutError(f"layout not recognised from {', '.join(seen[:3])}: {known}{found}")


def _json_layout(file: BinaryIO, suffix: str, options: ReadOptions) -> str:
    """The layout of a file of items; RequestError for one not read, or without its images."""
    items = _first_items(file, suffix, _PROBE)
    if len(items) == _PROBE and not options.layout and not _fitting(items):
        items = _first_items(file, suffix, ROWS)
    if items and not any(items) and suffix == ".json":
        raise RequestError("layout not recognised: neither a list of objects nor an object a line")
    if not any(items):  # no rows, or none that can be read: the run says so
        return options.layout or ("captions" if suffix in csv_items.CSV else "instructions")
    layout = options.layout or _recognised(items, suffix, options)
    if problem := _wrong_kind(layout, options):
        raise RequestError(problem)
    _item_reader(layout).parser(options)  # raises where it can't do without images
    _check_images(layout, items, options)
    return layout


def _item_reader(layout: str) -> ItemReader:
    items = LAYOUTS[layout].items
    assert items is not None  # a layout that was asked for has been checked against the suffix
    return items


def _raw_items(
    file: BinaryIO, suffix: str, begin: int = 0, end: int | None = None
) -> Iterator[bytes]:
    """The items of a file between two bytes, as they stand there; of CSV as JSON."""
    if suffix in csv_items.CSV:
        return csv_items.row_items(file, suffix, begin, end)
    if json_items.is_list(file, suffix):
        is_last = end is None or end >= file.seek(0, 2)  # in it the list must end
        return json_items.list_items(file, begin, None if is_last else end)
    return json_items.line_items(file, begin, end)


def _first_items(file: BinaryIO, suffix: str, count: int) -> list[dict[str, Any]]:
    """The first items that can be read; where a file breaks off is said when its rows are read."""
    found: list[dict[str, Any]] = []
    with suppress(ShardError):
        for data in islice(_raw_items(file, suffix), count):
            found.append({})
            with suppress(SampleError):
                found[-1] = json_items.parse_object(data)
    return found


def _fitting(items: list[dict[str, Any]]) -> list[str]:
    return [name for name, one in LAYOUTS.items() if one.items and one.is_of(items)]


def _recognised(items: list[dict[str, Any]], suffix: str, options: ReadOptions) -> str:
    """The layout that items look like; RequestError, with the fields seen, for none."""
    found = [name for name in _fitting(items) if suffix in LAYOUTS[name].suffixes]
    if options.text_column and not _wrong_kind("captions", options):
        return "captions"
    if found:
        return _suited(found, options)
    seen = next(filter(None, items))
    raise RequestError(f"layout not recognised: its items have {_names(seen)}; {_nearest(seen)}")


def _names(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{name:.40}" for name in list(fields)[:12])


def _nearest(fields: Mapping[str, Any]) -> str:
    """What the layout that fields come nearest to would have."""
    has_image = any(name in fields for name in captions.IMAGE_NAMES)
    has_text = any(name in fields for name in captions.TEXT_NAMES)
    addresses = [name for name in fields if name.lower() in captions.ADDRESSES]
    if addresses and not has_image:
        return f"{addresses[0]} has addresses: {captions.DOWNLOAD}"
    if has_image or has_text:
        lacks = "--text-column the text" if has_image else "--image-column the image"
        return f"nearest are captions, an image and a text: name with {lacks}"
    turns = " or ".join(conversations.form_names(conversations.TURNS))
    nearest = f"captions have an image and a text, instructions {turns}, documents texts and images"
    return f"{nearest} (`mmsieve layouts` lists all); say --layout NAME if others are of one"


def _check_images(layout: str, items: Iterable[Mapping[str, Any]], options: ReadOptions) -> None:
    """Raise RequestError where the images of items are nowhere that is known."""
    values = [v for item in items for v in LAYOUTS[layout].images(item, options) if v is not None]
    if values and all(map(is_address, values)):
        raise RequestError(f"its images are addresses ({values[0]:.60}): {captions.DOWNLOAD}")
    if options.images is None and any(image_path(value) is not None for value in values):
        raise RequestError("its items name image files: say where they are with --images DIR")


def _suited(layouts: list[str], options: ReadOptions) -> str:
    """The first layout whose samples the caller can do with, else the first."""
    return next((name for name in layouts if not _wrong_kind(name, options)), layouts[0])


def _row_parser(schema: pa.Schema, options: ReadOptions) -> tuple[str, RowParser]:
    """The layout of a file of columns, and what parses its rows; raises RequestError."""
    types = dict(zip(schema.names, schema.types, strict=True))
    fitting = [n for n, one in LAYOUTS.items() if one.rows and one.looks_right(types)]
    usual = "image-parquet"
    if fitting and not options.text_column:
        usual = _suited(fitting, options)
    layout = options.layout or usual
    if problem := _wrong_kind(layout, options):
        raise RequestError(problem)
    make = LAYOUTS[layout].rows
    assert make is not None  # as for JSON
    parser = make(types, options)
    if options.key_column is not None:
        key = parse_column(options.key_column, "key-column")
        parquet.pick(types, key.name, (), "key", parquet.is_key if not key.field else bool)
    return layout, parser


def _with_images(file: Shard, options: ReadOptions) -> ReadOptions:
    """The options for a file: beside `metadata.csv`, `.jsonl` or `.parquet` lie its images."""
    if options.images is not None or file.stem != "metadata" or "://" in file.url:
        return options
    return replace(options, images=Path(file.url).parent)


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
    if file.suffix in (*TAR, FOLDER, *_TABLES):
        return file
    chosen = _with_images(file, options)
    layout = _look_into(file, lambda handle: _json_layout(handle, file.suffix, chosen))
    return replace(file, layout=layout)


def _split(file: Shard, options: ReadOptions) -> Iterator[Shard]:
    """The ranges of a file; of one that can't be read one that fails and is named in the run."""
    if file.suffix in TAR:
        yield file
        return
    if file.suffix == FOLDER:
        ranges = list(_even_ranges(file, len(files.list_pairs(file.url))))
    else:
        found = (
            _look_into(file, lambda rows: list(_row_ranges(file, rows, options)), _open_rows)
            if file.suffix in _TABLES
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
        with fsspec.open(file.url, "rb") as handle:
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
    options = _with_images(file, options)
    layout, parser = _row_parser(rows.schema, options)  # raises where a column is missing
    paths = [n for n in parser.columns if not parquet.holds_bytes(rows.schema.field(n).type)]
    with suppress(ShardError, OSError, pa.ArrowException):  # a broken page: the run names it
        _check_images(layout, rows.rows(0, min(_PROBE, sum(rows.groups)), paths), options)
    start = stop = 0
    for group in rows.groups:
        stop += group
        while stop - start >= ROWS:
            end = stop if stop - start < 2 * ROWS else start + ROWS
            yield replace(file, start=start, stop=end)
            start = end
    if stop > start or stop == 0:  # a file without rows is a shard without rows
        yield replace(file, start=start, stop=stop)


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
        also = captions.members_asked(options)
        layout = _tar_layout(_probe(file, index, also), options)
        if problem := _wrong_kind(layout, options):
            raise LayoutError(problem)
        parse = LAYOUTS[layout].tar
        assert parse is not None
        records = tar.read_records(file, index, also)
        yield ShardReader(len(index.groups), records, parse(options))


def _probe(file: BinaryIO, index: tar.TarIndex, also: frozenset[str]) -> Iterator[Record]:
    """The first records of an archive, then some from all over it."""
    rest = index.groups[_PROBE:]
    chosen = (*index.groups[:_PROBE], *rest[:: max(1, len(rest) // _PROBE)])
    return tar.read_records(file, replace(index, groups=chosen), also)


@contextmanager
def _open_folder(shard: Shard, options: ReadOptions) -> Iterator[ShardReader]:
    if problem := _wrong_kind("captions", options):
        raise LayoutError(problem)
    stop = shard.start if shard.stop is None else shard.stop
    records = files.read_files(shard.url, shard.start, stop)
    yield ShardReader(stop - shard.start, records, captions.MemberParser(options))


@contextmanager
def _open_table(shard: Shard, options: ReadOptions) -> Iterator[ShardReader]:
    with _open_rows(shard) as rows:
        stop = sum(rows.groups) if shard.stop is None else shard.stop
        layout, parser = _row_parser(rows.schema, _with_images(shard, options))
        key_of = partial(parser.key, shard.stem)
        records = parquet.read_records(rows, shard.start, stop, parser.columns, key_of)
        yield ShardReader(stop - shard.start, _with_keys(records, shard, layout, options), parser)


@contextmanager
def _open_items(shard: Shard, options: ReadOptions) -> Iterator[ShardReader]:
    with _open_file(shard) as file:
        if shard.span is None or shard.stop is None:
            raise ShardError("its items could not be counted when the run was planned")
        layout = shard.layout or "instructions"
        reader = _item_reader(layout)
        items = _raw_items(file, shard.suffix, *shard.span)
        records = reader.records(items, shard.start, shard.stop, shard.stem)
        records = _with_keys(records, shard, layout, options)
        parser = reader.parser(_with_images(shard, options))
        yield ShardReader(shard.stop - shard.start, records, parser)


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
    **dict.fromkeys(_TABLES, _open_table),
    **dict.fromkeys((*_JSON, *csv_items.CSV), _open_items),
}
