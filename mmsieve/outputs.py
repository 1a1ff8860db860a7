"""Outputs of verbs: where they may be written, and what the one that is there was made by.

Every output says which request made it: tables and decisions in their headers, an export in its
journal, a generation and a training in a JSON record, a page in its title. Here is decided what
that means for the next request: start, go on, nothing to do, or a RequestError that says the fix.
Files and folders get their names when they are whole, and nothing is removed that isn't a verb's.
"""

import glob
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from pydantic import TypeAdapter

from mmsieve.errors import RequestError
from mmsieve.validated import OBJECT, read_json_file

# Places: folders that can be written, apart from what is read


def check_folder(folder: Path) -> None:
    """Raise RequestError where no output can be written to the folder; nothing is made yet."""
    if "://" in str(folder) or ":/" in str(folder):
        raise RequestError(f"--out {folder}: tables are written to local or mounted folders")
    existing = next((path for path in (folder, *folder.absolute().parents) if path.exists()), None)
    if existing is None or not existing.is_dir():
        raise RequestError(f"--out {folder}: {existing} is a file, not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise RequestError(f"--out {folder}: {existing} can't be written to")


def make_folder(folder: Path) -> None:
    """Make an output's folder; raises RequestError where that can't be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--out {folder}: can't be made: {error}") from error


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
    """A new place for a file or folder, which takes the place of `out` if the block succeeds."""
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out)
    staging = _hidden(out)
    try:
        yield staging
        if out.is_dir() and staging.is_dir():  # a folder can't be replaced in one step
            old = _hidden(out)
            out.rename(old)
            staging.rename(out)
            shutil.rmtree(old, ignore_errors=True)
        else:
            staging.replace(out)
    finally:
        remove(staging)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary path)`, and give the file its name once it is safe on disk."""
    with staged(path) as temporary:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))


def remove_leftovers(out: Path) -> None:
    """Remove what a killed run left of an output: only one run at a time writes it."""
    unique = "[0-9a-f]" * 32  # not *: another shard's name may begin with this one's
    for leftover in out.parent.glob(f".{glob.escape(out.name)}.{unique}.tmp"):
        remove(leftover)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid4().hex}.tmp")


# Journals: a JSON object a line, by which work that was killed goes on where it stopped

T = TypeVar("T")


def append_line(path: Path, fields: Mapping[str, Any]) -> None:
    """Add an object to a journal: when this returns, it survives a kill and a power cut."""
    with path.open("ab") as file:
        # The break comes first: it ends a line that a killed run left half written.
        file.write(f"\n{json.dumps(fields, ensure_ascii=False)}\n".encode())
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path, parse: Callable[[bytes], T]) -> Iterator[T]:
    """What a journal holds, if it is there; a line that was left half written is passed over."""
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with suppress(ValueError):
            yield parse(line)


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


def made_otherwise(out: Path, differences: Sequence[str]) -> RequestError:
    """The error for an output of the same verb that another request made."""
    return RequestError(
        f"{out} was made with another {', '.join(differences)}; choose another --out, "
        "or --overwrite to start again"
    )


def not_ours(out: Path, why: str, replaceable: bool = False) -> RequestError:
    """The error for a place that holds something that the verb doesn't make."""
    fix = "choose another --out, or --overwrite" if replaceable else "choose another --out"
    return RequestError(f"--out {out}: {why}; {fix}")


def check_file(
    out: Path, what: str, is_ours: Callable[[Path], bool], overwrite: bool | None = None
) -> None:
    """Raise RequestError where a file can't be written, or where a file of another kind is.

    `overwrite` says whether that one is replaced all the same; None: it never is.
    """
    if out.is_dir():
        raise RequestError(f"--out {out}: is a folder; name a file")
    check_folder(out.absolute().parent)
    if out.exists() and not overwrite and not is_ours(out):
        raise not_ours(out, f"there, and not {what}", replaceable=overwrite is not None)


def check_empty(out: Path) -> None:
    """Raise RequestError where a folder can't be made because something is there."""
    check_folder(out)
    if out.is_dir() and any(out.iterdir()):
        raise not_ours(out, "not empty")


def read_record(
    out: Path,
    name: str,
    verb: str,
    unfinished: Sequence[str] = (),
    kind: TypeAdapter[Any] = OBJECT,
) -> Any:
    """What the JSON record in an output folder says, of a kind; None where a run has to begin.

    `unfinished` are folders of which one alone, without the record, shows that the verb was
    interrupted. Raises RequestError for a folder that holds anything else.
    """
    if not out.is_dir() or not any(out.iterdir()):
        return None
    try:
        return read_json_file(out / name, kind, f"not made by {verb}, choose another --out")
    except FileNotFoundError:
        if any((out / part).is_dir() for part in unfinished):
            return None
        raise not_ours(out, f"not empty, and not made by {verb}") from None


def remove_own(out: Path, names: Sequence[str]) -> None:
    """Remove what an earlier run of a verb left in its folder: these names, and only these."""
    for name in names:
        remove(out / name)
