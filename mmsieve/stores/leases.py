"""One run at a time writes an output at a store: leases beside it that say who holds them.

A lease is an object of its own, so stores need no conditional put for it: who wants to write puts
one, then lists all, and holds the output where no other lease stands against its own. Of two that
begin at once both see the other, or one does, and whoever sees the other withdraws. That needs a
list that shows what was put before, as S3, GCS, Azure, MinIO and Ceph give.

The lease of a run that was killed is told by its process on this machine, and elsewhere by its
beat, which stands still.
"""

import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from threading import Event, Thread
from uuid import uuid4

from pydantic import TypeAdapter

from mmsieve.errors import RequestError
from mmsieve.leftovers import hidden_name, host, is_alive
from mmsieve.sanitize import write
from mmsieve.stores.paths import StorePath, forbid


@dataclass(frozen=True)
class LeaseTimes:
    """How fast leases beat, in seconds; tests have a faster one."""

    beat: float = 20.0
    stale: float = 60.0
    """After so long without a beat, by this machine's clock, it is watched whether it beats."""
    poll: float = 5.0
    """Between two looks of a run that waits."""
    tie: float = 0.5
    """About so long one of two that began at once stays away."""
    tries: int = 12
    sleep: Callable[[float], object] = field(default=time.sleep)


@dataclass(frozen=True, kw_only=True)
class LeaseRecord:
    """What a lease says of the run that has it."""

    verb: str
    host: str = ""
    """The machine's name, for people."""
    process: int = 0
    since: str = ""
    part: str | None = None
    request: dict[str, str] = field(default_factory=dict)
    machine: str = ""
    """As of `leftovers.host`."""
    held: bool = False
    """Whether it holds the output, and doesn't only try to."""
    beat: int = 0
    at: float = 0.0
    """When it beat last, by its clock."""


_RECORD = TypeAdapter(LeaseRecord)
Conflict = Callable[[LeaseRecord], bool]
"""Whether a run with such a record may not write at the same time; it may raise RequestError."""
Said = Callable[[LeaseRecord], str]
"""A run's record in words."""


class Lease:
    """A run's own lease of an output."""

    def __init__(
        self, out: StorePath, record: LeaseRecord, times: LeaseTimes | None = None
    ) -> None:
        self._out, self._times = out, times or LeaseTimes()
        self._path = _folder(out) / f"{uuid4().hex[:12]}.json"
        self._record = replace(record, machine=host())
        self._beats = 0
        self._ended = Event()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the lease that was got, and give it back in the end."""
        thread = Thread(target=self._keep, name="mmsieve-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
            forbid(self._out, False)
            with suppress(OSError):  # it will be found dead
                self._path.unlink(missing_ok=True)

    def get(self, conflicts: Conflict, wait: bool, said: Said) -> None:
        """Get the lease; raises RequestError where another run has one, unless to `wait`."""
        tries, told = 0, False
        while True:
            self._put(held=False)
            try:
                other = next(self._against(conflicts), None)
                if other is None:
                    self._put(held=True)
                    return
            except BaseException:
                self._path.unlink(missing_ok=True)
                raise
            self._path.unlink(missing_ok=True)
            tries += 1
            if not other.held and tries < self._times.tries:
                self._times.sleep(random.uniform(0.5, 2) * self._times.tie)  # noqa: S311
                continue
            who = said(other)
            if not wait:
                raise RequestError(
                    f"--out {self._out}: another run is writing there{who}: let it end, or say "
                    "--wait"
                )
            if not told:
                write(f"--out {self._out}: waiting for the run that writes there{who}", sys.stderr)
            told = True
            self._times.sleep(random.uniform(0.5, 1.5) * self._times.poll)  # noqa: S311

    def _put(self, held: bool) -> None:
        self._beats += 1
        record = replace(self._record, held=held, beat=self._beats, at=time.time())
        self._path.write_bytes(_RECORD.dump_json(record))

    def _against(self, conflicts: Conflict) -> Iterator[LeaseRecord]:
        """Leases of living runs that stand against this one; those of dead ones are removed."""
        for path in leases_of(self._out):
            if path == self._path or (other := _read(path)) is None:
                continue
            if self._is_dead(path, other):
                path.unlink(missing_ok=True)
            elif conflicts(other):
                yield other

    def _is_dead(self, path: StorePath, other: LeaseRecord) -> bool:
        alive = is_alive(other.machine, other.process)
        if alive is not None:
            return not alive
        if time.time() - other.at < self._times.stale:  # clocks may differ: then it is waited for
            return False
        self._times.sleep(1.5 * self._times.beat)
        after = _read(path)
        return after is not None and after.beat == other.beat

    def _keep(self) -> None:
        """Beat until the end; whoever finds that the lease was taken away writes no more."""
        while not self._ended.wait(self._times.beat):
            with suppress(OSError):  # a store that is away now may be there at the next beat
                if not self._path.exists():
                    forbid(self._out)
                    return
                self._put(held=True)


def leases_of(out: StorePath) -> list[StorePath]:
    """The leases beside an output."""
    return list(_folder(out).sizes())


def read_leases(out: StorePath) -> list[LeaseRecord]:
    """What the leases beside an output say, of those that hold it."""
    found = [_read(path) for path in leases_of(out)]
    return [record for record in found if record is not None and record.held]


def _folder(out: StorePath) -> StorePath:
    return out.with_name(hidden_name(out.name, "leases"))


def _read(path: StorePath) -> LeaseRecord | None:
    """What a lease says; None where it is gone again, or isn't one."""
    try:
        return _RECORD.validate_json(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
