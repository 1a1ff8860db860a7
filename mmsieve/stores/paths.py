"""Paths at stores, which stand where a Path does."""

import errno
import fnmatch
import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import total_ordering
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeGuard, cast

import fsspec

from mmsieve.errors import MmsieveError, RequestError
from mmsieve.sanitize import redact
from mmsieve.stores.asking import ask, open_filesystem

# Paths


@total_ordering
class StorePath:
    """A path at a store, with the methods of a Path that outputs and tables are used with.

    It is no `os.PathLike`: what needs a file of this machine fails, instead of making ./s3:.
    Methods that ask the store raise OSError where it gives no answer, `exists` too.
    """

    def __init__(self, protocol: str, path: PurePosixPath, size: int | None = None) -> None:
        """`size`: bytes of the object, where a list has just said it."""
        self._protocol, self._path, self._size = protocol, path, size

    @property
    def protocol(self) -> str:
        """`s3`, `gs`, ..."""
        return self._protocol

    def __str__(self) -> str:
        return f"{self._protocol}://{self._path}"

    def __repr__(self) -> str:
        return f"StorePath({redact(str(self))!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StorePath) and str(self) == str(other)

    def __lt__(self, other: "StorePath") -> bool:
        return str(self) < str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    # Names

    def __truediv__(self, name: "str | PurePosixPath") -> "StorePath":
        return StorePath(self._protocol, self._path / name)

    @property
    def name(self) -> str:
        """The last part."""
        return self._path.name

    @property
    def stem(self) -> str:
        """The last part without its suffix."""
        return self._path.stem

    @property
    def suffix(self) -> str:
        """The suffix, with its dot."""
        return self._path.suffix

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts below the protocol."""
        return self._path.parts

    @property
    def parent(self) -> "StorePath":
        """The folder around it."""
        return StorePath(self._protocol, self._path.parent)

    @property
    def parents(self) -> "tuple[StorePath, ...]":
        """All folders around it, the innermost first."""
        around = self._path.parents
        return tuple(StorePath(self._protocol, path) for path in around if path.name)

    def with_name(self, name: str) -> "StorePath":
        """Another name in the same folder."""
        return StorePath(self._protocol, self._path.with_name(name))

    def with_suffix(self, suffix: str) -> "StorePath":
        """The same name with another suffix."""
        return StorePath(self._protocol, self._path.with_suffix(suffix))

    def relative_to(self, other: "StorePath") -> PurePosixPath:
        """The path below another; ValueError where it isn't below."""
        if other.protocol != self._protocol:
            raise ValueError(f"{self} is not below {other}")
        return self._path.relative_to(PurePosixPath(*other.parts))

    def is_relative_to(self, other: object) -> bool:
        """Whether it is another path, or below it."""
        return self == other or other in self.parents

    def resolve(self) -> "StorePath":
        """Itself: there are no links."""
        return self

    absolute = expanduser = resolve

    def is_symlink(self) -> bool:
        """Never."""
        return False

    # What is there

    def info(self) -> Mapping[str, Any] | None:
        """What the store says of it: `type`, `size`; None where nothing is there."""
        filesystem, path = self.opened()
        try:
            return cast(Mapping[str, Any], ask(str(self), lambda: filesystem.info(path)))
        except FileNotFoundError:
            return None

    def tag(self) -> str:
        """What tells its content from another, as the store says it."""
        found = self.info() or {}
        names = ("ETag", "etag", "md5Hash", "sha256", "LastModified", "mtime", "updated", "created")
        return str(next((found[name] for name in names if found.get(name)), ""))

    def exists(self) -> bool:
        """Whether an object, or any below, is there."""
        return self.info() is not None

    def is_file(self) -> bool:
        """Whether an object is there."""
        return (self.info() or {}).get("type") == "file"

    def is_dir(self) -> bool:
        """Whether objects are below it."""
        return (self.info() or {}).get("type") == "directory"

    def stat(self) -> "StoredSize":
        """The size; raises FileNotFoundError."""
        found = self.info()
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "no such object", str(self))
        return StoredSize(int(found.get("size") or 0))

    def rglob(self, pattern: str) -> "Iterator[StorePath]":
        """The objects at any depth below whose names match, sorted."""
        return (path for path in self.sizes() if fnmatch.fnmatchcase(path.name, pattern))

    def glob(self, pattern: str) -> "Iterator[StorePath]":
        """The objects below whose paths match, sorted; `*` is within a part, `**` any parts."""
        parts = (re.escape(part) for part in re.split(r"(\*\*/|\*|\?)", pattern))
        ways = {re.escape("**/"): "(?:.*/)?", re.escape("*"): "[^/]*", re.escape("?"): "[^/]"}
        wanted = re.compile("".join(ways.get(part, part) for part in parts))
        below = ((path, str(path.relative_to(self))) for path in self.sizes())
        return (path for path, name in below if wanted.fullmatch(name))

    def iterdir(self) -> "Iterator[StorePath]":
        """The objects and folders in it, sorted."""
        filesystem, path = self.opened()
        filesystem.invalidate_cache(path)
        try:
            found = ask(str(self), lambda: filesystem.ls(path, detail=False))
        except FileNotFoundError:
            return iter(())
        names = {PurePosixPath(name).name for name in found if name.strip("/") != path.strip("/")}
        return iter([self / name for name in sorted(names)])

    def sizes(self) -> "dict[StorePath, int]":
        """The objects below, sorted -> their sizes."""
        filesystem, path = self.opened()
        filesystem.invalidate_cache(path)
        found = ask(str(self), lambda: filesystem.find(path, detail=True))
        base = path.strip("/") + "/"
        below = {
            info["name"].strip("/").removeprefix(base): info
            for info in found.values()
            if info["type"] == "file" and info["name"].strip("/").startswith(base)
        }
        sizes = {name: int(info.get("size") or 0) for name, info in sorted(below.items())}
        return {StorePath(self._protocol, self._path / n, size): size for n, size in sizes.items()}

    def opened(self) -> tuple[fsspec.AbstractFileSystem, str]:
        """The filesystem, and the path there."""
        return open_filesystem(str(self))

    # Content

    def read_bytes(self) -> bytes:
        """All of an object."""
        filesystem, path = self.opened()
        return cast(bytes, ask(str(self), lambda: filesystem.cat_file(path)))

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """All of an object, as text."""
        return self.read_bytes().decode(encoding, errors)

    def open(self, mode: str = "rb") -> IO[bytes]:
        """An object to be read at any place: a small one in memory, of a large one ranges."""
        if mode != "rb":
            raise ValueError(f"{self}: is written whole, by `put`")
        size = self.stat().st_size if self._size is None else self._size
        if size <= SMALL:
            return BytesIO(self.read_bytes())
        filesystem, path = self.opened()
        how = {"block_size": _BLOCK, "cache_type": "readahead"}
        return cast(IO[bytes], ask(str(self), lambda: filesystem.open(path, "rb", **how)))

    def put(self, local: Path) -> None:
        """Make it the object with a file's bytes, at once; OSError."""
        _check_allowed(self)
        filesystem, path = self.opened()
        ask(str(self), lambda: filesystem.put_file(str(local), path))

    def write_bytes(self, data: bytes) -> None:
        """Make it the object with these bytes, at once; OSError."""
        _check_allowed(self)
        filesystem, path = self.opened()
        ask(str(self), lambda: filesystem.pipe_file(path, data))

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove an object; FileNotFoundError where there is none, unless that may be."""
        _check_allowed(self)
        filesystem, path = self.opened()
        try:
            ask(str(self), lambda: filesystem.rm_file(path))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove(self) -> None:
        """Remove an object, or all below a folder, if it is there."""
        self.unlink(missing_ok=True)
        in_turn([path.unlink for path in self.sizes()])


@dataclass(frozen=True, slots=True)
class StoredSize:
    """What a store's `stat` says."""

    st_size: int


SMALL, _BLOCK = 1 << 23, 1 << 20
"""Bytes of an object that is read whole, and of a range of a larger one."""
CALLS = 16
"""Requests to a store at a time."""
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/{1,3}(?=[^/])(.*)", re.DOTALL)


def place_of(given: str | os.PathLike[str]) -> Path:
    """The place that a user names: a path of this machine, or of a store where it is a URL.

    A URL that has become a Path, and lost a slash, is one all the same. For type checkers a
    StorePath is a Path, as it has what is used of one; `is_stored` tells them apart.
    """
    if isinstance(given, StorePath):
        return as_path(given)
    found = _URL.fullmatch(os.fspath(given))
    if found is None or found[1] not in fsspec.available_protocols():
        return Path(given)
    if found[1] in ("file", "local"):
        return Path("/", found[2])
    path = PurePosixPath(found[2])
    if ".." in path.parts:
        raise RequestError(f"{redact(os.fspath(given))}: leave out ..")
    return as_path(StorePath(found[1], path))


def is_url(text: str) -> bool:
    """Whether a text is the URL of a place at a store."""
    return "://" in text and is_stored(place_of(text))


def url_of(path: Path) -> str:
    """What sources call a file: its URL, or its absolute path."""
    return str(path) if is_stored(path) else os.path.abspath(path)  # noqa: PTH100 - no links


def as_path(path: StorePath) -> Path:
    """The same for type checkers, to whom it is a Path."""
    return cast(Path, path)


def is_stored(path: object) -> TypeGuard[StorePath]:
    """Whether a path is at a store; for type checkers it is a StorePath then, and no Path."""
    return isinstance(path, StorePath)


def in_turn(calls: "list[Callable[[], object]]") -> None:
    """Make calls to a store, many at a time; the first error ends it."""
    with ThreadPoolExecutor(CALLS, "mmsieve-store") as pool:
        for done in [pool.submit(call) for call in calls]:
            done.result()


# Who may write: a run that lost its lease writes nothing more

_lost: set[StorePath] = set()


def forbid(out: StorePath, is_lost: bool = True) -> None:
    """Let nothing more be written to an output, as another run has taken it over; or let it."""
    (_lost.add if is_lost else _lost.discard)(out)


def is_lost(out: Path) -> bool:
    """Whether another run has taken an output over."""
    return out in _lost


def _check_allowed(path: StorePath) -> None:
    for out in _lost:
        if path.is_relative_to(out):
            raise MmsieveError(f"--out {out}: another run has taken over: this one was too slow")
