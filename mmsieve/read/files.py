"""Folders of image files with a text, and optionally a json, of the same name beside each.

img2dataset writes such (`--output_format files`), and so do people. A file's suffix begins at its
last dot, so that a name may hold others; what becomes of it is as in a tar of captions.
"""

import posixpath
from collections.abc import Iterator
from typing import Any

import fsspec

from mmsieve.errors import SampleError, ShardError, Status
from mmsieve.images import IMAGE_EXTENSIONS
from mmsieve.read import MAX_BYTES, Record
from mmsieve.sources import TEXTS, list_files, split_name

_READ = (*IMAGE_EXTENSIONS, *(suffix[1:] for suffix in TEXTS), "json")


def list_pairs(folder: str) -> list[tuple[str, dict[str, str]]]:
    """Names, sorted, of what is in a folder itself, each with extension -> URL of its files.

    What has neither image nor text is none of a sample: statistics, a README.
    """
    found: dict[str, dict[str, str]] = {}
    for url in sorted(list_files(folder).files):
        if posixpath.dirname(url) + "/" != folder:
            continue
        stem, suffix = split_name(url)
        found.setdefault(stem, {})[suffix[1:].lower()] = url
    kept = {name: files for name, files in found.items() if not files.keys().isdisjoint(_READ[:-1])}
    return sorted(kept.items())


def read_files(folder: str, start: int, stop: int) -> Iterator[Record]:
    """The samples `start` to `stop` (one past it) of a folder; raises ShardError if it changed."""
    pairs = list_pairs(folder)[start:stop]
    for name, files in pairs:
        fields: dict[str, Any] = dict.fromkeys(files, b"")
        problem = None
        for extension, url in files.items():
            if extension not in _READ:
                continue
            with fsspec.open(url, "rb") as file:
                fields[extension] = file.read(MAX_BYTES + 1)
            if len(fields[extension]) > MAX_BYTES:
                message = f"{url} has more than {MAX_BYTES:,} bytes"
                problem = SampleError(Status.IMAGE_TOO_LARGE, message)
        yield Record(name, fields, problem)
    if len(pairs) != stop - start:
        raise ShardError(f"it has changed: {start + len(pairs):,} of {stop:,} samples are there")
