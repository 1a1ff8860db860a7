"""SOURCE strings -> shards: paths, globs, brace patterns, folders and fsspec URLs."""

import posixpath
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from tempfile import TemporaryDirectory

import fsspec
from braceexpand import braceexpand
from fsspec.core import url_to_fs

from mmsieve.errors import RequestError, ShardError

TAR = (".tar",)
RANGED = (".parquet", ".jsonl")


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
    """The range's bytes, where rows are lines."""
    limit: int | None = None
    """Read only so many samples: a trial run, never taken for the whole shard."""

    @property
    def suffix(self) -> str:
        """The file's suffix in lower case, with its dot."""
        return PurePosixPath(self.url).suffix.lower()

    @property
    def stem(self) -> str:
        """The file's name without its suffix."""
        return PurePosixPath(self.url).stem


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
    return Sources(tuple(_named(urls)), tuple(notes))


def file_suffixes() -> str:
    """The suffixes that are read, for messages."""
    return ", ".join((*TAR, *RANGED))


@contextmanager
def local_path(shard: Shard) -> Iterator[str]:
    """A local path of the shard's file; a remote file is copied for as long as it is needed."""
    filesystem, path = url_to_fs(shard.url)
    if _is_local(filesystem):
        yield path
        return
    with TemporaryDirectory(prefix="mmsieve-") as folder:
        copy = posixpath.join(folder, posixpath.basename(path))
        try:
            filesystem.get_file(path, copy)
        except OSError as error:
            raise ShardError(f"can't be fetched: {error}") from error
        yield copy


def _expand(source: str, notes: list[str]) -> dict[str, int]:
    """URL -> size in bytes for all files that one SOURCE names."""
    try:
        patterns = list(braceexpand(source, escape=False)) if "{" in source else [source]
    except ValueError as error:
        raise RequestError(f"{source}: unbalanced braces; write {{00000..00127}}.tar") from error
    found: dict[str, int] = {}
    missing = []
    for pattern in patterns:
        files = _list(pattern, notes)
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


def _list(pattern: str, notes: list[str]) -> dict[str, int]:
    """URL -> size for one path, glob, folder or URL; empty where nothing is there."""
    try:
        filesystem, path = url_to_fs(pattern)
        if any(letter in path for letter in "*?["):
            infos = [i for i in filesystem.glob(path, detail=True).values() if i["type"] == "file"]
            infos = _readable(infos, pattern, notes)
        elif not filesystem.exists(path):
            return {}
        elif filesystem.isdir(path):
            infos = _readable(list(filesystem.find(path, detail=True).values()), pattern, notes)
        else:
            infos = [filesystem.info(path)]
    except (ImportError, ValueError) as error:
        raise RequestError(f"{pattern}: {error}") from error
    except (OSError, NotImplementedError) as error:
        raise RequestError(f"{pattern}: can't be listed: {error}") from error
    for info in infos:
        if _suffix(info["name"]) not in TAR + RANGED:
            raise RequestError(f"{info['name']}: not a layout that is read ({file_suffixes()})")
    local = _is_local(filesystem)
    return {
        info["name"] if local else filesystem.unstrip_protocol(info["name"]): info["size"]
        for info in infos
    }


def _readable(infos: list[dict], pattern: str, notes: list[str]) -> list[dict]:  # type: ignore[type-arg]
    """Of a folder or glob: the tars if there are any, else the row files; the rest is noted."""
    kept = [i for i in infos if _suffix(i["name"]) in TAR]
    kept = kept or [i for i in infos if _suffix(i["name"]) in RANGED]
    if infos and not kept:
        raise RequestError(f"{pattern}: holds no file that is read ({file_suffixes()})")
    names = {i["name"] for i in kept}
    left = Counter(_suffix(i["name"]) or "no suffix" for i in infos if i["name"] not in names)
    if left:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(left.items()))
        notes.append(f"{pattern}: left alone beside the shards: {kinds}")
    return kept


def _named(urls: dict[str, int]) -> Iterator[Shard]:
    """Shards with names that mirror the files' paths below their common parent."""
    paths = {url: url.partition("://")[2] or url for url in sorted(urls)}
    base = posixpath.commonpath([posixpath.dirname(path) for path in paths.values()])
    seen: dict[str, str] = {}
    for url, path in paths.items():
        relative = posixpath.relpath(path, base or ".")
        name = relative[: -len(_suffix(relative))]
        if name in seen and _suffix(url) == _suffix(seen[name]):
            raise RequestError(f"{seen[name]} and {url} would share a table: rename one")
        seen[name] = url
        yield Shard(url, name, urls[url])


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def _is_local(filesystem: fsspec.AbstractFileSystem) -> bool:
    protocol = filesystem.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)


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
