"""What stands for an image in an item or a row: bytes, a path, base64, an object, or a list."""

import base64
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from mmsieve.errors import SampleError, Status
from mmsieve.images import extension_of

_FILE = "file://"
_DATA = "data:"
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{20,}(={0,2})\s*")
_SHORTEST_IMAGE = 64


def image_values(item: Mapping[str, Any], names: tuple[str, ...]) -> list[Any]:
    """The values of the first field that holds any; none for null, empty paths, lists of them."""
    for name in names:
        value = item.get(name)
        values = value if isinstance(value, list) else [value]
        if not all(map(_is_nothing, values)):
            return values
    return []


def _is_nothing(value: Any) -> bool:
    if isinstance(value, Mapping):
        return value.keys() <= {"bytes", "path"} and not any(value.values())
    return value is None or value in ("", [])


def image_path(value: Any) -> str | None:
    """The path of an image that is a file elsewhere; None for one whose bytes are there."""
    if isinstance(value, Mapping):
        value = None if isinstance(value.get("bytes"), bytes) else value.get("path")
    if not isinstance(value, str) or not value or value.startswith(_DATA):
        return None
    path = value.removeprefix(_FILE)  # as qwen_vl_utils reads it: the rest, letter for letter
    return None if "://" in path or _is_base64(value) else path


def _is_base64(text: str) -> bool:
    """Whether a text is a file in base64: padded, or begun as images are."""
    match = _BASE64.fullmatch(text)
    if match is None:
        return False
    if match[1]:
        return True
    head = "".join(text[: 2 * _SHORTEST_IMAGE].split())[:_SHORTEST_IMAGE]
    with suppress(SampleError):
        return len(head) == _SHORTEST_IMAGE and bool(extension_of(base64.b64decode(head)))
    return False


def is_address(value: Any) -> bool:
    """Whether an image is somewhere on the web."""
    if isinstance(value, Mapping):
        value = None if isinstance(value.get("bytes"), bytes) else value.get("path")
    is_text = isinstance(value, str) and not value.startswith((_DATA, _FILE))
    return is_text and "://" in value


def image_bytes(value: Any, read: Callable[[str], bytes] | None) -> bytes:
    """The file of an image: given as it is, in base64, or as a path that `read` reads.

    Raises SampleError where there is none.
    """
    data = value.get("bytes") if isinstance(value, Mapping) else value
    if isinstance(data, bytes):
        return data
    text = value.get("path") if isinstance(value, Mapping) else value
    if not isinstance(text, str) or not text:
        raise SampleError(Status.JSON_INVALID, f"an image is {value!r:.60}, no path or bytes")
    if text.startswith(_DATA):
        return _decoded_address(text)
    path = image_path(value)
    if path is None and "://" in text:
        message = f"{text!r:.200} is an address, not a file: download it first (img2dataset)"
        raise SampleError(Status.IMAGE_MISSING, message)
    if path is None:
        return _decoded(text, "the base64 text")
    if read is None:
        message = f"only the path {path!r:.200} is there: say --images DIR"
        raise SampleError(Status.IMAGE_MISSING, message)
    return read(path)


def _decoded_address(address: str) -> bytes:
    head, _, data = address.partition(",")
    if not head.endswith(";base64"):
        message = f"{address[:40]!r} can't be decoded: not base64"
        raise SampleError(Status.IMAGE_UNDECODABLE, message)
    return _decoded(data, repr(address[:40]))


def _decoded(text: str, what: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        message = f"{what} can't be decoded: {error}"
        raise SampleError(Status.IMAGE_UNDECODABLE, message) from error
