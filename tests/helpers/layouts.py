"""Drawn data in every form of every layout that is read, as its trainers and tools write it."""

import base64
import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mmsieve.read.layouts import LAYOUTS
from tests.helpers.shards import image, write_jsonl, write_parquet, write_tar

COUNT = 6
PICTURES = "pictures"
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass(frozen=True)
class DrawnLayout:
    """A source in a layout, and what has to be said to read it."""

    source: Path
    reads: dict[str, Any] = field(default_factory=dict)
    """Options of reading, but for the folder of images."""
    images: Path | None = None
    """That folder, where it has to be said."""


Builder = Callable[[Path], DrawnLayout]
BUILDERS: dict[tuple[str, str], Builder] = {}
"""Layout and the `of` of its form -> what writes it into a folder."""


def forms() -> list[tuple[str, str]]:
    """Every form of every layout that `mmsieve layouts` lists."""
    return [(name, form.of) for name, layout in LAYOUTS.items() for form in layout.forms]


def _of(layout: str, begin: str) -> Callable[[Builder], Builder]:
    """Register what writes the form whose `of` is this, or has it in it."""
    whose = [of for name, of in forms() if name == layout]
    found = layout, next(of for of in (*(w for w in whose if w == begin), *whose) if begin in of)

    def register(builder: Builder) -> Builder:
        BUILDERS[found] = builder
        return builder

    return register


def _pages(count: int) -> bytes:
    file = io.BytesIO()
    first, *rest = [Image.open(io.BytesIO(image(n, "PNG"))) for n in range(count)]
    first.save(file, "TIFF", save_all=True, append_images=rest)
    return file.getvalue()


def _text(number: int) -> str:
    return f"A red square, then {number} green circles."


def _pictures(folder: Path) -> Path:
    """Image files in two folders, and one that nothing names."""
    for number in range(COUNT):
        path = folder / PICTURES / _path(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(number, ("JPEG", "PNG")[number % 2]))
    (folder / PICTURES / "unused.jpg").write_bytes(image(99))
    return folder / PICTURES


def _path(number: int) -> str:
    return f"{('coco', 'gqa')[number % 2]}/{number}.{('jpg', 'png')[number % 2]}"


def _cell(number: int) -> dict[str, Any]:
    return {"bytes": image(number), "path": _path(number)}


def _said(number: int, question: str = "<image>\nWhat is it?") -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": _text(number)}]


def _roles(number: int, question: str = "<image>What is it?") -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": _text(number)}]


def _numbers() -> Iterator[int]:
    return iter(range(COUNT))


def _json(path: Path, items: list[Any]) -> Path:
    path.write_text(json.dumps(items, indent=1))
    return path


def _encoded(number: int) -> str:
    return base64.b64encode(image(number)).decode()


# Documents


@_of("documents", "OBELICS")
def _obelics(folder: Path) -> DrawnLayout:
    members = []
    for n in _numbers():
        told = {
            "texts": [None, _text(n)],
            "image_info": [{"image_base64": _encoded(n)}, None],
            "uid": f"{n:032x}",
        }
        members.append((f"page{n}.json", json.dumps(told).encode()))
    return DrawnLayout(write_tar(folder / "obelics.tar", members))


@_of("documents", "OBELICS with")
def _obelics_rows(folder: Path) -> DrawnLayout:
    rows = {
        "images": [[None, _cell(n)] for n in _numbers()],
        "texts": [[_text(n), None] for n in _numbers()],
        "general_metadata": [json.dumps({"url": n}) for n in _numbers()],
    }
    path = write_parquet(folder / "docs.parquet", rows, {"images": pa.list_(_IMAGE)})
    return DrawnLayout(path)


@_of("documents", "MINT-1T")
def _mint(folder: Path) -> DrawnLayout:
    members = []
    for n in _numbers():
        names = [None, f"doc{n}_0.png", f"doc{n}_1.png"]
        told = {"texts": [_text(n), None, None], "images": names}
        members += [(f"doc{n}.json", json.dumps(told).encode()), (f"doc{n}.tiff", _pages(2))]
    return DrawnLayout(write_tar(folder / "mint.tar", members))


@_of("documents", "MMC4 as")
def _mmc4_tar(folder: Path) -> DrawnLayout:
    members = []
    for n in _numbers():
        info = {"image_base64": _encoded(n), "matched_text_index": 0, "matched_sim": 0.3}
        told = {"text_list": [_text(n)], "image_info": [info], "url": "u"}
        members.append((f"page{n}.json", json.dumps(told).encode()))
    return DrawnLayout(write_tar(folder / "mmc4.tar", members))


@_of("documents", "Multimodal Textbook")
def _textbook(folder: Path) -> DrawnLayout:
    docs = [{"images": [_path(n), None], "texts": [None, _text(n)]} for n in _numbers()]
    return DrawnLayout(write_jsonl(folder / "docs.jsonl", docs), images=_pictures(folder))


@_of("documents", "InfiMM")
def _infimm(folder: Path) -> DrawnLayout:
    docs = [{"image_list": [None, _path(n)], "text_list": [_text(n), None]} for n in _numbers()]
    return DrawnLayout(write_jsonl(folder / "docs.jsonl", docs), images=_pictures(folder))


@_of("documents", "Data-Juicer")
def _data_juicer(folder: Path) -> DrawnLayout:
    docs = [
        {"text": f"<__dj__image> {_text(n)} <|__dj__eoc|>", "images": [_path(n)]}
        for n in _numbers()
    ]
    return DrawnLayout(write_jsonl(folder / "docs.jsonl", docs), images=_pictures(folder))


@_of("mmc4", "MMC4")
def _mmc4(folder: Path) -> DrawnLayout:
    docs = [
        {
            "text_list": [_text(n)],
            "image_info": [{"image_name": _path(n), "matched_text_index": 0, "raw_url": "u"}],
            "similarity_matrix": [[0.3]],
        }
        for n in _numbers()
    ]
    return DrawnLayout(write_jsonl(folder / "docs.jsonl", docs), images=_pictures(folder))


# Instructions


@_of("instructions", "LLaVA")
def _llava(folder: Path) -> DrawnLayout:
    items = [{"id": f"{n % 2}", "image": _path(n), "conversations": _said(n)} for n in _numbers()]
    return DrawnLayout(_json(folder / "mix.json", items), images=_pictures(folder))


@_of("instructions", "OpenAI")
def _messages(folder: Path) -> DrawnLayout:
    items = [{"messages": _roles(n), "images": [_path(n)]} for n in _numbers()]
    return DrawnLayout(write_jsonl(folder / "mix.jsonl", items), images=_pictures(folder))


@_of("instructions", "FineVision")
def _fine_vision(folder: Path) -> DrawnLayout:
    rows = {
        "images": [[_cell(n)] for n in _numbers()],
        "texts": [[{"user": "What is it?", "assistant": _text(n)}] for n in _numbers()],
        "source": ["drawn"] * COUNT,
        "relevance_ratings": [[n % 5] for n in _numbers()],
    }
    types = {"images": pa.list_(_IMAGE), "relevance_ratings": pa.list_(pa.int64())}
    return DrawnLayout(write_parquet(folder / "mix.parquet", rows, types))


@_of("instructions", "TRL")
def _prompts(folder: Path) -> DrawnLayout:
    items = [
        {"prompt": "What is it?", "completion": _text(n), "images": [_path(n)]} for n in _numbers()
    ]
    return DrawnLayout(write_jsonl(folder / "mix.jsonl", items), images=_pictures(folder))


@_of("instructions", "LLaMA-Factory's")
def _llama_factory(folder: Path) -> DrawnLayout:
    data = folder / "data"
    data.mkdir()
    turns = [
        [{"who": "person", "said": "<image>What is it?"}, {"who": "model", "said": _text(n)}]
        for n in _numbers()
    ]
    items = [{"talk": turns[n], "pics": [f"{PICTURES}/{_path(n)}"]} for n in _numbers()]
    _json(data / "drawn.json", items)
    tags = {"role_tag": "who", "content_tag": "said", "user_tag": "person"}
    info = {
        "file_name": "drawn.json",
        "formatting": "sharegpt",
        "columns": {"messages": "talk", "images": "pics"},
        "tags": tags | {"assistant_tag": "model"},
    }
    (data / "dataset_info.json").write_text(json.dumps({"drawn": info}))
    _pictures(data)
    return DrawnLayout(data / "dataset_info.json")


@_of("question-answer", "VQA")
def _vqa(folder: Path) -> DrawnLayout:
    items = [{"question": "What is it?", "answer": _text(n), "image": _path(n)} for n in _numbers()]
    return DrawnLayout(write_jsonl(folder / "vqa.jsonl", items), images=_pictures(folder))


@_of("question-answer", "Alpaca")
def _alpaca(folder: Path) -> DrawnLayout:
    items = [
        {"instruction": "What is it?", "output": _text(n), "images": [_path(n)]} for n in _numbers()
    ]
    return DrawnLayout(_json(folder / "vqa.json", items), images=_pictures(folder))


@_of("instruction-tar", "Infinity-MM")
def _instruction_tar(folder: Path) -> DrawnLayout:
    members = []
    for n in _numbers():
        told = json.dumps({"conversations": _said(n)}).encode()
        members += [(f"{n:03d}.jpg", image(n)), (f"{n:03d}.json", told)]
    return DrawnLayout(write_tar(folder / "mix.tar", members))


@_of("turn-captions", "LLaVA-Pretrain")
def _blip(folder: Path) -> DrawnLayout:
    items = [
        {"id": f"{n}", "image": _path(n), "conversations": _said(n, "Describe it.\n<image>")}
        for n in _numbers()
    ]
    return DrawnLayout(_json(folder / "blip.json", items), images=_pictures(folder))


# Captions


@_of("captions", "webdataset")
def _webdataset(folder: Path) -> DrawnLayout:
    members = []
    for n in _numbers():
        members += [
            (f"{n:03d}.jpg", image(n)),
            (f"{n:03d}.txt", _text(n).encode()),
            (f"{n:03d}.json", json.dumps({"uid": f"{n:032x}", "width": 8}).encode()),
        ]
    return DrawnLayout(write_tar(folder / "00000.tar", members))


@_of("captions", "without txt")
def _in_json(folder: Path) -> DrawnLayout:
    members = []
    for n in _numbers():
        told = json.dumps({"caption": _text(n)}).encode()
        members += [(f"{n:03d}.jpg", image(n)), (f"{n:03d}.json", told)]
    return DrawnLayout(write_tar(folder / "00000.tar", members))


@_of("captions", "any other member")
def _second_of_several(folder: Path) -> DrawnLayout:
    members = []
    for n in _numbers():
        told = json.dumps({"syn_text": ["no", _text(n)]}).encode()
        members += [(f"{n:03d}.jpg", image(n)), (f"{n:03d}.syn.json", told)]
    reads = {"text_column": "syn.json:syn_text[1]"}
    return DrawnLayout(write_tar(folder / "0000.tar", members), reads)


@_of("captions", "img2dataset's files")
def _files(folder: Path) -> DrawnLayout:
    place = folder / "files" / "00000"
    place.mkdir(parents=True)
    for n in _numbers():
        (place / f"{n:03d}.jpg").write_bytes(image(n))
        (place / f"{n:03d}.txt").write_text(_text(n))
        (place / f"{n:03d}.json").write_text(json.dumps({"uid": f"{n}"}))
    return DrawnLayout(folder / "files")


@_of("captions", "Hugging Face's imagefolder")
def _imagefolder(folder: Path) -> DrawnLayout:
    pictures = _pictures(folder)
    rows = [{"file_name": _path(n), "text": _text(n)} for n in _numbers()]
    write_jsonl(pictures / "metadata.jsonl", rows)
    return DrawnLayout(pictures)


@_of("captions", "JSON lists")
def _pairs(folder: Path) -> DrawnLayout:
    items = [{"image": _path(n), "caption": _text(n)} for n in _numbers()]
    return DrawnLayout(write_jsonl(folder / "pairs.jsonl", items), images=_pictures(folder))


@_of("captions", "open_clip")
def _csv(folder: Path) -> DrawnLayout:
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["filepath", "title"])
    rows.writerows([_path(n), f'{_text(n)} "A",\nB'] for n in _numbers())
    (folder / "pairs.csv").write_text(text.getvalue())
    return DrawnLayout(folder / "pairs.csv", images=_pictures(folder))


@_of("image-parquet", "the Hugging Face hub")
def _hub(folder: Path) -> DrawnLayout:
    rows = {
        "id": [f"k{n}" for n in _numbers()],
        "image": [_cell(n) for n in _numbers()],
        "caption": [_text(n) for n in _numbers()],
        "score": [n / 2 for n in _numbers()],
    }
    table = pa.table(
        {
            name: pa.array(values, _IMAGE if name == "image" else None)
            for name, values in rows.items()
        }
    )
    features = {"info": {"features": {"image": {"_type": "Image"}}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, folder / "data.parquet", row_group_size=4, compression="zstd")
    return DrawnLayout(folder / "data.parquet")


@_of("image-parquet", "`save_to_disk`")
def _saved(folder: Path) -> DrawnLayout:
    place = folder / "saved"
    place.mkdir()
    schema = pa.schema([("image", _IMAGE), ("text", pa.string())])
    names = [f"data-0000{number}-of-00002.arrow" for number in range(2)]
    half = COUNT // 2
    for number, name in enumerate(names):
        found = range(number * half, (number + 1) * half)
        rows = {"image": [_cell(n) for n in found], "text": [_text(n) for n in found]}
        with pa.ipc.new_stream(place / name, schema) as file:
            file.write_table(pa.table(rows, schema))
    state = dict.fromkeys(("_split", "_format_columns", "_format_type")) | {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": "0" * 16,
        "_format_kwargs": {},
        "_output_all_columns": False,
    }
    (place / "state.json").write_text(json.dumps(state))
    features = {"image": {"_type": "Image"}, "text": {"dtype": "string", "_type": "Value"}}
    (place / "dataset_info.json").write_text(json.dumps({"features": features}))
    return DrawnLayout(place)
