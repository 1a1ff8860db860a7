"""Layouts: the list of those that are read, and which one a file is in.

A layout's knowledge stands in one module of this package and in one row of the list.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, BinaryIO, TypeAlias

import pyarrow as pa

from mmsieve.errors import RequestError, SampleError, ShardError
from mmsieve.manifests import FieldNames
from mmsieve.read import (
    Parse,
    ReadOptions,
    Record,
    captions,
    conversations,
    csv_items,
    documents,
    instructions,
    json_items,
    parquet,
)
from mmsieve.read.columns import parse_column
from mmsieve.read.image_values import image_path, is_address
from mmsieve.sample import Kind
from mmsieve.sources import FOLDER, TAR

_LOOKED_AT = 4096
"""Items that are looked at where the first ones don't tell."""
PROBE = 64
"""Records that are looked at to recognise a layout, and as many again where those don't tell."""
JSON = (".jsonl", ".json")
TABLES = (".parquet", ".arrow")


@dataclass(frozen=True)
class ItemReader:
    """How the items of a layout's JSON files are read."""

    records: Callable[[Iterable[bytes], int, int, str], Iterator[Record]]
    """Of raw items, the number of the first and one past the last, and the file's stem."""
    parser: Callable[[ReadOptions], Parse]
    """Raises RequestError where it can't do without what isn't there, as a folder of images."""
    suffixes: tuple[str, ...] = JSON


RowParser: TypeAlias = (
    captions.ImageTextParser | documents.DocumentRowParser | instructions.InstructionRowParser
)
RowFile: TypeAlias = parquet.ParquetRows | parquet.ArrowRows


@dataclass(frozen=True)
class LayoutForm:
    """A form in which a layout is met, for people to recognise theirs by."""

    source: str
    """A file's name, as it would be given."""
    example: str
    """A sample in it."""
    flags: str = ""
    """What the command needs beside the source."""
    of: str = ""
    """Who writes it so."""


@dataclass(frozen=True)
class LayoutReader:
    """What samples a layout holds, and how it is recognised and read in each kind of file."""

    about: str
    """What it is, in a line."""
    forms: tuple[LayoutForm, ...]
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

    @property
    def verb(self) -> str:
        """The verb that its samples are for."""
        return "rate" if self.kinds == ("instruction",) else "score"

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
            (self.rows, TABLES),
        )
        return tuple(suffix for way, suffixes in known if way for suffix in suffixes)


def _objects(key_of: Callable[[Mapping[str, Any], str, int], str], parser: Any) -> ItemReader:
    return ItemReader(partial(json_items.read_objects, key_of=key_of), parser)


_CAPTION_ITEMS = replace(
    _objects(captions.item_key, captions.CaptionItemParser), suffixes=(*JSON, *csv_items.CSV)
)

LAYOUTS: dict[str, LayoutReader] = {
    "documents": LayoutReader(
        "Texts with images between them, in two parallel lists; also as Data-Juicer marks them.",
        (
            LayoutForm(
                "docs/{000..099}.tar",
                'page.json: {"texts": [null, "A kiln."], "image_info": '
                '[{"image_base64": ...}, null]}',
                of="OBELICS",
            ),
            LayoutForm(
                "docs/{000..099}.tar",
                'doc.json: {"texts": ["A kiln.", null], "images": [null, "doc_0.png"]}, doc.tiff',
                of="MINT-1T; images may be members, too",
            ),
            LayoutForm(
                "docs/{000..099}.tar",
                'page.json: {"text_list": ["A kiln."], "image_info": [{"image_base64": ..., '
                '"matched_text_index": 0}]}',
                of="MMC4 as OpenFlamingo packs it",
            ),
            LayoutForm(
                "docs.jsonl",
                '{"images": ["a.jpg", null], "texts": [null, "A kiln."]}',
                "--images pictures",
                "Multimodal Textbook, OBELICS and OmniCorpus with files; also JSON lists, Parquet",
            ),
            LayoutForm(
                "docs.parquet",
                "images: list<{bytes, path}>, texts: list<string>",
                of="OBELICS with images inside",
            ),
            LayoutForm(
                "docs.jsonl",
                '{"image_list": [null, "a.jpg"], "text_list": ["A kiln.", null]}',
                "--images pictures",
                "InfiMM",
            ),
            LayoutForm(
                "docs.jsonl",
                '{"text": "<__dj__image> A kiln. <|__dj__eoc|>", "images": ["a.jpg"]}',
                "--images pictures",
                "Data-Juicer",
            ),
        ),
        ("document",),
        documents.looks_right,
        tar=lambda _: documents.parse,
        items=_objects(documents.item_key, documents.DocumentItemParser),
        rows=documents.DocumentRowParser,
        images=documents.image_slots,
    ),
    "instructions": LayoutReader(
        "A conversation about images, as a list of turns.",
        (
            LayoutForm(
                "mix.json",
                '{"id": "1", "image": "a.jpg", "conversations": [{"from": "human", "value": '
                '"<image>What is it?"}, {"from": "gpt", "value": "A kiln."}]}',
                "--images pictures",
                "LLaVA, ShareGPT4V, InternVL; JSON lists, JSONL, Parquet",
            ),
            LayoutForm(
                "mix.jsonl",
                '{"messages": [{"role": "user", "content": "<image>What is it?"}, {"role": '
                '"assistant", "content": "A kiln."}], "images": ["a.jpg"]}',
                "--images pictures",
                "OpenAI, TRL, LLaMA-Factory, ms-swift; contents may be lists of parts",
            ),
            LayoutForm(
                "mix.parquet",
                "images: list<{bytes, path}>, texts: list<{user, assistant}>",
                of="FineVision, The Cauldron",
            ),
            LayoutForm(
                "mix.jsonl",
                '{"prompt": "What is it?", "completion": "A kiln.", "images": ["a.jpg"]}',
                "--images pictures",
                "TRL",
            ),
            LayoutForm(
                "data/dataset_info.json",
                'mix: {"file_name": "mix.json", "formatting": "sharegpt", "columns": '
                '{"messages": "talk", "images": "pics"}, "tags": {"role_tag": "who", ...}}',
                of="LLaMA-Factory's list of files, with what their fields are called",
            ),
        ),
        ("instruction",),
        instructions.looks_right,
        items=_objects(instructions.item_key, instructions.InstructionParser),
        rows=instructions.InstructionRowParser,
        images=instructions.image_slots,
        repeats_keys=True,
    ),
    "mmc4": LayoutReader(
        "Documents whose images say which text they belong to.",
        (
            LayoutForm(
                "docs.jsonl",
                '{"text_list": ["A kiln."], "image_info": [{"image_name": "a.jpg", '
                '"matched_text_index": 0}]}',
                "--images pictures",
                "MMC4",
            ),
        ),
        ("document",),
        documents.is_mmc4,
        items=ItemReader(
            documents.read_lines, lambda options: documents.Mmc4Parser(options.images)
        ),
        images=documents.image_slots,
    ),
    "question-answer": LayoutReader(
        "A question and an answer about images, a field each.",
        (
            LayoutForm(
                "vqa.jsonl",
                '{"question": "What is it?", "answer": "A kiln.", "image": "a.jpg"}',
                "--images pictures",
                "VQA sets; JSON lists, JSONL, Parquet",
            ),
            LayoutForm(
                "vqa.json",
                '{"instruction": "What is it?", "output": "A kiln.", "images": ["a.jpg"]}',
                "--images pictures",
                "Alpaca; M3IT (`inputs`, `outputs`); ms-swift (`query`, `response`)",
            ),
        ),
        ("instruction",),
        instructions.looks_like_pairs,
        items=_objects(instructions.item_key, instructions.InstructionParser),
        rows=instructions.InstructionRowParser,
        images=instructions.image_slots,
        repeats_keys=True,
    ),
    "captions": LayoutReader(
        "An image and its caption.",
        (
            LayoutForm(
                "cc3m/{00000..00331}.tar",
                "000.jpg, 000.txt, 000.json (metadata, optional)",
                of="webdataset, img2dataset, DataComp",
            ),
            LayoutForm(
                "cc3m/{00000..00331}.tar",
                '000.jpg, 000.json: {"caption": "A kiln."}',
                of="without txt the json's caption is read",
            ),
            LayoutForm(
                "dr/{0000..1023}.tar",
                '000.jpg, 000.syn.json: {"syn_text": ["A kiln.", "An oven."]}',
                "--text-column 'syn.json:syn_text[1]'",
                "any other member, a field inside it, the second of several",
            ),
            LayoutForm(
                "pictures/",
                "00000/000.jpg, 00000/000.txt, 00000/000.json",
                of="img2dataset's files",
            ),
            LayoutForm(
                "pictures/",
                'a.jpg, metadata.jsonl: {"file_name": "a.jpg", "text": "A kiln."}',
                of="Hugging Face's imagefolder; metadata.csv, metadata.parquet too",
            ),
            LayoutForm(
                "pairs.jsonl",
                '{"image": "a.jpg", "caption": "A kiln."}',
                "--images pictures",
                "JSON lists, JSONL; images may be in base64, captions a list",
            ),
            LayoutForm(
                "pairs.csv",
                "filepath,title / a.jpg,A kiln.",
                "--images pictures",
                "open_clip; CSV and TSV with a line of names",
            ),
        ),
        ("caption", "document"),
        captions.looks_right,
        tar=captions.MemberParser,
        in_folders=True,
        items=_CAPTION_ITEMS,
        images=captions.image_slots,
    ),
    "image-parquet": LayoutReader(
        "A column of images and one of captions.",
        (
            LayoutForm(
                "data/*.parquet",
                "image: {bytes, path}, caption: string",
                of="the Hugging Face hub; also bytes, paths, lists of captions",
            ),
            LayoutForm(
                "saved/",
                "data-00000-of-00001.arrow: image: {bytes, path}, text: string",
                of="`save_to_disk` of datasets",
            ),
        ),
        ("caption", "document"),
        captions.has_columns,
        rows=captions.ImageTextParser,
        images=captions.image_slots,
    ),
    "instruction-tar": LayoutReader(
        "A conversation as json beside its images.",
        (
            LayoutForm(
                "mix/{000..099}.tar",
                '000.jpg, 000.json: {"conversations": [...]}',
                of="Infinity-MM, LLaVA-OneVision-1.5",
            ),
        ),
        ("instruction",),
        instructions.tar_looks_right,
        tar=instructions.InstructionTarParser,
    ),
    "turn-captions": LayoutReader(
        "An image that one answer describes, as instruction data.",
        (
            LayoutForm(
                "blip_558k.json",
                '{"id": "1", "image": "a.jpg", "conversations": [{"from": "human", "value": '
                '"Describe it.\\n<image>"}, {"from": "gpt", "value": "A kiln."}]}',
                "--images pictures",
                "LLaVA-Pretrain, ShareGPT4V; for `score` and `enhance`",
            ),
        ),
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


def wrong_kind(layout: str, options: ReadOptions) -> str | None:
    """Why the caller can't do with samples of a layout, if that is so."""
    kinds = LAYOUTS[layout].kinds
    if options.kinds is None or set(kinds) & set(options.kinds):
        return None
    verbs = "rate and select are" if kinds[0] == "instruction" else "score is"
    wanted = " and ".join(options.kinds)
    return f"holds {kinds[0]} samples, where {wanted} samples are read; {verbs} for those"


def tar_layout(records: Iterator[Record], options: ReadOptions) -> str:
    """A tar's layout: what was asked for, unless its records show another, or what they show."""
    asked = options.layout
    if asked is None and options.text_column and not wrong_kind("captions", options):
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


def json_layout(
    file: BinaryIO, suffix: str, options: ReadOptions, names: FieldNames | None = None
) -> str:
    """The layout of a file of items; RequestError for one not read, or without its images."""
    items = _first_items(file, suffix, PROBE, names)
    if len(items) == PROBE and not options.layout and not _fitting(items):
        items = _first_items(file, suffix, _LOOKED_AT, names)
    if items and not any(items) and suffix == ".json":
        raise RequestError("layout not recognised: neither a list of objects nor an object a line")
    if not any(items):  # no rows, or none that can be read: the run says so
        return options.layout or ("captions" if suffix in csv_items.CSV else "instructions")
    layout = options.layout or _recognised(items, suffix, options)
    if problem := wrong_kind(layout, options):
        raise RequestError(problem)
    item_reader(layout).parser(options)  # raises where it can't do without images
    check_images(layout, items, options)
    return layout


def item_reader(layout: str) -> ItemReader:
    """How the items of a layout are read, which is one that has any."""
    items = LAYOUTS[layout].items
    assert items is not None  # a layout that was asked for has been checked against the suffix
    return items


def raw_items(
    file: BinaryIO, suffix: str, begin: int = 0, end: int | None = None
) -> Iterator[bytes]:
    """The items of a file between two bytes, as they stand there; of CSV as JSON."""
    if suffix in csv_items.CSV:
        return csv_items.row_items(file, suffix, begin, end)
    if json_items.is_list(file, suffix):
        is_last = end is None or end >= file.seek(0, 2)  # in it the list must end
        return json_items.list_items(file, begin, None if is_last else end)
    return json_items.line_items(file, begin, end)


def _first_items(
    file: BinaryIO, suffix: str, count: int, names: FieldNames | None
) -> list[dict[str, Any]]:
    """The first items that can be read; where a file breaks off is said when its rows are read."""
    found: list[dict[str, Any]] = []
    with suppress(ShardError):
        for data in islice(raw_items(file, suffix), count):
            found.append({})
            with suppress(SampleError):
                found[-1] = json_items.parse_object(data)
    return found if names is None else list(map(names.apply, found))


def _fitting(items: list[dict[str, Any]]) -> list[str]:
    return [name for name, one in LAYOUTS.items() if one.items and one.is_of(items)]


def _recognised(items: list[dict[str, Any]], suffix: str, options: ReadOptions) -> str:
    """The layout that items look like; RequestError, with the fields seen, for none."""
    found = [name for name in _fitting(items) if suffix in LAYOUTS[name].suffixes]
    if options.text_column and not wrong_kind("captions", options):
        return "captions"
    if found:
        return _suited(found, options)
    seen = next(filter(None, items))
    names = "; its first line is taken for names of columns" if suffix in csv_items.CSV else ""
    message = f"layout not recognised: its items have {_names(seen)}{names}; {_nearest(seen)}"
    raise RequestError(message)


def _names(fields: Mapping[str, Any]) -> str:
    return ", ".join(f"{name:.40}" for name in list(fields)[:12])


def _nearest(fields: Mapping[str, Any]) -> str:
    """What the layout that fields come nearest to would have."""
    if {"annotations", "images"} <= fields.keys():
        return "COCO's annotations: make an item of each image's path and its captions"
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


def check_images(layout: str, items: Iterable[Mapping[str, Any]], options: ReadOptions) -> None:
    """Raise RequestError where the images of items are nowhere that is known."""
    if options.places_only:
        return
    values = [v for item in items for v in LAYOUTS[layout].images(item, options) if v is not None]
    if values and all(map(is_address, values)):
        raise RequestError(f"its images are addresses ({values[0]:.60}): {captions.DOWNLOAD}")
    if options.images is None and any(image_path(value) is not None for value in values):
        raise RequestError("its items name image files: say where they are with --images DIR")


def _suited(layouts: list[str], options: ReadOptions) -> str:
    """The first layout whose samples the caller can do with, else the first."""
    return next((name for name in layouts if not wrong_kind(name, options)), layouts[0])


def row_parser(schema: pa.Schema, options: ReadOptions) -> tuple[str, RowParser]:
    """The layout of a file of columns, and what parses its rows; raises RequestError."""
    types = dict(zip(schema.names, schema.types, strict=True))
    fitting = [n for n, one in LAYOUTS.items() if one.rows and one.looks_right(types)]
    usual = "image-parquet"
    if fitting and not options.text_column:
        usual = _suited(fitting, options)
    layout = options.layout or usual
    if problem := wrong_kind(layout, options):
        raise RequestError(problem)
    make = LAYOUTS[layout].rows
    assert make is not None  # as for JSON
    parser = make(types, options)
    if options.key_column is not None:
        key = parse_column(options.key_column, "key-column")
        parquet.pick(types, key.name, (), "key", parquet.is_key if not key.field else bool)
    return layout, parser
