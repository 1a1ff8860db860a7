"""Folders and journals at stores, and what of them is read here: whole, or by ranges."""

import errno
import hashlib
import json
import os
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import count
from pathlib import Path, PurePosixPath
from typing import IO, ClassVar, TypeVar

from pydantic import ConfigDict, NonNegativeInt, TypeAdapter

from mmsieve.errors import RequestError
from mmsieve.leftovers import is_hidden, scratch_folder
from mmsieve.stores.asking import ask
from mmsieve.stores.paths import CALLS, StorePath, as_path, in_turn, is_stored
from mmsieve.validated import parse_json

_NOT_WRITTEN = ("http", "https", "hf")
LONGEST = 1024
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
    except RequestError as error:
        raise RequestError(f"{option} {error}") from error
    except OSError as error:
        raise RequestError(f"{option} {out}: can't be reached: {error.strerror}") from error


def check_lengths(folder: StorePath, names: Iterable[str], option: str) -> None:
    """Raise RequestError where an object would have a longer name than stores allow."""
    start = len("/".join(folder.parts[1:]).encode()) + 1
    for name in names:
        if start + len(os.fsencode(name)) > LONGEST:
            raise RequestError(
                f"{option} {folder}: a name of more than {LONGEST} bytes can't be written: {name}"
            )


# Whole folders

RECEIPT = ".mmsieve.json"
"""Beside the files of a folder: which ones it holds."""
MAKING = ".mmsieve.making"
"""Beside it, while the folder is written: an object that is named by the writer's token.

Not one object that says first no, then yes: a request that was given up and sent again may be
carried out at any time, also after those that were sent later.
"""
_LAST = ("config.json", "manifest.json")
"""By which programs of others know that a folder is there."""
_TOKENS = 20  # of writers whose late requests count for nothing


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """Which files a folder holds."""

    files: dict[str, NonNegativeInt] = field(default_factory=dict)
    """Path below the folder -> bytes; in the making, all that may be there."""
    ended: tuple[str, ...] = ()
    """Tokens of the last writers that came to their end, or that others took over from."""
    whole: bool = True
    """Receipts of before said here whether the folder was still in the making."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


def _read(path: StorePath) -> Receipt:
    fix = "remove the folder, and make it again"
    return parse_json(as_path(path), path.read_bytes(), TypeAdapter(Receipt), fix)


def read_receipt(folder: StorePath) -> Receipt | None:
    """What a folder says that it holds; None where it says nothing."""
    try:
        return _read(folder / RECEIPT)
    except FileNotFoundError:
        return None


def _under_way(receipt: Receipt | None, markers: Iterable[StorePath]) -> list[StorePath]:
    """The markers of writers that haven't come to their end."""
    ended = () if receipt is None else receipt.ended
    return [marker for marker in markers if marker.name not in ended]


def is_in_the_making(folder: Path) -> bool:
    """Whether a run that writes a folder of a store hasn't ended, or was killed."""
    if not is_stored(folder):
        return False
    receipt = read_receipt(folder)
    if receipt is not None and not receipt.whole:
        return True
    return bool(_under_way(receipt, (folder / MAKING).sizes()))


def files_of(folder: StorePath) -> dict[StorePath, int]:
    """The files of a folder that count -> bytes: those that its receipt names, or else all.

    Raises RequestError where it isn't whole, or isn't what the receipt says.
    """
    found = folder.sizes()
    receipt = read_receipt(folder) if folder / RECEIPT in found else None
    markers = (path for path in found if path.parent == folder / MAKING)
    if _under_way(receipt, markers) or (receipt is not None and not receipt.whole):
        raise RequestError(
            f"{folder}: is not whole: the run that writes it hasn't ended, or was killed: run that "
            "command again"
        )
    if receipt is None:
        return found
    for name, size in receipt.files.items():
        if found.get(folder / name) != size:
            raise RequestError(f"{folder / name}: is not as it was written: make {folder} again")
    named = {folder / name for name in receipt.files}
    return {path: size for path, size in found.items() if path in named}


def contents(folder: StorePath) -> list[Path]:
    """What is in a folder, but for what is said of it; [] where there is none."""
    return [as_path(path) for path in folder.iterdir() if path.name not in (RECEIPT, MAKING)]


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
        if path.is_file() and not is_hidden(path.name)
    }
    before = read_receipt(place) or Receipt()
    left = _under_way(before, (place / MAKING).sizes())
    there = before.files | {name: size for one in left for name, size in _read(one).files.items()}
    marker = place / MAKING / secrets.token_hex(8)
    _write(marker, Receipt(files=there | files))
    later = [name for name in files if PurePosixPath(name).name in _LAST]
    in_turn([_put(local, place, name) for name in files if name not in later])
    for name in later:
        _put(local, place, name)()
    for name in there.keys() - files.keys():
        (place / name).unlink(missing_ok=True)
    ended = (*before.ended, *(one.name for one in left), marker.name)
    _write(place / RECEIPT, Receipt(files=files, ended=ended[-_TOKENS:]))
    for one in (*left, marker):
        one.unlink(missing_ok=True)


def _put(local: Path, place: StorePath, name: str) -> Callable[[], None]:
    return lambda: (place / name).put(local / name)


def _write(path: StorePath, receipt: Receipt) -> None:
    path.write_bytes(json.dumps(asdict(receipt), indent=1).encode())


def abort_uploads(out: StorePath) -> None:
    """Abort the multipart uploads of killed runs below an output: nobody sees them, all pay."""
    filesystem, path = out.opened()
    if not hasattr(filesystem, "call_s3"):  # other stores drop them by themselves
        return
    call, (bucket, _, key) = filesystem.call_s3, path.partition("/")
    with suppress(OSError):  # not everybody may list them
        found = ask(str(out), partial(call, "list_multipart_uploads", Bucket=bucket, Prefix=key))
        for upload in found.get("Uploads", []):
            if f"{upload['Key']}/".startswith(f"{key}/"):
                ids = {"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
                ask(str(out), partial(call, "abort_multipart_upload", **ids))


# Journals: an object per line, as nothing can be added to an object


_numbers: dict[StorePath, Iterator[int]] = {}


def append_object(journal: StorePath, line: bytes) -> None:
    """Add a line to a journal, which nobody else does now: when this returns, it is there."""
    if journal not in _numbers:
        last = max((int(p.name) for p in journal.sizes() if p.name.isdecimal()), default=-1)
        _numbers[journal] = count(last + 1)
    (journal / f"{next(_numbers[journal]):012d}").write_bytes(line)


def read_objects(journal: StorePath) -> list[bytes]:
    """The lines of a journal, in order; none where it isn't there."""
    with ThreadPoolExecutor(CALLS, "mmsieve-store") as pool:
        return list(pool.map(StorePath.read_bytes, journal.sizes()))


# Reading: ranges, and copies on this machine

S = TypeVar("S")
T = TypeVar("T")


@contextmanager
def readable(path: Path) -> Iterator[Path | IO[bytes]]:
    """A file as libraries read it: its path on this machine, or the opened object."""
    if is_stored(path):
        with path.open() as content:
            yield content
    else:
        yield path


def map_many(call: Callable[[S], T], items: Iterable[S], is_far: bool) -> Iterator[T]:
    """What a call gives for each item, in order; where it asks a store, many at a time, ahead."""
    if not is_far:
        yield from map(call, items)
        return
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(CALLS, "mmsieve-store") as pool:
        for item in items:
            waiting.append(pool.submit(call, item))
            if len(waiting) >= 2 * CALLS:
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
    fetch_files(path, files, copy)


def fetch_files(folder: StorePath, files: Mapping[StorePath, int], copy: Path) -> None:
    """Copy some files of a folder, of which the sizes are known; OSError."""
    places = ((file, copy / file.relative_to(folder), size) for file, size in files.items())
    in_turn([partial(_fetch_file, *each) for each in places])


def _fetch_file(path: StorePath, copy: Path, size: int) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    filesystem, name = path.opened()

    def get() -> None:
        filesystem.get_file(name, str(copy))
        if copy.stat().st_size != size:
            raise OSError(errno.EIO, f"{copy.stat().st_size:,} bytes came, of {size:,}")

    ask(str(path), get)


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """The files of a folder on this machine, as they are told from changed ones."""
    found = {path.relative_to(folder).as_posix(): path.stat() for path in folder.rglob("*")}
    return {name: (one.st_size, one.st_mtime_ns) for name, one in found.items()}
