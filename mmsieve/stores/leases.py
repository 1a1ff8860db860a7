"""One run at a time writes an output at a store: leases beside it that say who holds them.

A lease is an object of its own, so stores need no conditional put for it: who wants to write puts
one, then lists all, and holds the output where no other lease stands against its own. Of two that
begin at once both see the other, or one does, and whoever sees the other withdraws. That needs a
list that shows what was put before, as S3, GCS, Azure, MinIO and Ceph give.

The lease of a run that was killed is told by its process on this machine, and elsewhere by its
beat, which stands still.
"""

import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Event, Thread
from typing import Any
from uuid import uuid4

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


@dataclass(frozen=True)
class Holder:
    """Another run's lease, and what it says of itself."""

    path: StorePath
    record: Mapping[str, Any]

    @property
    def has_begun(self) -> bool:
        """Whether it holds the output, and doesn't only try to."""
        return bool(self.record.get("held"))


Conflict = Callable[[Mapping[str, Any]], bool]
"""Whether a run with such a record may not write at the same time; it may raise RequestError."""


class Lease:
    """A run's own lease of an output."""

    def __init__(
        self, out: StorePath, record: Mapping[str, Any], times: LeaseTimes | None = None
    ) -> None:
        self._out, self._times = out, times or LeaseTimes()
        self._path = _folder(out) / f"{uuid4().hex[:12]}.json"
        self._record = dict(record) | {"machine": host()}
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

    def get(self, conflicts: Conflict, wait: bool, said: Callable[[Any], str]) -> None:
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
            if not other.has_begun and tries < self._times.tries:
                self._times.sleep(random.uniform(0.5, 2) * self._times.tie)  # noqa: S311
                continue
            who = said(other.record)
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
        record = self._record | {"held": held, "beat": self._beats, "at": time.time()}
        self._path.write_bytes(json.dumps(record).encode())

    def _against(self, conflicts: Conflict) -> Iterator[Holder]:
        """Leases of living runs that stand against this one; those of dead ones are removed."""
        for path in leases_of(self._out):
            if path == self._path or (holder := _read(path)) is None:
                continue
            if self._is_dead(holder):
                path.unlink(missing_ok=True)
            elif conflicts(holder.record):
                yield holder

    def _is_dead(self, holder: Holder) -> bool:
        alive = is_alive(holder.record.get("machine"), holder.record.get("process") or 0)
        if alive is not None:
            return not alive
        age = time.time() - float(holder.record.get("at") or 0)
        if age < self._times.stale:  # clocks may differ: it may be dead, and is waited for
            return False
        self._times.sleep(1.5 * self._times.beat)
        after = _read(holder.path)
        return after is not None and after.record.get("beat") == holder.record.get("beat")

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


def _folder(out: StorePath) -> StorePath:
    return out.with_name(hidden_name(out.name, "leases"))


def _read(path: StorePath) -> Holder | None:
    """What a lease says; None where it is gone again, or isn't one."""
    try:
        found: object = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return Holder(path, found) if isinstance(found, dict) else None
