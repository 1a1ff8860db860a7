"""What isn't whole yet, and what killed runs left: hidden names that say whose they are.

A file or folder in the making is called `.NAME.HOST-PID-RANDOM.tmp`, a temporary folder
`mmsieve-HOST-PID-RANDOM`. So whoever comes next can tell what a dead process left from what a
living one still needs.
"""

import hashlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from uuid import uuid4

_MARK = r"(?P<host>[0-9a-f]{8})-(?P<pid>[0-9]+)-[0-9a-f]{8}"
_ANY = rf"(?:{_MARK}|[0-9a-f]{{32}})"
"""(32 digits alone: from before the names said whose they are.)"""
_HIDDEN = re.compile(rf"(?s:\..+)\.{_ANY}\.(?:tmp|old)")
_LOCK = re.compile(r"(?s:\..+)\.(?:lock(?:\.json)?|leases|run)")
_SCRATCH = re.compile(r"mmsieve-(?P<host>[0-9a-f]{8})-(?P<pid>[0-9]+)-.+")
_LONGEST = 120
"""Bytes of an output's name that a hidden name repeats: file systems allow 255 in all."""


@cache
def host() -> str:
    """This machine, or this container where process numbers are its own, in eight letters."""
    space = ""
    with suppress(OSError):
        space = str(Path("/proc/self/ns/pid").readlink())
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]


def is_alive(machine: str | None, process: str | int) -> bool | None:
    """Whether a process of a machine, as of `host`, is there; None where nobody here can know."""
    if machine != host():
        return None
    return is_process(int(process))


def is_process(number: int) -> bool:
    """Whether a process of this machine has the number."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def hidden_name(name: str, ending: str) -> str:
    """`.NAME.ENDING`, where a long name is cut and told from others by a digest."""
    data = os.fsencode(name)
    if len(data) > _LONGEST:
        digest = hashlib.sha256(data).hexdigest()[:8]
        name = f"{data[:_LONGEST].decode('utf-8', 'ignore')}~{digest}"
    return f".{name}.{ending}"


def hidden_place(path: Path, ending: str = "tmp") -> Path:
    """A new name beside a path for what is to take its place, or was there before."""
    return path.with_name(
        hidden_name(path.name, f"{host()}-{os.getpid()}-{uuid4().hex[:8]}.{ending}")
    )


def leftovers_of(path: Path, ending: str = "tmp") -> list[Path]:
    """What is beside a path under such names, of living processes too."""
    name = re.compile(re.escape(hidden_name(path.name, "")) + rf"{_ANY}\.{ending}")
    with suppress(FileNotFoundError):
        return [entry for entry in path.parent.iterdir() if name.fullmatch(entry.name)]
    return []


def leftovers_in(folder: Path, alone: bool) -> Iterator[Path]:
    """What killed runs left in a folder and below.

    `alone`: nobody else writes there, so what isn't a living process's of this machine is a dead
    one's of another; otherwise those are left.
    """
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            own = _HIDDEN.fullmatch(name)
            if own is None:
                continue
            if name in folders:
                folders.remove(name)
            alive = is_alive(own["host"], own["pid"])
            if alive is False or (alive is None and alone):
                yield Path(place, name)


def is_hidden(name: str) -> bool:
    """Whether a name is one of what isn't whole, of a lock, or of a record of runs."""
    return _HIDDEN.fullmatch(name) is not None or _LOCK.fullmatch(name) is not None


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder; those that this user's killed runs left are removed first."""
    remove_scratch_of_dead()
    folder = Path(tempfile.mkdtemp(prefix=f"mmsieve-{host()}-{os.getpid()}-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def remove_scratch_of_dead() -> None:
    """Remove the temporary folders that this user's killed runs left; once is enough."""
    with suppress(OSError):
        for entry in os.scandir(tempfile.gettempdir()):
            own = _SCRATCH.fullmatch(entry.name)
            if own is None or not entry.is_dir(follow_symlinks=False):
                continue
            if _is_own(entry) and is_alive(own["host"], own["pid"]) is False:
                shutil.rmtree(entry.path, ignore_errors=True)


def _is_own(entry: os.DirEntry[str]) -> bool:
    """Whether this user made it; on Windows the temporary folder is the user's own."""
    is_shared = hasattr(os, "getuid")
    return not is_shared or entry.stat(follow_symlinks=False).st_uid == os.getuid()
