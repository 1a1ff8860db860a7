"""Object stores: whatever of ours lies at a URL is found, read, written and removed here.

A `StorePath` stands where a Path does. What differs from a disk:

- A file appears by one whole put of a finished local copy; a multipart upload is completed last.
- A folder that a disk would rename into place is put file by file, its receipt (`RECEIPT`) first
  without being whole and last with the files' names and sizes. Readers trust what it names, and
  nothing while it isn't whole. A folder that never had one, as of `score`, is its whole files.
- A journal is a folder with an object per line.
- Who writes is told by leases, in `leases.py`.

Errors of stores are OSErrors. Those that may pass are asked again, by botocore and then here.
Credentials come by the standard chains of each store's own library.
"""

import errno
import fnmatch
import hashlib
import json
import os
import random
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial, total_ordering
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, Any, ClassVar, TypeGuard, TypeVar, cast
from uuid import uuid4

import fsspec
from fsspec.core import url_to_fs
from pydantic import ConfigDict, NonNegativeInt, TypeAdapter

from mmsieve import http
from mmsieve.errors import MmsieveError, RequestError
from mmsieve.leftovers import scratch_folder
from mmsieve.sanitize import redact
from mmsieve.validated import parse_json

# Filesystems

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "http": "http", "https": "http"}
"""Protocol -> the extra of mmsieve that installs its filesystem."""
_TRIES = 8
"""How often botocore sends a request, with pauses that double and vary, up to 20 s each."""


def open_filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a URL and the path there; RequestError names what must be installed."""
    protocol = url.partition("://")[0]
    try:
        found: tuple[fsspec.AbstractFileSystem, str] = url_to_fs(url, **_options(protocol))
    except ImportError as error:
        extra = _EXTRAS.get(protocol)
        fix = f"pip install 'mmsieve[{extra}]'" if extra else one_line(error)
        raise RequestError(f"{url}: {protocol}:// needs a package not installed: {fix}") from error
    except ValueError as error:
        fix = "a SOURCE is a path or a URL such as s3://, gs://, hf://, https://"
        raise RequestError(f"{url}: {one_line(error)}; {fix}") from error
    except Exception as error:  # some backends connect at once, and have errors of their own
        raise RequestError(f"{url}: can't be reached: {one_line(error)}") from error
    return found


def _options(protocol: str) -> dict[str, Any]:
    """What a filesystem is opened with; what users configured by fsspec's or AWS's means stays."""
    if protocol in ("http", "https"):
        return {"get_client": http.open_session}
    if protocol not in ("s3", "s3a"):
        return {}
    own = fsspec.config.conf.get("s3", {})
    options: dict[str, Any] = {} if "use_listings_cache" in own else {"use_listings_cache": False}
    config = dict(own.get("config_kwargs", {}))
    if not {"AWS_RETRY_MODE", "AWS_MAX_ATTEMPTS"} & os.environ.keys():
        config.setdefault("retries", {"mode": "standard", "max_attempts": _TRIES})
    return options | {"config_kwargs": config}


def is_local(filesystem: fsspec.AbstractFileSystem) -> bool:
    """Whether the filesystem's paths are paths of this machine."""
    protocol = filesystem.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)


def one_line(error: BaseException) -> str:
    """What an error says, in one line, redacted; of one that can't say anything, its name."""
    error = http.cause_of(error)
    try:
        said = http.answer_in(error) or redact(str(error))
        return " ".join(said.split()) or type(error).__name__
    except Exception:  # noqa: BLE001 - somebody else's `__str__` may fail in any way
        return type(error).__name__


# Asking a store, again where that may help

R = TypeVar("R")
_AGAIN = 4
FIRST_PAUSE = 0.5
"""Seconds before a request is sent again here, twice as many before each other time."""
_FINAL = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


def _ask(url: str, call: Callable[[], R]) -> R:
    """What a call to a store returns; OSError where it can't be had, also when asked again."""
    for attempt in range(_AGAIN):
        try:
            return call()
        except Exception as error:  # every fsspec backend has errors of its own
            if not _may_pass(error) or attempt == _AGAIN - 1:
                raise _as_os_error(url, error) from error
        pause = FIRST_PAUSE * 2**attempt
        time.sleep(random.uniform(pause, 2 * pause))  # noqa: S311 - or all come back at once
    raise AssertionError


def _may_pass(error: Exception) -> bool:
    """Whether asking again may help: not where a store has answered, or nobody is let in."""
    if isinstance(error, MmsieveError | ValueError | TypeError | NotImplementedError):
        return False
    is_answer = isinstance(error, OSError) and error.errno in _FINAL
    kinds = FileNotFoundError | PermissionError | FileExistsError
    return not (is_answer or isinstance(error, kinds) or "Credential" in type(error).__name__)


def _as_os_error(url: str, error: Exception) -> Exception:
    if isinstance(error, MmsieveError | FileNotFoundError):
        return error
    fix = "; give credentials by the store's usual means" if "redential" in repr(error) else ""
    number = error.errno if isinstance(error, OSError) and error.errno else errno.EIO
    return OSError(number, f"{redact(url)}: {one_line(error)}{fix}")


# Paths


@total_ordering
class StorePath:
    """A path at a store, with the methods of a Path that outputs and tables are used with.

    It is no `os.PathLike`: what needs a file of this machine fails, instead of making ./s3:.
    Methods that ask the store raise OSError where it gives no answer, `exists` too.
    """

    def __init__(self, protocol: str, path: PurePosixPath) -> None:
        self._protocol, self._path = protocol, path

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
            return cast(Mapping[str, Any], _ask(str(self), lambda: filesystem.info(path)))
        except FileNotFoundError:
            return None

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
            found = _ask(str(self), lambda: filesystem.ls(path, detail=False))
        except FileNotFoundError:
            return iter(())
        names = {PurePosixPath(name).name for name in found if name.strip("/") != path.strip("/")}
        return iter([self / name for name in sorted(names)])

    def sizes(self) -> "dict[StorePath, int]":
        """The objects below, sorted -> their sizes."""
        filesystem, path = self.opened()
        filesystem.invalidate_cache(path)
        found = _ask(str(self), lambda: filesystem.find(path, detail=True))
        base = path.strip("/") + "/"
        below = {
            info["name"].strip("/").removeprefix(base): info
            for info in found.values()
            if info["type"] == "file" and info["name"].strip("/").startswith(base)
        }
        return {self / name: int(info.get("size") or 0) for name, info in sorted(below.items())}

    def opened(self) -> tuple[fsspec.AbstractFileSystem, str]:
        """The filesystem, and the path there."""
        return open_filesystem(str(self))

    # Content

    def read_bytes(self) -> bytes:
        """All of an object."""
        filesystem, path = self.opened()
        return cast(bytes, _ask(str(self), lambda: filesystem.cat_file(path)))

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """All of an object, as text."""
        return self.read_bytes().decode(encoding, errors)

    def open(self, mode: str = "rb") -> IO[bytes]:
        """An object to be read at any place: a small one in memory, of a large one ranges."""
        if mode != "rb":
            raise ValueError(f"{self}: is written whole, by `put`")
        if self.stat().st_size <= _SMALL:
            return BytesIO(self.read_bytes())
        filesystem, path = self.opened()
        how = {"block_size": _BLOCK, "cache_type": "readahead"}
        return cast(IO[bytes], _ask(str(self), lambda: filesystem.open(path, "rb", **how)))

    def put(self, local: Path) -> None:
        """Make it the object with a file's bytes, at once; OSError."""
        _check_allowed(self)
        filesystem, path = self.opened()
        _ask(str(self), lambda: filesystem.put_file(str(local), path))

    def write_bytes(self, data: bytes) -> None:
        """Make it the object with these bytes, at once; OSError."""
        _check_allowed(self)
        filesystem, path = self.opened()
        _ask(str(self), lambda: filesystem.pipe_file(path, data))

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove an object; FileNotFoundError where there is none, unless that may be."""
        _check_allowed(self)
        filesystem, path = self.opened()
        try:
            _ask(str(self), lambda: filesystem.rm_file(path))
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


_SMALL, _BLOCK = 1 << 23, 1 << 20
_CALLS = 16
"""Requests to a store at a time."""
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}(?=[^/])(.*)", re.DOTALL)


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
        return Path(found[2] if found[2].startswith("/") else f"/{found[2]}")
    path = PurePosixPath(found[2])
    if ".." in path.parts:
        raise RequestError(f"{redact(os.fspath(given))}: leave out ..")
    return as_path(StorePath(found[1], path))


_NOT_WRITTEN = ("http", "https", "hf")
_LONGEST = 1024
"""Bytes of an object's name."""


def check_writable(out: StorePath, option: str) -> None:
    """Raise RequestError for a place where nothing can be written, or that gives no answer."""
    if out.protocol in _NOT_WRITTEN:
        raise RequestError(
            f"{option} {out}: this can't be written to {out.protocol}://: write it to a folder, or "
            "a store such as s3:// or gs://"
        )
    try:
        out.info()
    except OSError as error:
        raise RequestError(f"{option} {out}: can't be reached: {error.strerror}") from error


def check_lengths(folder: StorePath, names: Iterable[str], option: str) -> None:
    """Raise RequestError where an object would have a longer name than stores allow."""
    start = len("/".join(folder.parts[1:]).encode()) + 1
    for name in names:
        if start + len(os.fsencode(name)) > _LONGEST:
            raise RequestError(
                f"{option} {folder}: a name of more than {_LONGEST} bytes can't be written: {name}"
            )


def as_path(path: StorePath) -> Path:
    """The same for type checkers, to whom it is a Path."""
    return cast(Path, path)


def is_stored(path: object) -> TypeGuard[StorePath]:
    """Whether a path is at a store; for type checkers it is a StorePath then, and no Path."""
    return isinstance(path, StorePath)


def in_turn(calls: "list[Callable[[], object]]") -> None:
    """Make calls to a store, many at a time; the first error ends it."""
    with ThreadPoolExecutor(_CALLS, "mmsieve-store") as pool:
        for done in [pool.submit(call) for call in calls]:
            done.result()


# Whole folders

RECEIPT = ".mmsieve.json"
"""Beside the files of a folder: which ones it holds, once it is whole."""
_LAST = ("config.json", "manifest.json")
"""By which programs of others know that a folder is there."""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Which files a folder holds."""

    whole: bool
    files: dict[str, NonNegativeInt] = field(default_factory=dict)
    """Path below the folder -> bytes; of one that isn't whole, all that may be there."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


def read_receipt(folder: StorePath) -> Receipt | None:
    """What a folder says that it holds; None where it says nothing."""
    path = folder / RECEIPT
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    fix = "remove the folder, and make it again"
    return parse_json(as_path(path), data, TypeAdapter(Receipt), fix)


def is_in_the_making(folder: Path) -> bool:
    """Whether a run that writes a folder of a store hasn't ended, or was killed."""
    receipt = read_receipt(folder) if is_stored(folder) else None
    return receipt is not None and not receipt.whole


def files_of(folder: StorePath) -> dict[StorePath, int]:
    """The files of a folder that count -> bytes: those that its receipt names, or else all.

    Raises RequestError where it isn't whole, or isn't what the receipt says.
    """
    found = folder.sizes()
    if folder / RECEIPT not in found:
        return found
    receipt = read_receipt(folder)
    if receipt is None or not receipt.whole:
        raise RequestError(
            f"{folder}: is not whole: the run that writes it hasn't ended, or was killed: run that "
            "command again"
        )
    for name, size in receipt.files.items():
        if found.get(folder / name) != size:
            raise RequestError(f"{folder / name}: is not as it was written: make {folder} again")
    return {folder / name: size for name, size in receipt.files.items()}


def contents(folder: StorePath) -> list[Path]:
    """What is in a folder, but for its receipt; [] where there is none."""
    return [as_path(path) for path in folder.iterdir() if path.name != RECEIPT]


def parquet_files(folder: StorePath) -> list[Path]:
    """The Parquet files of a folder that count; raises RequestError as `files_of` does."""
    return [as_path(path) for path in files_of(folder) if path.suffix == ".parquet"]


@contextmanager
def staged(place: StorePath) -> Iterator[Path]:
    """A local place for a file or folder, which is put in the place of what is there."""
    with scratch_folder() as scratch:
        staging = scratch / place.name
        yield staging
        if staging.is_dir():
            put_folder(staging, place)
        else:
            place.put(staging)


def put_folder(local: Path, place: StorePath) -> None:
    """Put a folder's files in the place of those that were put there before."""
    files = {
        path.relative_to(local).as_posix(): path.stat().st_size
        for path in sorted(local.rglob("*"))
        if path.is_file()
    }
    before = read_receipt(place) or Receipt(whole=True)
    _write_receipt(place, Receipt(whole=False, files=before.files | files))
    later = [name for name in files if PurePosixPath(name).name in _LAST]
    in_turn([_put(local, place, name) for name in files if name not in later])
    for name in later:
        _put(local, place, name)()
    for name in before.files.keys() - files.keys():
        (place / name).unlink(missing_ok=True)
    _write_receipt(place, Receipt(whole=True, files=files))


def _put(local: Path, place: StorePath, name: str) -> Callable[[], None]:
    return lambda: (place / name).put(local / name)


def _write_receipt(place: StorePath, receipt: Receipt) -> None:
    (place / RECEIPT).write_bytes(json.dumps(asdict(receipt), indent=1).encode())


def abort_uploads(out: StorePath) -> None:
    """Abort the multipart uploads of killed runs below an output: nobody sees them, all pay."""
    filesystem, path = out.opened()
    if not hasattr(filesystem, "call_s3"):  # other stores drop them by themselves
        return
    ask, (bucket, _, key) = filesystem.call_s3, path.partition("/")
    with suppress(OSError):  # not everybody may list them
        found = _ask(str(out), partial(ask, "list_multipart_uploads", Bucket=bucket, Prefix=key))
        for upload in found.get("Uploads", []):
            if f"{upload['Key']}/".startswith(f"{key}/"):
                ids = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                _ask(str(out), partial(ask, "abort_multipart_upload", **ids))


# Journals: an object per line, as nothing can be added to an object


def append_object(journal: StorePath, line: bytes) -> None:
    """Add a line to a journal: when this returns, it is there."""
    name = f"{time.time_ns():020d}-{uuid4().hex[:8]}"
    (journal / name).write_bytes(line)


def read_objects(journal: StorePath) -> list[bytes]:
    """The lines of a journal, in order; none where it isn't there."""
    with ThreadPoolExecutor(_CALLS, "mmsieve-store") as pool:
        return list(pool.map(StorePath.read_bytes, journal.sizes()))


# Reading: ranges, and copies on this machine

T = TypeVar("T")


@contextmanager
def readable(path: Path) -> Iterator[Path | IO[bytes]]:
    """A file as libraries read it: its path on this machine, or the opened object."""
    if is_stored(path):
        with path.open() as content:
            yield content
    else:
        yield path


def map_many(call: Callable[[Path], T], paths: Iterable[Path]) -> Iterator[T]:
    """What a call gives for each path, in order; of a store many at a time, some of them ahead."""
    everything = list(paths)
    if not any(map(is_stored, everything)):
        yield from map(call, everything)
        return
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(_CALLS, "mmsieve-store") as pool:
        for path in everything:
            waiting.append(pool.submit(call, path))
            if len(waiting) >= 2 * _CALLS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def cache_folder(kind: str, what: str) -> Path:
    """The folder on this machine for what is known of a place at a store, by a digest of it."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    name = hashlib.sha256(what.encode()).hexdigest()[:16]
    return Path(base).expanduser() / "mmsieve" / kind / name


@contextmanager
def as_local(path: Path) -> Iterator[Path]:
    """A file or folder on this machine: a copy, while it is needed, of what is at a store."""
    if not is_stored(path):
        yield path
        return
    with scratch_folder() as scratch:
        copy = scratch / path.name
        fetch(path, copy)
        yield copy


def fetch(path: StorePath, copy: Path) -> None:
    """Copy an object, or the files of a folder that count; FileNotFoundError, OSError."""
    if path.is_file():
        _fetch_file(path, copy, path.stat().st_size)
        return
    files = files_of(path)
    if not files:
        raise FileNotFoundError(errno.ENOENT, "nothing there", str(path))
    in_turn([_fetching(file, copy / file.relative_to(path), files[file]) for file in files])


def _fetching(path: StorePath, copy: Path, size: int) -> Callable[[], None]:
    return lambda: _fetch_file(path, copy, size)


def _fetch_file(path: StorePath, copy: Path, size: int) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    filesystem, name = path.opened()

    def get() -> None:
        filesystem.get_file(name, str(copy))
        if copy.stat().st_size != size:
            raise OSError(errno.EIO, f"{copy.stat().st_size} bytes came, of {size}")

    _ask(str(path), get)


# Who may write: a run that lost its lease writes nothing more

_lost: set[StorePath] = set()


def forbid(out: StorePath, is_lost: bool = True) -> None:
    """Let nothing more be written to an output, as another run has taken it over; or let it."""
    (_lost.add if is_lost else _lost.discard)(out)


def _check_allowed(path: StorePath) -> None:
    for out in _lost:
        if path.is_relative_to(out):
            raise MmsieveError(f"--out {out}: another run has taken over: this one was too slow")
