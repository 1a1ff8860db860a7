"""Outputs of verbs: where they may be written, and what the one that is there was made by.

Every output says which request made it: tables and decisions in their headers, an export in its
journal, a generation and a training in a JSON record, a page in its title. Here is decided what
that means for the next request: start, go on, nothing to do, or a RequestError that says the fix.
Files and folders get their names when they are whole, and nothing is removed that isn't a verb's.
"""

import errno
import json
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pydantic import TypeAdapter

from mmsieve.errors import RequestError, causes_of
from mmsieve.leftovers import hidden_place, is_hidden, remove
from mmsieve.stores import folders
from mmsieve.stores.paths import is_stored, place_of
from mmsieve.validated import OBJECT, read_json_file

# Places: folders that can be written, apart from what is read


def check_name(out: Path, option: str = "--out") -> None:
    """Raise RequestError for an output where nothing can be written, or with too long a name.

    A URL is one only as a StorePath, which verbs make that can write to stores. `option`: what it
    was given as.
    """
    if is_stored(out):
        folders.check_writable(out, option)
    else:
        check_local(out, option)
    check_names(out.absolute().parent, [out.name], option)


def check_local(path: Path, option: str = "--out") -> None:
    """Raise RequestError for a URL that is taken for a path of this machine, which makes ./s3:."""
    if ":/" in str(path):
        url = re.sub(":/+", "://", str(path), count=1)  # a Path has lost one
        raise RequestError(
            f"{option} {url}: only local or mounted folders can be used here: copy it"
        )


_OF_FILES = {
    f".{kind}"
    for kind in ["arrow", "csv", "html", "json", "jsonl", "npy", "parquet", "tar", "tsv", "txt"]
}
"""Suffixes that a new folder isn't meant to have."""


def check_folder(folder: Path, option: str = "--out") -> None:
    """Raise RequestError where no output can be written to the folder; nothing is made yet."""
    check_name(folder, option)
    if folder.suffix.lower() in _OF_FILES and not folder.exists():
        fix = f"leave out {folder.suffix}"
        raise RequestError(f"{option} {folder}: is called as a file, and would be a folder: {fix}")
    if is_stored(folder):
        if folder.is_file():
            raise RequestError(f"{option} {folder}: is a file, not a folder")
        return
    existing = _existing(folder)
    if not existing.is_dir():
        raise RequestError(f"{option} {folder}: {existing} is a file, not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RequestError(f"{option} {folder}: {existing} can't be written to")


def check_names(folder: Path, names: Iterable[str], option: str = "--out") -> None:
    """Raise RequestError where an output would have a longer path than the file system allows.

    `names` are paths below the folder.
    """
    if is_stored(folder):
        folders.check_lengths(folder, names, option)
        return
    if not hasattr(os, "pathconf"):  # Windows, where whoever writes finds out
        return
    existing = _existing(folder)
    longest, most = (os.pathconf(existing, f"PC_{what}_MAX") for what in ("NAME", "PATH"))
    start = len(os.fsencode(folder.absolute())) + 1
    for name in names:
        parts = (*folder.parts, *PurePosixPath(name).parts)
        too_long = next((part for part in parts if len(os.fsencode(part)) > longest), None)
        if too_long is not None or start + len(os.fsencode(name)) >= most:
            raise RequestError(
                f"{option} {folder}: a name of more than {longest} bytes, or a path of {most}, "
                f"can't be written: {too_long or name}; rename it"
            )


def _existing(folder: Path) -> Path:
    """The innermost of a folder and those around it that is there."""
    for path in (folder, *folder.absolute().parents):
        with suppress(OSError):
            path.stat()
            return path
    return Path("/")


def make_folder(folder: Path) -> None:
    """Make an output's folder; raises RequestError where that can't be done."""
    if is_stored(folder):  # which is there with its first object
        return
    try:
        Path(os.path.realpath(folder)).mkdir(parents=True, exist_ok=True)  # also where a link leads
    except OSError as error:
        raise RequestError(f"--out {folder}: can't be made: {error}") from error


def check_outside(out: Path, sources: Sequence[str]) -> None:
    """Raise RequestError where an output would lie in a folder that samples are read from."""
    place = out.resolve()
    for source in sources:
        if is_stored(place):
            around = place_of(source)
            if place.is_relative_to(around) and around.is_dir():
                raise _inside(out, source)
            continue
        if Path(source).is_dir() and Path(source).resolve() in (place, *place.parents):
            raise _inside(out, source)


def _inside(out: Path, source: str) -> RequestError:
    return RequestError(f"--out {out}: is in the SOURCE {source}: choose a folder outside")


def check_apart(out: Path, inputs: Sequence[Path]) -> None:
    """Raise RequestError where an output would be among the files of a table."""
    place = out.resolve()
    for path in inputs:
        given = path.resolve()
        if place == given or given in place.parents or place in given.parents:
            raise RequestError(f"--out {out}: is where the table {path} is: choose another")


# Writing: under a hidden name, which no glob for outputs finds, until all is there


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A new place for a file or folder, which takes the place of `out` if the block succeeds.

    Where `out` is a link, what it leads to is replaced. At a store it is made here, and put there.
    """
    if is_stored(out):
        with folders.staged(out) as local:
            yield local
        return
    check_local(out)
    place = Path(os.path.realpath(out))
    place.parent.mkdir(parents=True, exist_ok=True)
    staging = hidden_place(place / "all" if workplace(place) == place else place)
    try:
        yield staging
        sync(staging)
        if place.is_dir() and staging.is_dir():
            _replace_folder(place, staging)
        else:
            staging.replace(place)
        sync_folder(place.parent)
    finally:
        remove(staging)


def workplace(out: Path) -> Path:
    """The folder in which what takes an output's place is made: the one around it.

    A folder that can't get another name, as it is a mount or those around can't be written to, is
    its own.
    """
    place = Path(os.path.realpath(out))
    can_rename = os.access(place.parent, os.W_OK | os.X_OK) and not place.is_mount()
    return place.parent if can_rename or not place.is_dir() else place


def _replace_folder(place: Path, staging: Path) -> None:
    """Put a folder in the place of another, which takes two steps."""
    old = hidden_place(place, "old")
    try:
        if staging.parent == place:
            raise OSError(errno.EBUSY, "can't be renamed")
        place.rename(old)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        _refill(place, staging)  # a mount stays, what is in it changes
        return
    staging.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _refill(folder: Path, staging: Path) -> None:
    empty(folder)
    for file in sorted(path for path in staging.rglob("*") if path.is_file()):
        target = folder / file.relative_to(staging)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            file.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            write_atomically(target, partial(shutil.copyfile, file))
        sync_folder(target.parent)


def empty(folder: Path) -> None:
    """Remove what is in a folder, and leave the folder, which may be a link or a mount."""
    for path in contents(folder):
        remove_place(path)


def contents(folder: Path) -> list[Path]:
    """What is in a folder, but for what isn't whole, and for locks; [] where there is none."""
    if is_stored(folder):
        return folders.contents(folder)
    return (
        [path for path in folder.iterdir() if not is_hidden(path.name)] if folder.is_dir() else []
    )


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary path)`, and give the file its name once it is safe on disk."""
    with staged(path) as temporary:
        write(temporary)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))


_MANY, _AT_ONCE = 16, 32
"""Files that are worth threads, and how many: the disk takes those that wait in one go."""


def sync(path: Path) -> None:
    """Have a file, or a folder with all that is in it, on disk; many files at a time."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    if len(files) < _MANY:
        deque(map(_sync_file, files), maxlen=0)
    else:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            deque(pool.map(_sync_file, files), maxlen=0)
    for folder in (path, *path.rglob("*")) if path.is_dir() else ():
        if folder.is_dir():
            sync_folder(folder)


def _sync_file(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def sync_folder(folder: Path) -> None:
    """Have a folder's names on disk: without it a power cut may take back a rename."""
    with suppress(OSError):  # a file system that can't, a folder that can't be listed
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


# Journals: a JSON object a line, by which work that was killed goes on where it stopped

T = TypeVar("T")


def begin_journal(path: Path) -> None:
    """Make a journal that holds nothing, where none is there."""
    if not is_stored(path):
        path.touch()
    elif not path.exists():
        folders.append_object(path, b"")


def append_line(path: Path, fields: Mapping[str, Any]) -> None:
    """Add an object to a journal: when this returns, it survives a kill and a power cut."""
    if is_stored(path):
        folders.append_object(path, json.dumps(fields, ensure_ascii=False).encode())
        return
    with path.open("ab") as file:
        # The break comes first: it ends a line that a killed run left half written.
        file.write(f"\n{json.dumps(fields, ensure_ascii=False)}\n".encode())
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path, parse: Callable[[bytes], T]) -> Iterator[T]:
    """What a journal holds, if it is there; a line that was left half written is passed over."""
    if is_stored(path):
        lines = folders.read_objects(path)
    else:
        lines = path.read_bytes().splitlines() if path.exists() else []
    for line in lines:
        with suppress(ValueError):
            yield parse(line)


def check_below(folder: Path, names: Iterable[str]) -> None:
    """Raise RequestError where a name in an output's journal or plan leads out of its folder."""
    parents: dict[PurePosixPath, str] = {}
    place = folder.resolve()
    for name in names:
        path = PurePosixPath(name)
        is_name = bool(path.parts) and "\0" not in name
        if not is_name or path.is_absolute() or ".." in path.parts:
            raise _outside(folder, name)
        parents.setdefault(path.parent, name)
    for parent, name in parents.items():
        if not (folder / parent).resolve().is_relative_to(place):
            raise _outside(folder, name)


def _outside(folder: Path, name: str) -> RequestError:
    why = f"its journal names {name!r}, which is not below it: nothing is touched"
    return not_ours(folder, why)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SAID = (
    *(f"(os error {number})" for number in _FULL),  # a library in Rust
    *(f": {os.strerror(number)}" for number in _FULL),  # DuckDB, of its file
    "max_temp_directory_size",  # DuckDB, of what is left of a disk
)


def is_full(error: BaseException) -> bool:
    """Whether an error, or what it comes from, says that a disk or quota has no room left."""
    return any(
        (isinstance(cause, OSError) and cause.errno in _FULL)
        or any(words in str(cause) for words in _SAID)
        for cause in causes_of(error)
    )


# What an output was made by: the same request, or another one


def is_same_request(
    out: Path, made: Mapping[str, Any], asked: Mapping[str, Any], overwrite: bool = False
) -> bool:
    """Whether an output was made by the request that is carried out now.

    Raises RequestError, naming what differs, where it wasn't and may not be overwritten.
    """
    if made == asked:
        return True
    if not overwrite:
        names = made.keys() | asked.keys()
        raise made_otherwise(out, sorted(n for n in names if made.get(n) != asked.get(n)))
    return False


def made_otherwise(out: Path | str, differences: Sequence[str]) -> RequestError:
    """The error for an output of the same verb that another request made."""
    return RequestError(
        f"{out} was made with another {', '.join(differences)}; choose another --out, "
        "or --overwrite to start again"
    )


def not_ours(out: Path, why: str, replaceable: bool = False) -> RequestError:
    """The error for a place that holds something that the verb doesn't make."""
    fix = "choose another --out, or --overwrite" if replaceable else "choose another --out"
    return RequestError(f"--out {out}: {why}; {fix}")


def check_unused(out: Path) -> None:
    """Raise RequestError where a folder holds files; asked where nothing of the verb is in it."""
    inside = (path for top in contents(out) for path in (top, *top.rglob("*")) if path.is_file())
    names = (path.relative_to(out) for path in inside)
    shown = (name for name in names if not any(part.startswith(".") for part in name.parts))
    if (found := next(shown, None)) is not None:
        raise not_ours(out, f"holds {found}, and nothing of this command's")


def check_file(
    out: Path, what: str, is_ours: Callable[[Path], bool], overwrite: bool | None = None
) -> None:
    """Raise RequestError where a file can't be written, or where a file of another kind is.

    `overwrite` says whether that one is replaced all the same; None: it never is.
    """
    check_name(out)
    if out.is_dir():
        raise RequestError(f"--out {out}: is a folder; name a file")
    check_folder(out.absolute().parent)
    if out.exists() and not overwrite and not is_ours(out):
        raise not_ours(out, f"there, and not {what}", replaceable=overwrite is not None)


def read_record(out: Path, name: str, verb: str, kind: TypeAdapter[Any] = OBJECT) -> Any:
    """What the JSON record in an output folder says, of a kind; None where a run has to begin.

    Raises RequestError for a folder that holds anything else.
    """
    if not contents(out):
        return None
    try:
        return read_json_file(out / name, kind, f"not made by {verb}, choose another --out")
    except FileNotFoundError:
        raise not_ours(out, f"not empty, and not made by {verb}") from None


def remove_own(out: Path, names: Sequence[str]) -> None:
    """Remove what an earlier run of a verb left in its folder: these names, and only these."""
    for name in names:
        remove_place(out / name)


def remove_place(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, if it is there."""
    if is_stored(path):
        path.remove()
    else:
        remove(path)
