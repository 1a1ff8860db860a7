"""Caption tars (webdataset): an image, `txt` and optional `json` members of one key."""

import json
import re
from typing import Any

from mmsieve.errors import SampleError, Status
from mmsieve.read.records import IMAGE_EXTENSIONS, Record
from mmsieve.sample import Image, Sample, Text
from mmsieve.sources import one_line

_SURROGATE = re.compile("[\ud800-\udfff]")
_MAYBE_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse(record: Record) -> Sample:
    """The caption pair of a record of image, `txt` and `json` members."""
    members = record.fields
    image = next((members[name] for name in IMAGE_EXTENSIONS if name in members), None)
    present = ", ".join(members) or "nothing"
    if image is None:
        raise SampleError(Status.IMAGE_MISSING, f"no image member; there is {present}")
    if "txt" not in members:
        raise SampleError(Status.TEXT_MISSING, f"no txt member; there is {present}")
    metadata = parse_object(members["json"]) if "json" in members else {}
    return Sample(
        record.key, (Image(image), Text(decode_text(members["txt"]))), "caption", metadata
    )


def looks_right(members: dict[str, bytes]) -> bool:
    """Whether a record's members are those of a caption pair."""
    return "txt" in members and not members.keys().isdisjoint(IMAGE_EXTENSIONS)


def looks_possible(members: dict[str, bytes]) -> bool:
    """Whether a record may be half of a caption pair."""
    return "txt" in members or not members.keys().isdisjoint(IMAGE_EXTENSIONS)


def decode_text(data: bytes) -> str:
    """UTF-8 text; raises SampleError where it isn't."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SampleError(Status.TEXT_UNDECODABLE, f"the text is not UTF-8: {error}") from error


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object; raises SampleError where it isn't one.

    Two things that common writers make and others choke on are mended: NaN and Infinity, which
    are not JSON, are read as null; half a surrogate pair (a cut emoji), which is no text and fits
    into no table, as U+FFFD.
    """
    if not data.strip():
        raise SampleError(Status.JSON_INVALID, "empty, not a JSON object")
    try:
        text = data.decode("utf-8-sig")
        value = json.loads(text, parse_constant=lambda name: None)
        if _MAYBE_SURROGATE.search(text):
            plain = json.dumps(value, ensure_ascii=False)
            if _SURROGATE.search(plain):
                value = json.loads(_SURROGATE.sub("\ufffd", plain))
    except (ValueError, RecursionError) as error:
        raise SampleError(Status.JSON_INVALID, f"invalid JSON: {one_line(error)}") from error
    if not isinstance(value, dict):
        raise SampleError(Status.JSON_INVALID, f"JSON {type(value).__name__}, not an object")
    return value
