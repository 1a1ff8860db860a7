"""Caption tars (webdataset): an image, `txt` and optional `json` members of one key."""

import json
from typing import Any

from mmsieve.errors import SampleError, Status
from mmsieve.read.records import Record
from mmsieve.sample import Image, Sample, Text

IMAGE_EXTENSIONS = frozenset(["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"])


def parse(record: Record) -> Sample:
    """The caption pair of a record of image, `txt` and `json` members."""
    members = record.fields
    image = next((data for name, data in members.items() if name in IMAGE_EXTENSIONS), None)
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
    return "txt" in members or not IMAGE_EXTENSIONS.isdisjoint(members)


def decode_text(data: bytes) -> str:
    """UTF-8 text; raises SampleError where it isn't."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SampleError(Status.TEXT_UNDECODABLE, f"the text is not UTF-8: {error}") from error


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object; raises SampleError where it isn't one."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SampleError(Status.JSON_INVALID, f"invalid JSON: {error}") from error
    if not isinstance(value, dict):
        raise SampleError(Status.JSON_INVALID, f"JSON {type(value).__name__}, not an object")
    return value
