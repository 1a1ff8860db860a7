"""Shards shared out over several workers, each with a model of its own: one queue, one report.

A worker is a process of this machine (`processes.py`) or an actor of a Ray cluster (`ray.py`); what
both can be asked is `Workers`. A worker that dies costs its shard's work: the shard is begun again
by the next one that is idle.
"""

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from mmsieve.engine.job import ShardJob, ShardReport, ShardWorker
from mmsieve.errors import DeviceError, MmsieveError, ShardError
from mmsieve.patience import Patience
from mmsieve.progress import Advance
from mmsieve.sanitize import write
from mmsieve.sources import Shard
from mmsieve.wording import counted

_ATTEMPTS = 3
"""How often a shard is begun before its worker's death is held against it."""
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


class Workers(Protocol):
    """Starts workers and calls their methods (those of `ShardActor`) without waiting."""

    name: str
    """What one is, in words: `Ray actor`."""

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

    def advance(self, report: ShardReport, shard: Shard) -> None:
        """A shard has ended: show what isn't shown of it yet."""

    def wanted(self) -> str:
        """What a worker needs that waits for its place, and what there is, in words."""


class ShardActor:
    """A ShardWorker somewhere else: loads the model once, then takes one shard after another."""

    def __init__(self, job: ShardJob, workers: int, advance: Advance | None = None) -> None:
        self._job, self._workers, self._advance = job, workers, advance
        self._worker: ShardWorker | None = None

    def answer(self) -> None:
        """Answers once the worker has its place."""

    def load(self) -> None:
        """Load the model."""
        self._worker = ShardWorker(self._job, self._workers, self._advance)

    def run(self, shard: Shard) -> ShardReport:
        """One shard's report."""
        assert self._worker is not None, "loads the model first"
        return next(self._worker.run([shard]))

    def close(self) -> None:
        """End its processes and threads."""
        if self._worker is not None:
            self._worker.close()


def run_crew(
    workers: Workers, size: int, shards: Sequence[Shard], patience: Patience
) -> Iterator[ShardReport]:
    """A report per shard, as they end; a shard whose worker dies is begun again, a few times."""
    crew = _Crew(workers, min(size, len(shards)), patience)
    waiting = deque((shard, 1) for shard in shards)
    try:
        while waiting or crew.busy:
            while waiting and crew.idle:
                crew.begin(*waiting.popleft())
            ended = crew.wait()
            if ended is None:
                continue
            shard, attempt, report = ended
            if report is None and attempt < _ATTEMPTS:
                waiting.append((shard, attempt + 1))
                continue
            report = report or ShardReport(shard=shard.name, problem=_DEADLY)
            workers.advance(report, shard)
            yield report
    finally:
        crew.dismiss()


class _Crew:
    """The workers: without a place yet, loading the model, idle, or busy with a shard."""

    def __init__(self, workers: Workers, size: int, patience: Patience) -> None:
        self._workers, self._patience = workers, patience
        self._deaths = self._missing = 0
        self._began = self._is_said = False
        self.idle: list[Any] = []
        self._unplaced: dict[Any, Any] = {}
        self._loading: dict[Any, Any] = {}
        self.busy: dict[Any, tuple[Any, Shard, int]] = {}
        for _ in range(max(size, 1)):
            self._hire()

    def begin(self, shard: Shard, attempt: int) -> None:
        """Give a shard to an idle worker."""
        worker = self.idle.pop()
        self.busy[self._workers.call(worker, "run", shard)] = (worker, shard, attempt)

    def wait(self) -> tuple[Shard, int, ShardReport | None] | None:
        """The next shard that ends, without a report where its worker died; None: none yet.

        Raises MmsieveError where nothing happens for too long, or no worker can start.
        """
        ended = self._workers.wait([*self._unplaced, *self._loading, *self.busy])
        if ended is None:
            if not self.busy:
                self._patience.check(self._describe)
            return None
        self._patience.renew()
        if ended not in self.busy:
            self._settle(ended)
            return None
        worker, shard, attempt = self.busy.pop(ended)
        try:
            report: ShardReport | None = self._workers.result(ended)
        except WorkerError as error:
            cause = error.__cause__
            if isinstance(error, WorkerDied) or isinstance(cause, DeviceError):
                self._workers.end(worker)
                self._hire()
                return shard, attempt, None
            if isinstance(cause, MmsieveError) and not isinstance(cause, ShardError):
                raise cause from error
            report = ShardReport(shard=shard.name, problem=str(error), details=error.details)
        self.idle.append(worker)
        return shard, attempt, report

    def dismiss(self) -> None:
        """End the workers."""
        busy = [worker for worker, _, _ in self.busy.values()]
        for worker in [*self.idle, *self._unplaced.values(), *self._loading.values(), *busy]:
            self._workers.end(worker)

    def _hire(self) -> None:
        worker = self._workers.start()
        self._unplaced[self._workers.call(worker, "answer")] = worker

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
