"""Work shared out over several workers, such as shards, each with a model of its own: one queue.

A worker is a process of this machine (`processes.py`) or an actor of a Ray cluster (`ray.py`); what
both can be asked is `Workers`. A worker that dies costs the work on its item: that is begun again
by the next one that is idle.
"""

import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from mmsieve.engine.job import ShardJob, ShardReport, ShardWorker
from mmsieve.errors import DeviceError, MmsieveError, ShardError
from mmsieve.patience import Patience
from mmsieve.progress import Advance
from mmsieve.resources import measure
from mmsieve.sanitize import write
from mmsieve.sources import Shard
from mmsieve.tables import product_version
from mmsieve.wording import counted

_ATTEMPTS = 3
"""How often an item is begun before its worker's death is held against it."""
_DEADLY = f"its worker died {_ATTEMPTS} times (a crash in a decoder, or out of memory)"
_MOST_DEATHS = 10
"""Of workers that start, one after the other without one that succeeds."""
TICK = 1.0
"""Seconds after which is looked again whether anything has happened."""


class WorkerError(Exception):
    """What a call to a worker raised, in one line; `__cause__` is it, where it could travel."""

    def __init__(self, line: str, details: str | None = None) -> None:
        super().__init__(line)
        self.details = details
        """With a traceback."""


class WorkerDied(WorkerError):  # noqa: N818 - what it is, in the words of the field
    """The worker is gone, and its call with it."""


@dataclass(frozen=True)
class Failure:
    """Why nothing came of an item."""

    problem: str
    details: str | None = None
    """With a traceback."""


class Named(Protocol):
    """An item of work."""

    @property
    def name(self) -> str:
        """What it is called."""


T = TypeVar("T", bound=Named)


class Workers(Protocol):
    """Starts workers and calls their methods (those of `Actor`) without waiting."""

    name: str
    """What one is, in words: `Ray actor`."""
    grows: bool
    """Whether there may be place for more of them later on."""

    def start(self) -> Any:
        """A new worker, which may have to wait for its place."""

    def call(self, worker: Any, method: str, *given: Any) -> Any:
        """Begin a call; what is returned stands for its result."""

    def wait(self, calls: Sequence[Any]) -> Any | None:
        """The first of these calls that has ended; None where none has after a while."""

    def result(self, call: Any) -> Any:
        """What an ended call returned; raises WorkerError for what it raised."""

    def end(self, worker: Any) -> None:
        """End a worker, whatever it does."""

    def wanted(self) -> str:
        """What a worker needs that waits for its place, and what there is, in words."""


class Actor:
    """Does work somewhere else: it has its place, loads what it needs, then is given items."""

    def answer(self, version: str) -> None:
        """Answers once the worker has its place; raises MmsieveError for another version there."""
        if version != product_version():
            raise MmsieveError(
                f"{socket.gethostname()} has mmsieve {product_version()}, and the run is of "
                f"{version}: install the same on each node"
            )

    def load(self) -> None:
        """Load the model, if any."""

    def close(self) -> None:
        """End its processes and threads."""


class ShardActor(Actor):
    """A ShardWorker somewhere else: loads the model once, then takes one shard after another."""

    def __init__(self, job: ShardJob, workers: int, advance: Advance | None = None) -> None:
        self._job, self._workers, self._advance = job, workers, advance
        self._worker: ShardWorker | None = None

    def load(self) -> None:
        """Load the model."""
        self._worker = ShardWorker(self._job, self._workers, self._advance)

    def run(self, shard: Shard) -> ShardReport:
        """One shard's report."""
        assert self._worker is not None, "loads the model first"
        return replace(next(self._worker.run([shard])), use=measure())

    def close(self) -> None:
        """End its processes and threads."""
        if self._worker is not None:
            self._worker.close()


def run_shards(
    workers: Workers, size: int, shards: Sequence[Shard], patience: Patience
) -> Iterator[tuple[Shard, ShardReport]]:
    """Shards and their reports, as they end."""
    for shard, found in run_crew(workers, size, shards, patience):
        if isinstance(found, Failure):
            found = ShardReport(shard=shard.name, problem=found.problem, details=found.details)
        yield shard, found


def run_crew(
    workers: Workers,
    size: int,
    items: Sequence[T],
    patience: Patience,
    is_enough: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[T, Any]]:
    """What came of each item, or its Failure, as they end.

    One whose worker dies is begun again, a few times. `size`: workers at first. `is_enough`: asked
    while nothing ends, by whoever waits for this in another thread; the rest is then left.
    """
    patience.renew()
    crew: _Crew[T] = _Crew(workers, min(size, len(items)), patience)
    waiting = deque((item, 1) for item in items)
    try:
        while waiting or crew.busy:
            while waiting and crew.idle:
                crew.begin(*waiting.popleft())
            crew.grow(len(waiting))
            ended = crew.wait()
            if ended is None:
                if is_enough():
                    return
                continue
            item, attempt, found = ended
            if found is None and attempt < _ATTEMPTS:
                waiting.append((item, attempt + 1))
                continue
            yield item, found or Failure(_DEADLY)
            patience.renew()  # whoever took it may have been long about it
    finally:
        crew.dismiss()


class _Crew(Generic[T]):
    """The workers: without a place yet, loading the model, idle, or busy with an item."""

    def __init__(self, workers: Workers, size: int, patience: Patience) -> None:
        self._workers, self._patience = workers, patience
        self._deaths = self._missing = 0
        self._began = self._is_said = False
        self.idle: list[Any] = []
        self._unplaced: dict[Any, Any] = {}
        self._loading: dict[Any, Any] = {}
        self.busy: dict[Any, tuple[Any, T, int]] = {}
        for _ in range(max(size, 1)):
            self._hire()

    def begin(self, item: T, attempt: int) -> None:
        """Give an item to an idle worker."""
        worker = self.idle.pop()
        self.busy[self._workers.call(worker, "run", item)] = (worker, item, attempt)

    def grow(self, waiting: int) -> None:
        """Ask for as many workers again as have a place, where that may bring more of them."""
        placed = len(self._loading) + len(self.idle) + len(self.busy)
        may = self._workers.grows and not self._missing  # where one can't start no more are tried
        wanted = min(placed, waiting - len(self._loading)) if may else 0
        for _ in range(wanted - len(self._unplaced)):
            self._hire()

    def wait(self) -> tuple[T, int, Any] | None:
        """The next item that ends, and what came of it: None where its worker died. None: none yet.

        Raises MmsieveError where nothing happens for too long, or no worker can start.
        """
        ended = self._workers.wait([*self._unplaced, *self._loading, *self.busy])
        if ended is None:
            if not self.busy:
                self._patience.check(self._describe)
            return None
        if ended not in self.busy:
            self._settle(ended)
            return None
        self._patience.renew()
        worker, item, attempt = self.busy.pop(ended)
        try:
            found = self._workers.result(ended)
        except WorkerError as error:
            cause = error.__cause__
            if isinstance(error, WorkerDied) or isinstance(cause, DeviceError):
                self._workers.end(worker)
                self._hire()
                return item, attempt, None
            if isinstance(cause, MmsieveError) and not isinstance(cause, ShardError):
                raise cause from error
            found = Failure(str(error), error.details)
        self.idle.append(worker)
        return item, attempt, found

    def dismiss(self) -> None:
        """End the workers."""
        busy = [worker for worker, _, _ in self.busy.values()]
        for worker in [*self.idle, *self._unplaced.values(), *self._loading.values(), *busy]:
            self._workers.end(worker)

    def _hire(self) -> None:
        worker = self._workers.start()
        self._unplaced[self._workers.call(worker, "answer", product_version())] = worker

    def _settle(self, ended: Any) -> None:
        """A worker has its place, or its model, or can't have them."""
        is_placed = ended in self._unplaced
        worker = (self._unplaced if is_placed else self._loading).pop(ended)
        try:
            self._workers.result(ended)
        except WorkerError as error:
            self._workers.end(worker)
            self._replace(error)
            return
        self._patience.renew()
        if is_placed:
            self._loading[self._workers.call(worker, "load")] = worker
            return
        self._began, self._deaths = True, 0
        self.idle.append(worker)
        while self._missing:  # it can be done: tried again for those that could not
            self._missing -= 1
            self._hire()

    def _replace(self, error: WorkerError) -> None:
        """One could not start: another is tried once it is seen that one can, a few times.

        Then the others do its work; raises MmsieveError where there are none.
        """
        self._deaths += 1
        has_others = self.idle or self._unplaced or self._loading or self.busy
        if has_others and not self._is_said:
            self._is_said = True
            write(f"a {self._workers.name} could not start: {error}; the others go on", sys.stderr)
        if self._began and self._deaths < _MOST_DEATHS:
            self._hire()
        elif has_others:
            self._missing += 1
        elif isinstance(error.__cause__, MmsieveError):
            raise error.__cause__
        else:
            raise MmsieveError(f"no {self._workers.name} could start: {error}") from error

    def _describe(self) -> str:
        """What is waited for while nothing is done."""
        if self._loading:
            return f"{counted(len(self._loading), f'{self._workers.name}s')} to load the model"
        return self._workers.wanted()
