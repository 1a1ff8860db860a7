"""Samples as rows of a Parquet file: the form of img2dataset, and of `datasets`.

A caption pair is a row of `key`, `image` ({bytes, path}), `caption` and `json` (its metadata); a
document has lists, `images` and `texts`, in which one of the two is null wherever the other stands.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmsieve.errors import SampleError, Status
from mmsieve.exporting.rows import open_rows
from mmsieve.exporting.samples import ImageNames, plain_json, safe_key, usable_image
from mmsieve.sample import Image, Sample, Text

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_CAPTIONS = {"key": pa.string(), "image": _IMAGE, "caption": pa.string(), "json": pa.string()}
_DOCUMENTS = {
    "key": pa.string(),
    "images": pa.list_(_IMAGE),
    "texts": pa.list_(pa.string()),
    "json": pa.string(),
}
_FEATURE = {"_type": "Image"}
_AT_ONCE = 32


def write_samples(
    out: Path, samples: Iterable[Sample], names: ImageNames, problems: list[str]
) -> int:
    """Write samples, all captions or all documents; returns how many, and adds what is left out.

    The first says which: the other kind is left out.
    """
    found = iter(samples)
    first = list(islice(found, 1))
    is_caption = not first or first[0].kind == "caption"
    rows = _rows(chain(first, found), names, is_caption, problems)
    count = 0
    schema = _schema(_CAPTIONS if is_caption else _DOCUMENTS)
    with open_rows(out, schema, "snappy") as write:
        while some := list(islice(rows, _AT_ONCE)):
            write(pa.Table.from_pylist(some, schema))
            count += len(some)
    return count


def _schema(types: dict[str, pa.DataType]) -> pa.Schema:
    """Columns, and what tells `datasets` that some hold images."""
    features: dict[str, Any] = {
        name: _FEATURE if type_ == _IMAGE else [_FEATURE]  # as every release of it reads lists
        for name, type_ in types.items()
        if type_ in (_IMAGE, pa.list_(_IMAGE))
    }
    told = json.dumps({"info": {"features": features}})
    return pa.schema(list(types.items()), metadata={"huggingface": told})


def _rows(
    samples: Iterable[Sample], names: ImageNames, is_caption: bool, problems: list[str]
) -> Iterator[dict[str, Any]]:
    for sample in samples:
        try:
            yield _caption(sample, names) if is_caption else _document(sample, names)
        except SampleError as error:
            problems.append(f"{sample.key!r} left out: {error}")


def _caption(sample: Sample, names: ImageNames) -> dict[str, Any]:
    if sample.kind != "caption":
        count = len(sample.images)
        message = f"images: {count:,}, where a row of captions has one: --format tar"
        raise SampleError(Status.TOO_MANY_IMAGES, message)
    (image,) = sample.images
    extension, data = names.of(image.data)
    texts = [part.text for part in sample.parts if isinstance(part, Text)]
    return {
        "key": sample.key,
        "image": {"bytes": data, "path": f"{_stem(sample.key)}.{extension}"},
        "caption": "\n".join(texts),
        "json": plain_json(sample.metadata).decode(),
    }


def _document(sample: Sample, names: ImageNames) -> dict[str, Any]:
    images = [
        _slot(part, slot, sample.key, names) if isinstance(part, Image) else None
        for slot, part in enumerate(sample.parts)
    ]
    texts = [part.text if isinstance(part, Text) else None for part in sample.parts]
    metadata = plain_json(sample.metadata).decode()
    return {"key": sample.key, "images": images, "texts": texts, "json": metadata}


def _slot(image: Image, slot: int, key: str, names: ImageNames) -> dict[str, Any]:
    """An image of a document; of one that can't be had a name, so that it is still counted."""
    if image.frame:
        message = "a page of a file of several: --format tar keeps it"
        raise SampleError(Status.TOO_MANY_IMAGES, message)
    found = usable_image(image, names)
    extension, data = found or ("missing", None)
    return {"bytes": data, "path": f"{_stem(key)}.{slot}.{extension}"}


def _stem(key: str) -> str:
    return safe_key(key).rpartition("/")[2]
