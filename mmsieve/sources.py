"""SOURCE strings -> shards: paths, globs, brace patterns, folders and fsspec URLs."""

import bz2
import gzip
import lzma
import os
import posixpath
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, takewhile
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import fsspec
import pyarrow as pa
from braceexpand import braceexpand

from mmsieve import http
from mmsieve.errors import RequestError, ShardError
from mmsieve.images import IMAGE_EXTENSIONS
from mmsieve.leftovers import scratch_folder
from mmsieve.manifests import FieldNames, Listed, read_manifest
from mmsieve.sanitize import redact
from mmsieve.stores.asking import is_local, one_line, open_filesystem

# Finding files through fsspec, with errors that say the fix

_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Listing:
    """What one path, glob, folder or URL names."""

    files: dict[str, int]
    """URL -> size in bytes; a local file's URL is its absolute path."""
    searched: bool = False
    """A folder or glob: its files were found, not named one by one."""
    linked_folders: int = 0
    """Symbolic links to folders, which are not followed: they may lead in circles."""


def list_files(pattern: str) -> Listing:
    """The files at a path, glob, folder or URL, none if nothing is there; hidden ones left out."""
    filesystem, path = open_filesystem(pattern)
    try:
        infos, base = _find(filesystem, path)
    except Exception as error:  # every fsspec backend has errors of its own
        raise RequestError(f"{pattern}: can't be listed: {one_line(error)}") from error
    files: dict[str, int] = {}
    linked = 0
    for info in infos:
        below = "" if base is None else info["name"].removeprefix(base)
        if any(part.startswith(".") for part in below.split("/")):
            continue
        kind, size = _resolve(filesystem, info)
        linked += kind == "directory"
        if kind == "file":
            files[_url(filesystem, info["name"])] = size
        elif base is None:
            raise RequestError(f"{pattern}: not a regular file")
    return Listing(files, base is not None, linked)


def path_of(url: str) -> str:
    """The path in a URL, without protocol and without what a signed https address appends."""
    _, separator, rest = url.partition("://")
    if not separator:
        return url
    return re.split("[?#]", rest)[0] if http.is_address(url) else rest


def address_of(url: str) -> str:
    """Where a file is, without logins and without what a signed address appends."""
    protocol, separator, _ = url.partition("://")
    return f"{protocol}{separator}{path_of(redact(url))}" if separator else url


def split_name(url: str) -> tuple[str, str]:
    """The name of a file without its suffix, and the suffix as it stands there: `.tar.gz` too."""
    path = PurePosixPath(path_of(url))
    if url.endswith("/"):
        return path.name, ""
    inner = path.with_suffix("").suffix if path.suffix.lower() in _PACKINGS else ""
    stem = path.name[: len(path.name) - len(inner + path.suffix)]
    return stem, inner + path.suffix


def suffix_of(url: str) -> str:
    """The suffix of a file's name in lower case, with its dot: of what a compressed one holds."""
    if url.endswith("/"):
        return FOLDER
    suffix = split_name(url)[1].lower()
    first, dot, _ = suffix[1:].partition(".")
    return ".tar" if suffix in _TARBALLS else f".{first}" if dot else suffix


def _find(
    filesystem: fsspec.AbstractFileSystem, path: str
) -> tuple[Sequence[dict[str, Any]], str | None]:
    """What is at a path or glob, and the folder that was searched for it, if one was."""
    try:
        info = filesystem.info(path)  # first, as file names and https addresses may hold ? and [
    except (FileNotFoundError, NotADirectoryError) as error:
        if not http.is_missing(error):
            raise
        magic = _MAGIC.search(path)
        if magic is None:
            return [], None
        above = path[: magic.start()].rpartition("/")[0]
        infos = list(filesystem.glob(path, detail=True).values())
        folders = [info["name"] for info in infos if info["type"] == "directory"]
        if len(folders) == len(infos):  # a glob of folders names what is in them
            return [i for folder in folders for i in _search(filesystem, folder)], above
        return [info for info in infos if info["type"] != "directory"], above
    if info["type"] != "directory":
        return [info], None
    return _search(filesystem, path), path


def _search(filesystem: fsspec.AbstractFileSystem, folder: str) -> list[dict[str, Any]]:
    if not is_local(filesystem):
        return list(filesystem.find(folder, detail=True).values())
    files: list[dict[str, Any]] = []
    folders = [folder]  # `find` would pass over a local one that can't be listed: a gap in the data
    while folders:
        inside = filesystem.ls(folders.pop(), detail=True)
        shown = [info for info in inside if not info["name"].rpartition("/")[2].startswith(".")]
        folders += [info["name"] for info in shown if info["type"] == "directory"]
        files += [info for info in shown if info["type"] != "directory"]
    return files


def _resolve(filesystem: fsspec.AbstractFileSystem, info: dict[str, Any]) -> tuple[str, int]:
    """Kind and size of an entry; a link (the hub's cache is made of them) is what it leads to."""
    if info["type"] == "other" and info.get("islink"):
        try:
            info = filesystem.info(info["name"])
        except OSError:  # it leads nowhere, and the run names what is missing
            return "file", 0
    return info["type"], int(info.get("size") or 0)


def _url(filesystem: fsspec.AbstractFileSystem, name: str) -> str:
    if not is_local(filesystem):
        return str(filesystem.unstrip_protocol(name))
    if ".." in name.split("/"):  # a path has one spelling, or a file may be listed twice
        return str(Path(name).parent.resolve() / Path(name).name)
    return os.path.normpath(name)


# Shards

TAR = (".tar",)
RANGED = (".parquet", ".jsonl", ".arrow")
LISTS = (".json", ".csv", ".tsv")
"""Beside tars, or files of RANGED, these are sidecars: statistics, a hub's data card."""
FOLDER = "/"
"""In the place of a suffix: a folder of image files with texts of the same names beside them."""
TEXTS = (".txt", ".caption")
"""Suffixes of texts beside image files."""
READ = TAR + RANGED + LISTS
"""Suffixes of all files that are read."""
_PACKINGS = (".gz", ".zst", ".bz2", ".xz")
_TARBALLS = (".tgz", ".tbz2", ".txz", ".tzst")
MANIFEST, MANIFEST_BEGINS = "manifest.json", b'{\n "mmsieve":'
"""What `export` leaves beside the files that it writes, and how it begins."""
_CACHE = re.compile(r"cache-[^/]*\.arrow")
"""What `datasets` leaves beside the data of a folder that it saved."""
_SIDECARS = ("manifest.json", "dataset_info.json", "dataset_infos.json", "state.json")
"""What exports, LLaMA-Factory and `datasets` write beside the data of a folder."""
_MOST_PATTERNS = 1_000_000
_MOST_COPIED = 1 << 28
"""Bytes of a file that is copied for each of its ranges."""


@dataclass(frozen=True, slots=True)
class Shard:
    """The unit of work, of resume and of failure: a tar, or a range of rows of a larger file."""

    url: str
    name: str
    """The path of its table, without suffix, below the folder of tables."""
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
    images: Path | None = None
    """Folder that its image paths are relative to, where a manifest says it."""
    names: FieldNames | None = None
    """What the fields of its items are called, where a manifest says it."""
    limit: int | None = None
    """Read only so many samples: a trial run, never taken for the whole shard."""

    @property
    def address(self) -> str:
        """Where the file is, as its identity says it."""
        return address_of(self.url)

    @property
    def suffix(self) -> str:
        """The file's suffix in lower case, with its dot; of a compressed one that of its content,
        of a folder FOLDER."""
        return suffix_of(self.url)

    @property
    def stem(self) -> str:
        """The file's name without its suffix."""
        return split_name(self.url)[0]

    @property
    def is_packed(self) -> bool:
        """Whether the file has to be unpacked before anything in it can be found."""
        return split_name(self.url)[1].lower().endswith((*_PACKINGS, *_TARBALLS))


@dataclass(frozen=True)
class Sources:
    """The files that the SOURCE strings name, sorted by path, and what was left out."""

    files: tuple[Shard, ...]
    notes: tuple[str, ...]


def find_files(sources: Sequence[str]) -> Sources:
    """Expand SOURCE strings; raises RequestError where one names nothing or nothing readable."""
    urls: dict[str, int] = {}
    listed_as: dict[str, Listed] = {}
    notes: list[str] = []
    for source in sources:
        manifest = read_manifest(source)
        notes += manifest.notes if manifest else ()
        for listed in manifest.files if manifest else [Listed(source)]:
            found = _expand(listed.source, notes)
            urls.update(found)
            listed_as.update(dict.fromkeys(found, listed))
    if not urls:
        raise RequestError("no SOURCE given: name a tar, a folder, a glob or a brace pattern")
    urls = {url: urls[url] for url in {redact(url): url for url in urls}.values()}
    named = ((file, listed_as[file.url]) for file in name_shards(urls))
    files = (replace(file, images=as_.images, names=as_.names) for file, as_ in named)
    return Sources(tuple(files), tuple(dict.fromkeys(notes)))


@contextmanager
def open_file(shard: Shard) -> Iterator[BinaryIO]:
    """The shard's file, to be read at any place; of a server without ranges a copy of it."""
    filesystem, path = open_filesystem(shard.url)
    with filesystem.open(path, "rb") as file:
        if not http.is_address(shard.url) or _has_ranges(file):
            yield file
            return
    if not 0 < shard.size <= _MOST_COPIED:
        size = f"{shard.size:,} bytes are" if shard.size else "a file of unknown size is"
        raise ShardError(f"the server sends no parts of a file, and {size} too much: download it")
    with local_path(shard) as copy, Path(copy).open("rb") as file:
        yield file


def _has_ranges(file: BinaryIO) -> bool:
    try:
        file.seek(-1, os.SEEK_END)
        file.read(1)
        file.seek(0)
    except ValueError:  # of fsspec, whose words are no promise; any other is about this file
        return False
    return True


@contextmanager
def local_path(shard: Shard) -> Iterator[str]:
    """A local path of the shard's file; a remote or compressed one is copied while it is needed."""
    filesystem, path = open_filesystem(shard.url)
    if is_local(filesystem):
        with unpacked(path) as content:
            yield content
        return
    with scratch_folder() as folder:
        copy = posixpath.join(folder, "shard" + shard.suffix)
        try:
            filesystem.get_file(path, copy)
        except Exception as error:  # every fsspec backend has errors of its own
            raise ShardError(f"can't be fetched: {one_line(error)}") from error
        size = Path(copy).stat().st_size
        # Other stores may unpack what they send
        if size < shard.size or (size > shard.size > 0 and http.is_address(shard.url)):
            raise ShardError(f"can't be fetched: {size:,} bytes came, of {shard.size:,}")
        with unpacked(copy) as content:
            yield content


_PACKED: dict[bytes, Callable[[str], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
    b"\x28\xb5\x2f\xfd": partial(pa.input_stream, compression="zstd"),
}
"""How a file begins -> what opens it."""
_CHUNK = 1 << 20
_MOST_EXPANSION = 100
_ALWAYS = 1 << 28


@contextmanager
def unpacked(path: str) -> Iterator[str]:
    """A path of a file's content: of a compressed one, by its first bytes, a temporary copy.

    Members and lines are found again by their place, which needs a file. It may be as large as
    _MOST_EXPANSION times the compressed one (or _ALWAYS): beyond, it is made to fill the disk.
    Raises ShardError.
    """
    with Path(path).open("rb") as file:
        begin = file.read(8)
    opener = next((open_ for magic, open_ in _PACKED.items() if begin.startswith(magic)), None)
    if opener is None:
        yield path
        return
    most = left = max(_ALWAYS, _MOST_EXPANSION * Path(path).stat().st_size)
    with scratch_folder() as folder:
        copy = Path(folder, "content")
        try:
            with opener(path) as content, copy.open("wb") as out:
                while chunk := content.read(_CHUNK):
                    left -= out.write(chunk)
                    if left < 0:
                        raise ShardError(f"compressed: expands to more than {most:,} bytes")
        except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
            raise ShardError(f"compressed, can't be unpacked: {one_line(error)}") from error
        yield str(copy)


def _expand(source: str, notes: list[str]) -> dict[str, int]:
    patterns = _patterns(source)
    found: dict[str, int] = {}
    missing = []
    for pattern in patterns:
        files = _choose(list_files(pattern), pattern, notes)
        missing += [] if files else [pattern]
        found.update(files)
    if missing and len(patterns) > 1:
        raise RequestError(
            f"{source}: {len(missing):,} of {len(patterns):,} files don't exist, the first is "
            f"{missing[0]}; use a glob to take only those that do"
        )
    if missing:
        raise RequestError(f"{source}: no such file or folder, and no glob that matches one")
    return found


def _patterns(source: str) -> list[str]:
    if not source.strip():
        raise RequestError("an empty SOURCE: name a tar, a folder, a glob or a brace pattern")
    if "{" not in source or os.path.exists(os.path.expanduser(source)):  # noqa: PTH110, PTH111
        return [source]
    ranges = re.findall(r"\{(\d+)\.\.(\d+)", source)  # braceexpand holds each one in memory
    too_many = any(abs(int(last) - int(first)) > _MOST_PATTERNS for first, last in ranges)
    try:
        expanded = () if too_many else braceexpand(source, escape=False)
        patterns = list(islice(expanded, _MOST_PATTERNS + 1))
    except ValueError as error:
        raise RequestError(f"{source}: unbalanced braces; write {{00000..00127}}.tar") from error
    if too_many or len(patterns) > _MOST_PATTERNS:
        raise RequestError(f"{source}: more than {_MOST_PATTERNS:,} files; use a glob or a folder")
    return list(dict.fromkeys(patterns))


def _choose(listing: Listing, pattern: str, notes: list[str]) -> dict[str, int]:
    """Of a folder or glob the tars, else Parquet and JSONL, else JSON files; notes what is left."""
    files = listing.files
    if not listing.searched:
        for url in files:
            if suffix_of(url) not in READ:
                fix = "; unpack it first" if url.lower().endswith(".zip") else ""
                raise RequestError(f"{url}: not a file that is read ({', '.join(READ)}){fix}")
        return files
    kept = {url: size for url, size in files.items() if suffix_of(url) in TAR}
    of_pairs = {} if kept else _folders_of_pairs(files)
    for suffixes in (RANGED, LISTS) if not of_pairs else ():
        kept = kept or {u: size for u, size in files.items() if suffix_of(u) in suffixes}
    kept = {url: size for url, size in kept.items() if not _is_made(url)}
    data = {u: size for u, size in kept.items() if u.rpartition("/")[2] not in _SIDECARS}
    kept = data or kept
    if not kept and not of_pairs:
        captions = "NAME.txt beside each, metadata.csv, metadata.jsonl or metadata.parquet"
        fix = f"; its images have no captions ({captions})" if any(map(_is_image, files)) else ""
        raise RequestError(f"{pattern}: nothing there that is read ({', '.join(READ)}){fix}")
    read = kept.keys() | {url for url in files if url.rpartition("/")[0] + "/" in of_pairs}
    if any(split_name(url)[0] == "metadata" for url in kept):  # of the images beside it
        read |= set(filter(_is_image, files))
    left = Counter(suffix_of(url) or "no suffix" for url in files if url not in read)
    left.update({"links to folders": listing.linked_folders} if listing.linked_folders else {})
    if left:
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(left.items()))
        notes.append(f"{redact(pattern)}: left alone beside the shards: {kinds}")
    return kept or of_pairs


def _folders_of_pairs(files: dict[str, int]) -> dict[str, int]:
    """The folders in which image files have a text of the same name beside them -> all bytes."""
    images: set[str] = set()
    texts: set[str] = set()
    sizes: dict[str, int] = {}
    for url, size in files.items():
        folder = url.rpartition("/")[0] + "/"
        sizes[folder] = sizes.get(folder, 0) + size
        stem, suffix = split_name(url)
        if suffix.lower() in TEXTS:
            texts.add(folder + stem)
        elif _is_image(url):
            images.add(folder + stem)
    found = {name.rpartition("/")[0] + "/" for name in texts & images}
    return {folder: size for folder, size in sorted(sizes.items()) if folder in found}


def _is_made(url: str) -> bool:
    """Whether a file is no data: what `datasets` keeps of results, or the manifest of an export."""
    name = url.rpartition("/")[2]
    if name != MANIFEST:
        return _CACHE.fullmatch(name) is not None
    filesystem, path = open_filesystem(url)
    with suppress(Exception), filesystem.open(path, "rb") as file:
        return bool(file.read(len(MANIFEST_BEGINS)) == MANIFEST_BEGINS)
    return False  # or it can't be read, which the run says


def _is_image(url: str) -> bool:
    return suffix_of(url)[1:] in IMAGE_EXTENSIONS


def name_shards(urls: dict[str, int]) -> Iterator[Shard]:
    """Shards with names that mirror the files' paths below their common parent."""
    paths = {url: _parts(url) for url in sorted(urls, key=redact)}
    folders = zip(*(parts[:-1] for parts in paths.values()), strict=False)
    base = sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, folders))
    seen: dict[tuple[str, bool], str] = {}
    for url, parts in paths.items():
        name = "/".join([*parts[base:-1], split_name(url)[0]])
        other = seen.setdefault((name, suffix_of(url) in TAR), url)
        if other != url:
            raise RequestError(f"{other} and {url} would share a table: rename one")
        yield Shard(url, name, urls[url])


def _parts(url: str) -> list[str]:
    """The parts of a file's path, of which its table's path is made: so nothing odd in them."""
    parts = [part for part in path_of(redact(url)).split("/") if part not in ("", ".")]
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
            other = seen[shard.name]
            raise RequestError(f"{other} and {shard.url} would share a table: rename one")


def take_part(shards: Sequence[Shard], part: str | None) -> list[Shard]:
    """Every N-th shard from the I-th for a `part` of "I/N"; all of them for None."""
    if part is None:
        return list(shards)
    index, _, count = part.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise RequestError(f"--part {part}: write I/N with I from 0 to N-1, for example 0/8")
    return list(shards)[int(index) :: int(count)]
