"""What people's files hold, by chance: pictures, captions, metadata and names of every odd kind."""

import base64
import io
import json
import tarfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from PIL import Image, features

# Pictures, each made once


def _picture(number: int, mode: str = "RGB") -> Image.Image:
    values = (np.indices((18, 23)).sum(0) * (number + 5) % 251).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray(values.astype(np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(values.astype(np.float32) / 255)
    return Image.fromarray(np.dstack([values, values[::-1], values.T[:1, :1] + values])).convert(
        mode
    )


def _saved(format: str, mode: str = "RGB", **options: Any) -> Callable[[], bytes]:
    def make() -> bytes:
        file = io.BytesIO()
        _picture(len(format), mode).save(file, format, **options)
        return file.getvalue()

    return make


def _long_text() -> bytes:
    data = _saved("PNG")()
    return data[:33] + b"\0\x1e\x84\x80tEXtkey\0" + b"x" * 1_999_996 + b"\0\0\0\0" + data[33:]


_PICTURES: dict[str, Callable[[], bytes]] = {
    "jpeg": _saved("JPEG"),
    "cmyk": _saved("JPEG", "CMYK"),
    "png": _saved("PNG"),
    "palette": _saved("PNG", "P"),
    "one bit": _saved("PNG", "1"),
    "transparent": _saved("PNG", "RGBA"),
    "16 bit": _saved("PNG", "I;16"),
    "float": _saved("TIFF", "F"),
    "webp": _saved("WEBP"),
    "gif": _saved("GIF"),
    "bmp": _saved("BMP"),
    "tiff": _saved("TIFF"),
    "bigtiff": _saved("TIFF", big_tiff=True),
    "ppm": _saved("PPM"),
    "ico": _saved("ICO", sizes=[(16, 16)]),
    "jp2": _saved("JPEG2000"),
    "long text": _long_text,
    "empty": lambda: b"",
    "page": lambda: b"<html>404</html>",
    "cut": lambda: _saved("PNG")()[:40],
    **({"avif": _saved("AVIF")} if features.check("avif") else {}),
}


@cache
def picture(name: str) -> bytes:
    """The bytes of one of the pictures, or of what stands in the place of one."""
    return _PICTURES[name]()


# What a sample may have

PICTURES = st.sampled_from(sorted(_PICTURES))
_WORDS = st.sampled_from(
    ["A kiln.", "Un caf\u00e9 noir \U0001f525", "a\r\nb", "nul\0nul", "\ufeffmarked", "many " * 9]
)
_EMPTY = st.sampled_from(["", " \n", "None", "nan", "\u200b"])
TEXTS = st.one_of(_WORDS, _WORDS, _WORDS, _EMPTY)
METADATA = st.sampled_from(
    [None, {"uid": "a", "n": 1.5}, {"caption": "Other."}, {"\u00e9": [None, {"a": "\U0001f525"}]}]
)
BROKEN = {
    "empty": b"",
    "list": b"[1]",
    "null": b"null",
    "cut": b'{"a":',
    "digits": b'{"n": %s}' % (b"9" * 5000),
}
"""What stands in the place of metadata, or of an item."""
_NAMES = st.sampled_from(
    [
        *("1", "2", "0001", "a b", "a%2Eb", "\u00fcn\u00ef", "n" * 120, "back\\slash", "%"),
        *("./dot/1", "sub.dir/1", "__MACOSX/1", "x/__MACOSX/1", "/abs/1", "../up/1", "a/../1"),
        *("v1.5", "._hidden", "\udce9t\udce9", "tab\tbed", "a'\"b", "CON", "-", " 1"),
    ]
)
_ENDINGS = st.sampled_from(["jpg", "JPG", "png", "tif", "avif", "jfif", "webp", "ppm", "jp2"])


@st.composite
def samples(draw: st.DrawFn) -> dict[str, Any]:
    """A sample: its name, picture, text, metadata."""
    return {
        "name": draw(_NAMES),
        "picture": draw(PICTURES),
        "text": draw(TEXTS),
        "json": draw(METADATA),
        "ending": draw(_ENDINGS),
        "broken": draw(st.sampled_from([*BROKEN, *[""] * 8])),
    }


Samples = st.lists(samples(), min_size=6, max_size=16)

# Sources of samples


def write_tar(path: Path, found: list[dict[str, Any]]) -> None:
    """A caption tar; names may repeat, leave the folder, or be no UTF-8."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as archive:
        for sample in found:
            members = [
                (sample["ending"], picture(sample["picture"])),
                ("txt", sample["text"].encode()),
            ]
            if sample["broken"]:
                members.append(("json", BROKEN[sample["broken"]]))
            elif sample["json"] is not None:
                members.append(("json", b"\xef\xbb\xbf" + json.dumps(sample["json"]).encode()))
            for ending, data in members:
                info = tarfile.TarInfo(f"{sample['name']}.{ending}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def _plain(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("latin-1")


def write_parquet(path: Path, found: list[dict[str, Any]]) -> None:
    """An image Parquet file; ids repeat, images are bytes with or without a name, or null."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {
        "id": pa.array([_plain(s["name"]) for s in found]),
        "image": pa.array([{"bytes": picture(s["picture"]), "path": None} for s in found], kind),
        "caption": pa.array([s["text"] for s in found], pa.string()),
        "blob": pa.array([b"\xff\0"] * len(found)),
        "meta": pa.array([json.dumps(s["json"]) for s in found]),
    }
    pq.write_table(pa.table(columns), path, row_group_size=3)


def write_lines(path: Path, found: list[dict[str, Any]]) -> None:
    """JSON lines with images in base64; a byte order mark, lines that are broken, empty or null."""
    lines = []
    for sample in found:
        if sample["broken"]:
            lines.append(BROKEN[sample["broken"]])
        image = base64.b64encode(picture(sample["picture"])).decode()
        item = {"id": _plain(sample["name"]), "image": image, "caption": sample["text"]}
        lines.append(json.dumps(item | (sample["json"] or {}) | item).encode())
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))


def write_list(path: Path, found: list[dict[str, Any]]) -> None:
    """A JSON list of items, some of them null, numbers or lists."""
    file = path.with_suffix(".jsonl")
    write_lines(file, [sample | {"broken": ""} for sample in found])
    items = file.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\r\n")
    odd = [json.dumps(s["json"]).encode() for s in found if s["broken"]]
    path.write_bytes(b"[" + b",\n".join([*items, *odd]) + b"]")
    file.unlink()


WRITERS: dict[str, Callable[[Path, list[dict[str, Any]]], None]] = {
    "tar": write_tar,
    "parquet": write_parquet,
    "jsonl": write_lines,
    "json": write_list,
}
"""Suffix -> what writes a source of that kind."""
