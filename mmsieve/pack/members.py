"""Samples -> tar members, for sources that aren't tars: images as their files' bytes.

A caption becomes KEY.<image> KEY.txt KEY.json, a document KEY.json and KEY.<n>.<image>, the layouts
that `mmsieve.read` reads. Members never get a name that leaves a folder or splits at the wrong dot.
"""

import base64
import json
import math
import tarfile
from collections.abc import Iterator
from typing import Any

from mmsieve.errors import SampleError, Status
from mmsieve.read.records import IMAGE_EXTENSIONS
from mmsieve.sample import Image, Sample, Text

_MAGIC = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tif"),
    (b"MM\0*", "tif"),
)


def sample_members(sample: Sample) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each member of a sample, in order."""
    key = safe_key(sample.key)
    pack = _caption if sample.kind == "caption" else _document
    for extension, data in pack(sample, key):
        yield f"{key}.{extension}", data


def member_bytes(name: str, data: bytes) -> bytes:
    """A member as it stands in a tar: header, bytes, padding; the same wherever it is made."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    return header + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def safe_key(key: str) -> str:
    """The key with %XX for what a tar reader would take for something else; reversible."""
    if not key:
        return "%"
    parts = ["".join(map(_escaped, part)) for part in key.split("/")]
    return "/".join(parts) if all(parts) else "%2F".join(parts)


def _escaped(letter: str) -> str:
    if letter in "%.\\" or not letter.isprintable():
        return "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogatepass"))
    return letter


def _caption(sample: Sample, key: str) -> Iterator[tuple[str, bytes]]:
    for part in sample.parts:
        if isinstance(part, Image):
            yield image_extension(part.data), part.data
        else:
            yield "txt", part.text.encode()
    yield "json", _json(sample.metadata)


def _document(sample: Sample, key: str) -> Iterator[tuple[str, bytes]]:
    """Slots in order: a text, or the name of an image; one that can't be had stays a name."""
    images: list[str | None] = []
    texts: list[str | None] = []
    members: list[tuple[str, bytes]] = []
    for slot, part in enumerate(sample.parts):
        texts.append(part.text if isinstance(part, Text) else None)
        if isinstance(part, Text):
            images.append(None)
        elif part.data:
            extension = f"{slot}.{image_extension(part.data)}"
            images.append(f"{key}.{extension}")
            members.append((extension, part.data))
        else:
            images.append(f"{key}.{slot}.missing")
    yield "json", _json(sample.metadata | {"texts": texts, "images": images})
    yield from members


def image_extension(data: bytes) -> str:
    """The extension that an image's first bytes ask for; raises SampleError for an unknown kind."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    for magic, extension in _MAGIC:
        if data.startswith(magic):
            return extension
    kinds = ", ".join(sorted(IMAGE_EXTENSIONS))
    raise SampleError(Status.IMAGE_UNDECODABLE, f"the image is none of {kinds}")


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(_plain(value), allow_nan=False).encode()


def _plain(value: Any) -> Any:
    """JSON's own types: bytes as base64, a number that isn't one as null, the rest as text."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
