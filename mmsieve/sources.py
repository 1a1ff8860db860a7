"""SOURCE strings -> shards: paths, globs, brace patterns, folders and fsspec URLs."""

import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from pathlib import PurePosixPath
from tempfile import TemporaryDirectory

from braceexpand import braceexpand

from mmsieve.errors import RequestError, ShardError
from mmsieve.listing import Listing, is_local, list_files, one_line, open_filesystem, path_of
from mmsieve.listing import suffix_of as _suffix

TAR = (".tar",)
RANGED = (".parquet", ".jsonl")
LISTS = (".json",)
"""Beside tars, or files of RANGED, a JSON file is a sidecar: statistics, a hub's data card."""
_PACKED = (".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip")
_MOST_PATTERNS = 1_000_000


@dataclass(frozen=True, slots=True)
class Shard:
    """The unit of work, of resume and of failure: a tar, or a range of rows of a larger file.

    `name` is the path of its table, without suffix, below the folder of tables.
    """

    url: str
    name: str
    size: int
    """Bytes of the file."""
    start: int = 0
    """First row of the range."""
    stop: int | None = None
    """One past its last row; None for a whole tar."""
    span: tuple[int, int] | None = None
    """The range's bytes, where rows are lines or the items of a JSON list."""
    layout: str | None = None
    """The layout of a JSON or JSONL file, recognised when the run was planned."""
    limit: int | None = None
    """Read only so many samples: a trial run, never taken for the whole shard."""

    @property
    def suffix(self) -> str:
        """The file's suffix in lower case, with its dot."""
        return _suffix(self.url)

    @property
    def stem(self) -> str:
        """The file's name without its suffix."""
        return PurePosixPath(path_of(self.url)).stem


@dataclass(frozen=True)
class Sources:
    """The files that the SOURCE strings name, sorted by path, and what was left out."""

    files: tuple[Shard, ...]
    notes: tuple[str, ...]


def find_files(sources: Sequence[str]) -> Sources:
    """Expand SOURCE strings; raises RequestError where one names nothing or nothing readable."""
    urls: dict[str, int] = {}
    notes: list[str] = []
    for source in sources:
        urls.update(_expand(source, notes))
    if not urls:
        raise RequestError("no SOURCE given: name a tar, a folder, a glob or a brace pattern")
    return Sources(tuple(_named(urls)), tuple(dict.fromkeys(notes)))


def file_suffixes() -> str:
    """The suffixes that are read, for messages."""
    return ", ".join((*TAR, *RANGED, *LISTS))


@contextmanager
def local_path(shard: Shard) -> Iterator[str]:
    """A local path of the shard's file; a remote file is copied for as long as it is needed."""
    filesystem, path = open_filesystem(shard.url)
    if is_local(filesystem):
        yield path
        return
    with TemporaryDirectory(prefix="mmsieve-") as folder:
        copy = posixpath.join(folder, "shard" + shard.suffix)
        try:
            filesystem.get_file(path, copy)
        except Exception as error:  # every fsspec backend has errors of its own
            raise ShardError(f"can't be fetched: {one_line(error)}") from error
        yield copy


def _expand(source: str, notes: list[str]) -> dict[str, int]:
    """URL -> size in bytes for all files that one SOURCE names."""
    patterns = _patterns(source)
    found: dict[str, int] = {}
    missing = []
    for pattern in patterns:
        files = _choose(list_files(pattern), pattern, notes)
        missing += [] if files else [pattern]
        found.update(files)
    if missing and len(patterns) > 1:
        raise RequestError(
            f"{source}: {len(missing)} of {len(patterns)} files don't exist, the first is "
            f"{missing[0]}; use a glob to take only those that do"
        )
    if missing:
        raise RequestError(f"{source}: no such file or folder, and no glob that matches one")
    return found


def _patterns(source: str) -> list[str]:
    """The paths and globs that a SOURCE with braces stands for."""
    if not source.strip():
        raise RequestError("an empty SOURCE: name a tar, a folder, a glob or a brace pattern")
    if "{" not in source or os.path.exists(os.path.expanduser(source)):  # noqa: PTH110, PTH111
        return [source]
    ranges = re.findall(r"\{(\d+)\.\.(\d+)", source)  # braceexpand holds each one in memory
    too_many = any(abs(int(last) - int(first)) > _MOST_PATTERNS for first, last in ranges)
    try:
        patterns = (
            [] if too_many else list(islice(braceexpand(source, escape=False), _MOST_PATTERNS + 1))
        )
    except ValueError as error:
        raise RequestError(f"{source}: unbalanced braces; write {{00000..00127}}.tar") from error
    if too_many or len(patterns) > _MOST_PATTERNS:
        raise RequestError(f"{source}: more than {_MOST_PATTERNS} files; use a glob or a folder")
    return list(dict.fromkeys(patterns))


def _choose(listing: Listing, pattern: str, notes: list[str]) -> dict[str, int]:
    """Of a folder or glob: the tars if there are any, else Parquet and JSONL files, else JSON.

    What is left is noted.
    """
    files = listing.files
    if not listing.searched:
        for url in files:
            if _suffix(url) not in TAR + RANGED + LISTS:
                fix = "; unpack it first" if _suffix(url) in _PACKED else ""
                raise RequestError(f"{url}: not a file that is read ({file_suffixes()}){fix}")
        return files
    kept: dict[str, int] = {}
    for suffixes in (TAR, RANGED, LISTS):
        kept = kept or {url: size for url, size in files.items() if _suffix(url) in suffixes}
    if not kept:
        raise RequestError(f"{pattern}: nothing there that is read ({file_suffixes()})")
    left = Counter(_suffix(url) or "no suffix" for url in files if url not in kept)
    left.update({"links to folders": listing.linked_folders} if listing.linked_folders else {})
    if left:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(left.items()))
        notes.append(f"{pattern}: left alone beside the shards: {kinds}")
    return kept


def _named(urls: dict[str, int]) -> Iterator[Shard]:
    """Shards with names that mirror the files' paths below their common parent."""
    paths = {url: _parts(url) for url in sorted(urls)}
    folders = zip(*(parts[:-1] for parts in paths.values()), strict=False)
    base = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, folders))
    seen: dict[tuple[str, bool], str] = {}
    for url, parts in paths.items():
        relative = "/".join(parts[base:])
        name = relative[: -len(_suffix(url))]
        other = seen.setdefault((name, _suffix(url) in TAR), url)
        if other != url:
            raise RequestError(f"{other} and {url} would share a table: rename one")
        yield Shard(url, name, urls[url])


def _parts(url: str) -> list[str]:
    """The parts of a file's path, of which its table's path is made: so nothing odd in them."""
    parts = [part for part in path_of(url).split("/") if part not in ("", ".")]
    try:
        url.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"{url!a}: the name is not UTF-8: rename it") from error
    if ".." in parts or parts[-1].startswith(".") or not url.isprintable():
        raise RequestError(f"{url!a}: no table can mirror such a name: rename it")
    return parts


def check_names(shards: Iterable[Shard]) -> None:
    """Raise RequestError where two shards would share a table."""
    seen: dict[str, str] = {}
    for shard in shards:
        if seen.setdefault(shard.name, shard.url) != shard.url:
            raise RequestError(
                f"{seen[shard.name]} and {shard.url} would share a table: rename one"
            )


def take_part(shards: Sequence[Shard], part: str | None) -> list[Shard]:
    """Every N-th shard from the I-th for a `part` of "I/N"; all of them for None."""
    if part is None:
        return list(shards)
    index, _, count = part.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise RequestError(f"--part {part}: write I/N with I from 0 to N-1, for example 0/8")
    return list(shards)[int(index) :: int(count)]


def limited(shard: Shard, limit: int) -> Shard:
    """The shard, read only up to `limit` samples."""
    return replace(shard, limit=limit)
