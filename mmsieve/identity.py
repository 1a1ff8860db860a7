"""Which file a table was made from: told by what is in it, wherever it lies.

A file that was copied or moved is the same; one that was edited isn't, and no other file is because
it has its name. This is asked for wherever a table's rows go back to their samples.
"""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mmsieve.sources import (
    FOLDER,
    TAR,
    Shard,
    address_of,
    list_files,
    path_of,
    split_name,
    suffix_of,
)
from mmsieve.stores.asking import is_local, open_filesystem


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What tells a file from every other, and from itself once it has been changed."""

    address: str
    """Where it was found; for people."""
    size: int
    """In bytes."""
    stamp: str
    """A local file's time of change, or a store's tag of the content: unchanged, the same file."""
    digest: str = ""
    """Of a local file's bytes; of a large Parquet file's footer and some blocks."""

    def is_same(self, other: "FileIdentity") -> bool:
        """Whether both are the same bytes, as far as that is known."""
        if self.size != other.size:
            return False
        if self.digest and other.digest:
            return self.digest == other.digest
        return bool(self.stamp) and self.stamp == other.stamp


def read_stamp(url: str) -> tuple[int, str]:
    """Size and stamp of a file, or of all in a folder; raises what its filesystem raises."""
    if suffix_of(url) == FOLDER:
        stamps = {inside: read_stamp(inside) for inside in _files_in(url)}
        return sum(size for size, _ in stamps.values()), _hashed(sorted(stamps.items()))
    filesystem, path = open_filesystem(url)
    if is_local(filesystem):
        found = Path(path).stat()
        return found.st_size, str(found.st_mtime_ns)
    info = filesystem.info(path)
    tags = (
        "ETag",
        "etag",
        "md5Hash",
        "sha256",
        "LastModified",
        "last_modified",
        "mtime",
        "updated",
    )
    return int(info.get("size") or 0), str(next((info[tag] for tag in tags if info.get(tag)), ""))


def _files_in(folder: str) -> list[str]:
    """The files that lie in a folder itself, sorted."""
    return sorted(f for f in list_files(folder).files if f.rpartition("/")[0] + "/" == folder)


def _hashed(value: object) -> str:
    return hashlib.blake2b(repr(value).encode(), digest_size=16).hexdigest()


def identify(url: str) -> FileIdentity:
    """The identity of a file. A local one is read, or of Parquet above 64 MiB a part of it."""
    size, stamp = read_stamp(url)
    filesystem, path = open_filesystem(url)
    if suffix_of(url) == FOLDER:
        inside = [(split_name(file), identify(file).digest) for file in _files_in(url)]
        return FileIdentity(address_of(url), size, stamp, _hashed(inside))
    digest = _digest(path, size, stamp) if is_local(filesystem) else ""
    return FileIdentity(address_of(url), size, stamp, digest)


def is_same_file(url: str, size: int, recorded: FileIdentity) -> bool:
    """Whether a file of `size` bytes is the recorded one; it is read only where that may be."""
    is_there = recorded.address == address_of(url)
    if is_there and read_stamp(url) == (recorded.size, recorded.stamp):
        return True
    return size == recorded.size and identify(url).is_same(recorded)


_BLOCK = 1 << 16
_SAMPLED = 64


@lru_cache(maxsize=64)
def _digest(path: str, size: int, stamp: str) -> str:
    """Of a file as it is now: `size` and `stamp` are what the cache knows it by."""
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    with Path(path).open("rb") as file:
        if suffix_of(path) != ".parquet" or size <= _SAMPLED * _BLOCK * 16:
            while block := file.read(1 << 22):
                digest.update(block)
            return digest.hexdigest()
        # the footer has the places, sizes and ranges of all pages: no edit leaves it as it was
        file.seek(-8, os.SEEK_END)
        footer = min(int.from_bytes(file.read(4), "little") + 8, size)
        for start in (*range(0, size, size // _SAMPLED), size - footer):
            file.seek(start)
            digest.update(file.read(footer if start == size - footer else _BLOCK))
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class TableSource:
    """What a table's file says of the samples that its rows are about."""

    name: str
    """The shard's name."""
    start: int
    """Place of the first row in the source file."""
    size: int
    """Bytes of that file, 0 where that isn't known."""
    identity: FileIdentity | None
    """That file; None in a table of before, or of somebody else's."""


_RANGE = re.compile(r"-[0-9]{6}$")


class SourceFiles:
    """The files of a request, to be found as those that tables were made from."""

    def __init__(self, files: Iterable[tuple[str, int]]) -> None:
        """`files` are URLs with sizes."""
        self._by_address: dict[str, str] = {}
        self._by_size: dict[int, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        self._sizes = dict(files)
        for url, size in self._sizes.items():
            self._by_address[address_of(url)] = url
            self._by_size[size].append(url)
            self._by_stem[_path_stem(url).rpartition("/")[2]].append(url)

    def find(self, source: TableSource) -> tuple[str | None, str]:
        """The file, and what speaks against it: None where it isn't there, or it was changed."""
        if source.identity is None:
            return self._by_name(source)
        url = self._by_address.get(source.identity.address)
        if url is not None and self._is_same(url, source.identity):
            return url, ""
        alike = [other for other in self._by_size[source.identity.size] if other != url]
        found = [other for other in alike if self._is_same(other, source.identity)]
        if found:
            named = [other for other in found if _path_stem(other).endswith(f"/{source.name}")]
            return (named or found)[0], ""
        if url is not None:
            return url, _change(self._sizes[url], source.identity.size)
        where = source.identity.address
        return None, f"shard {source.name!r} of a table ({where}) is not among the SOURCEs"

    def _is_same(self, url: str, recorded: FileIdentity) -> bool:
        return is_same_file(url, self._sizes[url], recorded)

    def _by_name(self, source: TableSource) -> tuple[str | None, str]:
        """A table of before knows a name and a size: the file whose path ends in that name."""
        found = self._named(source.name, TAR) or self._named(_RANGE.sub("", source.name), ())
        alike = [url for url in found if source.size in (0, self._sizes[url])]
        if len(alike) > 1:
            one, other = map(address_of, alike[:2])
            return None, f"shard {source.name!r} of a table may be {one} or {other}"
        if not found:
            return None, f"shard {source.name!r} of a table is not among the SOURCEs"
        return (alike[0], "") if alike else (found[0], _change(self._sizes[found[0]], source.size))

    def _named(self, name: str, suffixes: tuple[str, ...]) -> list[str]:
        files = self._by_stem.get(name.rpartition("/")[2], [])
        files = [url for url in files if (suffix_of(url) in TAR) == bool(suffixes)]
        return [url for url in files if f"/{_path_stem(url)}".endswith(f"/{name}")]


class SourceShards:
    """The shards of a request, to be found as those that tables are about."""

    def __init__(self, shards: Iterable[Shard]) -> None:
        self._shards = list(shards)
        self._files = SourceFiles((shard.url, shard.size) for shard in self._shards)
        self._by_start = {(shard.url, shard.start): shard for shard in self._shards}
        self._by_number = {(shard.url, _number(shard.name)): shard for shard in self._shards}

    def find(self, source: TableSource) -> tuple[Shard | None, str]:
        """The shard, and what speaks against it, as of `SourceFiles`."""
        url, problem = self._files.find(source)
        if url is None:
            return None, problem
        if source.identity is None:  # a table of before doesn't say where its shard begins
            shard = self._by_number.get((url, _number(source.name)))
        else:
            shard = self._by_start.get((url, source.start))
        gone = f"{address_of(url)} has no shard {source.name!r} any more"
        return shard, problem or ("" if shard else gone)


def _number(name: str) -> str:
    """The number of a range of rows; nothing in the name of a tar."""
    found = _RANGE.search(name)
    return found[0] if found else ""


def _path_stem(url: str) -> str:
    return path_of(url)[: -len(suffix_of(url)) or None]


def _change(size: int, before: int) -> str:
    what = "is another one now than" if size == before else f"has {size:,} bytes and had {before:,}"
    return f"{what} when it was scored: score it again"
