"""One run at a time writes an output: locks beside it that say who holds them.

The lock is the kernel's (flock, on network disks too), so a dead run's is free at once; where a
file system has none, filelock makes do with marker files. Parts of a job array (--part I/N) have a
lock each, and are free of each other as long as they make the same table.
"""

import errno
import hashlib
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from mmsieve.errors import RequestError
from mmsieve.leftovers import (
    hidden_name,
    is_alive,
    is_process,
    leftovers_in,
    leftovers_of,
    remove,
    remove_scratch_of_dead,
)
from mmsieve.outputs import check_folder, made_otherwise, workplace
from mmsieve.runs import RunFiles, current_run, part_name
from mmsieve.sanitize import write
from mmsieve.stores import folders
from mmsieve.stores.leases import Lease, LeaseRecord, LeaseTimes, read_leases
from mmsieve.stores.paths import StorePath, as_path, is_stored

_BEGINNING = 60.0
"""Seconds in which a thousand parts that begin at once have all had the lock of all in turn."""
_WAIT, _POLL = 0.5, 0.02
_SILENCE = 300.0
"""Seconds without a beat after which whoever only looks takes a lease for a dead run's."""
_WITHIN = "mmsieve"
"""What locks are called that lie in their output."""


@contextmanager
def writing_to(
    out: Path,
    verb: str,
    *,
    wait: bool = False,
    dry_run: bool = False,
    part: str | None = None,
    request: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Hold the lock of an output while it is written, after what killed runs left is removed.

    A run of a verb is recorded from now on, and holds the lock until it ends.
    With `part`, I/N, other parts that carry out the same `request` may write there too. A
    `dry_run` holds and removes nothing. Raises RequestError where another run holds the lock,
    unless it shall `wait` for that.
    """
    if dry_run:
        yield
        return
    asked = {name: _digest(value) for name, value in (request or {}).items()}
    with ExitStack() as held:
        if is_stored(out):
            held.enter_context(_lease(out, _record(verb, part, asked), wait))
            files = RunFiles.of(as_path(out.parent), out.name, part)
        else:
            files = _hold_locks(out, verb, wait, part, asked, held)
        remove_scratch_of_dead()
        if (run := current_run()) is None:
            yield
            return
        run.attach(files, out)
        if request is not None:
            run.note(fingerprint=dict(request))
        try:
            yield
        except BaseException as error:
            run.fail(error)
            raise
        run.held.push(held.pop_all())


def _hold_locks(
    out: Path, verb: str, wait: bool, part: str | None, asked: dict[str, str], held: ExitStack
) -> RunFiles:
    """Hold the locks of an output on a disk, and clear it; returns where its runs are recorded."""
    place = Path(os.path.realpath(out))
    own, name = _lock_place(place)
    made = [folder for folder in (own, *own.parents) if not folder.exists()]
    whole = _Lock(own / hidden_name(name, "lock"), out)
    start = hidden_name(name, "part-")
    held.callback(_remove_empty, made)
    if part is None:
        held.enter_context(whole.hold(wait, _record(verb, None, asked)))
        for other in _locks(own, start):
            with _Lock(other, out).hold(wait):
                pass
    else:
        lock = _Lock(own / f"{start}{part_name(part)}.lock", out)
        if wait:  # not while others need the lock of all
            with lock.hold(wait):
                pass
        with whole.hold(wait):
            _check_parts(_locks(own, start), out, asked)
            held.enter_context(lock.hold(False, _record(verb, part, asked)))
    _clear(place, alone=part is None)
    return RunFiles.of(own, name, part)


@dataclass(frozen=True)
class Holder:
    """Who says that it writes an output, and whether it is still there."""

    verb: str
    part: str | None
    host: str
    process: int
    since: datetime
    lives: bool | None = None
    """None: there are no locks of the kernel here, and the process is another machine's."""


_HOLDER = TypeAdapter(Holder)


def find_holders(place: Path) -> list[Holder]:
    """Those whose locks of an output are there, of living and dead runs; nothing is changed."""
    if is_stored(place):
        return [_leaseholder(record) for record in read_leases(place) if record.since]
    found = []
    for folder, name in lock_places(place):
        whole = folder / hidden_name(name, "lock")
        paths = [whole, *_locks(folder, hidden_name(name, "part-"))] if folder.is_dir() else []
        for path in paths:
            with suppress(OSError, ValidationError):  # let go in this moment
                holder = _HOLDER.validate_json(_about(path).read_bytes())
                found.append(replace(holder, lives=_is_held(path, holder)))
    return found


def _leaseholder(record: LeaseRecord) -> Holder:
    """Who has a lease; clocks may differ, so that only a long silence says that it is dead."""
    since = datetime.fromisoformat(record.since)
    lives = is_alive(record.machine, record.process)
    if lives is None:
        silence, times = time.time() - record.at, LeaseTimes()
        lives = True if silence < times.stale else False if silence > _SILENCE else None
    return Holder(record.verb, record.part, record.host, record.process, since, lives)


def _is_held(path: Path, holder: Holder) -> bool | None:
    """Whether a process has the lock; it is only looked at."""
    with suppress(ImportError, OSError):  # Windows; a file system without locks
        import fcntl

        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False
    return is_process(holder.process) if holder.host == socket.gethostname() else None


def lock_places(place: Path) -> list[tuple[Path, str]]:
    """Folders in which an output's locks may lie, and the names that they begin with."""
    if is_stored(place):
        return [(as_path(place.parent), place.name)]
    return [(place.parent, place.name), (place, _WITHIN)]


def _lock_place(place: Path) -> tuple[Path, str]:
    """The one of these that serves now."""
    own = workplace(place)
    return own, _WITHIN if own == place else place.name


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove the folders that were made, where nothing was written."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def _lease(out: StorePath, record: dict[str, Any], wait: bool) -> Iterator[None]:
    """Hold the lease of an output at a store."""

    def conflicts(other: LeaseRecord) -> bool:
        if None in (record["part"], other.part) or record["part"] == other.part:
            return True
        _check_request(str(out), other.request, record["request"])
        return False

    def said(other: LeaseRecord) -> str:
        return _said(asdict(other))

    if not out.parents:
        raise RequestError(f"--out {out}: name a folder in it")
    lease = Lease(out, LeaseRecord(**record))
    try:
        lease.get(conflicts, wait, said)
    except OSError as error:
        raise RequestError(f"--out {out}: can't be written to: {error.strerror}") from error
    with lease.kept():
        if record["part"] is None:
            folders.abort_uploads(out)
        yield


@contextmanager
def working_copy(
    out: Path, verb: str, *, wait: bool = False, dry_run: bool = False
) -> Iterator[Path]:
    """Where an output is made that grows file by file: of one at a store a copy on this machine.

    It begins as what is at the store, or where a killed run of this machine stopped, and is put
    there whole, in the end. What the verb says of it names the output.
    """
    store = out
    if not is_stored(store):
        yield out
        return
    check_folder(out)
    with writing_to(out, verb, wait=wait, dry_run=dry_run):
        work = folders.cache_folder("work", str(out))
        place = work / out.name
        was_whole = not folders.is_in_the_making(out) and store.is_dir()
        if was_whole:
            shutil.rmtree(work, ignore_errors=True)
            folders.fetch(store, place)
        before = folders.stamps(place)
        try:
            yield place
        except RequestError as error:
            raise RequestError(str(error).replace(str(place), str(out))) from error
        if dry_run:
            return
        if place.is_dir() and not (was_whole and folders.stamps(place) == before):
            folders.put_folder(place, store)
        shutil.rmtree(work, ignore_errors=True)


def _locks(folder: Path, start: str) -> list[Path]:
    return [p for p in folder.iterdir() if p.name.startswith(start) and p.suffix == ".lock"]


def _about(path: Path) -> Path:
    """The file beside a lock that says who holds it."""
    return path.with_name(f"{path.name}.json")


class _Lock:
    """A lock file, and beside it who holds it."""

    def __init__(self, path: Path, out: Path) -> None:
        self._path, self._out = path, out
        self._about = _about(path)

    @contextmanager
    def hold(self, wait: bool, record: dict[str, Any] | None = None) -> Iterator[None]:
        """Get the lock, say who has it, and leave nothing of it in the end."""
        lock = FileLock(self._path, thread_local=False)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._get(lock, wait)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP):
                write(f"--out {self._out}: no locks here: let no other run write there", sys.stderr)
                yield
                return
            raise RequestError(f"--out {self._out}: can't be locked: {error}") from error
        try:
            self._about.unlink(missing_ok=True)
            if record is not None:
                self._about.write_text(json.dumps(record) + "\n", "utf-8")
            yield
        finally:
            self._let_go(lock)

    def holder(self) -> dict[str, Any] | None:
        """What the run that has the lock says of itself; None where none has it."""
        lock = FileLock(self._path, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return self._read()
        self._let_go(lock)
        return None

    def _let_go(self, lock: FileLock) -> None:
        """Remove the files while they are ours, as a lock on a removed file counts for nothing."""
        with suppress(OSError):
            self._about.unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)
        lock.release()

    def _get(self, lock: FileLock, wait: bool) -> None:
        try:
            lock.acquire(timeout=_BEGINNING, poll_interval=_POLL, cancel_check=self._about.exists)
        except Timeout:
            who = _said(self._read())
            if not wait:
                raise RequestError(
                    f"--out {self._out}: another run is writing there{who}: let it end, or say "
                    "--wait"
                ) from None
            write(f"--out {self._out}: waiting for the run that writes there{who}", sys.stderr)
            lock.acquire(timeout=-1, poll_interval=_WAIT)

    def _read(self) -> dict[str, Any]:
        try:
            found: object = json.loads(self._about.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def _record(verb: str, part: str | None, request: dict[str, str]) -> dict[str, Any]:
    return {
        "verb": verb,
        "part": part,
        "host": socket.gethostname(),
        "process": os.getpid(),
        "since": datetime.now().astimezone().isoformat(" ", "seconds"),
        "request": request,
    }


def _digest(value: str) -> str:
    """What tells values apart, and gives none of them away."""
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _said(record: Mapping[str, Any]) -> str:
    """Who holds a lock, in words."""
    if not record:
        return ""
    part = f" --part {record['part']}" if record.get("part") else ""
    values = (record.get(name) for name in ("process", "host", "since"))
    return f" ({record.get('verb')}{part}, process {{}} on {{}} since {{}})".format(*values)


def _check_parts(locks: Sequence[Path], out: Path, request: dict[str, str]) -> None:
    """Raise RequestError where a part that runs now makes another table; all make the same one."""
    for path in locks:
        holder = _Lock(path, out).holder()
        if holder is None:
            continue
        _check_request(str(out), holder.get("request", {}), request)
        return


def _check_request(out: str, made: Mapping[str, str], request: Mapping[str, str]) -> None:
    names = sorted(n for n in made.keys() | request.keys() if made.get(n) != request.get(n))
    if names:
        raise made_otherwise(out, names)


def _clear(place: Path, alone: bool) -> None:
    """Remove what killed runs left of an output, and put back what one had just taken away."""
    if alone:
        for old in leftovers_of(place, "old"):
            if place.exists():
                remove(old)
            else:
                old.rename(place)
        for left in leftovers_of(place):
            remove(left)
    for left in leftovers_in(place, alone):
        remove(left)
