"""Several devices of one machine: a process each, that takes shards from the crew's one queue."""

import pickle
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from mmsieve.devices import share_of
from mmsieve.engine.crew import TICK, ShardActor, WorkerDied, WorkerError, Workers, run_shards
from mmsieve.engine.job import ShardJob, ShardReport
from mmsieve.engine.spawning import CONTEXT, needs_script, settle_in, starting
from mmsieve.errors import MmsieveError
from mmsieve.patience import Patience
from mmsieve.progress import Progress
from mmsieve.sources import Shard
from mmsieve.stores.asking import one_line

_TELL_SECONDS = 0.5
"""Between two words of a process about how far it is."""
_END_SECONDS = 5.0
"""That a process has to end its own processes, and to remove what is half written."""


def run_in_processes(
    job: ShardJob, shards: Sequence[Shard], count: int, workers: int, progress: Progress
) -> Iterator[ShardReport]:
    """A report per shard, as they end: by `count` processes, with so many preparing ones each.

    Each has its own of the GPUs that can be seen, or its part of the CPU's cores.
    """
    progress.phase(f"loading the model in {count:,} processes")
    processes = _Processes(job, count, workers, progress)
    patience = Patience(job.runner.patience)
    yield from (report for _, report in run_shards(processes, count, shards, patience))


@dataclass(eq=False)
class _Process:
    """A process, and what it has told of the shard that it is at."""

    process: SpawnProcess
    pipe: Connection
    number: int
    """Which of the devices' shares is its own."""
    units: int = 0
    size: float = 0.0


@dataclass(eq=False)
class _Call:
    """A call that a process has been asked for, and how it ended."""

    worker: _Process
    outcome: Any = None
    error: WorkerError | None = None


class _Processes(Workers):
    """The processes, as a crew asks for them; each is given one call at a time."""

    name = "process"
    grows = False

    def __init__(self, job: ShardJob, count: int, workers: int, progress: Progress) -> None:
        self._job, self._workers, self._progress = job, workers, progress
        self._what = f"samples in {count:,} processes"
        self._free = list(range(count))[::-1]
        share = partial(share_of, job.runner.device, count=count, spread=job.annotator.spread)
        self._environments = [share(number=number) for number in range(count)]
        self._needs_script = needs_script(pickle.dumps(job))

    def start(self) -> _Process:
        """A process on a share of the devices that has none."""
        number = self._free.pop()
        ours, theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(target=_serve, args=(theirs, self._job, self._workers))
        with starting(self._needs_script, self._environments[number]):
            process.start()
        theirs.close()
        return _Process(process, ours, number)

    def call(self, worker: _Process, method: str, *given: Any) -> _Call:
        """Ask for a method's result."""
        with suppress(OSError):  # it is dead: waiting for the answer will show
            worker.pipe.send((method, given))
        return _Call(worker)

    def wait(self, calls: Sequence[_Call]) -> _Call | None:
        """The first that has ended within a second; how far the others are is shown meanwhile."""
        by_pipe = {call.worker.pipe: call for call in calls}
        until = time.monotonic() + TICK
        while (left := until - time.monotonic()) > 0:
            for pipe in connection.wait(list(by_pipe), left):
                call = by_pipe[pipe]  # type: ignore[index]  # no socket, no number
                if self._hear(call):
                    return call
        return None

    def _hear(self, call: _Call) -> bool:
        """Take what a process says; whether its call has ended."""
        worker = call.worker
        try:
            kind, said = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join(TICK)
            call.error = WorkerDied(f"it ended with code {worker.process.exitcode}")
            self._progress(-worker.units, -worker.size)  # the shard begins anew
            worker.units, worker.size = 0, 0.0
            return True
        if kind == "advance":
            self._show(worker, *said)
            return False
        if kind == "error":
            line, details, cause = said
            call.error = WorkerError(line, details)
            call.error.__cause__ = cause
        call.outcome = said
        return True

    def _show(self, worker: _Process, units: int, size: float) -> None:
        if not self._progress.units:
            self._progress.phase(self._what)
        worker.units += units
        worker.size += size
        self._progress(units, size)

    def result(self, call: _Call) -> Any:
        """What was returned; raises WorkerError."""
        if call.error is not None:
            raise call.error
        if isinstance(call.outcome, ShardReport):  # told whole: its progress was its own
            call.worker.units, call.worker.size = 0, 0.0
        return call.outcome

    def end(self, worker: _Process) -> None:
        """End a process, in order where it can."""
        worker.process.terminate()
        worker.process.join(_END_SECONDS)
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()
        self._free.append(worker.number)

    def wanted(self) -> str:
        """What is waited for."""
        return "a process to start"


def _serve(pipe: Connection, job: ShardJob, workers: int) -> None:
    """The process: answers one call after the other until it is told to end."""
    settle_in()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())
    teller = _Teller(pipe)
    with closing(ShardActor(job, workers, teller)) as actor:
        while True:
            method, given = pipe.recv()
            try:
                outcome = "result", getattr(actor, method)(*given)
            except Exception as error:  # noqa: BLE001 - raised by who asked
                outcome = "error", _describe(error)
            teller.tell()
            pipe.send(outcome)


def _describe(error: BaseException) -> tuple[str, str, BaseException | None]:
    """A line, a traceback, and the error itself where it is one of ours, which can travel."""
    line = f"{type(error).__name__}: {one_line(error)}"
    return line, traceback.format_exc(), error if isinstance(error, MmsieveError) else None


class _Teller:
    """An Advance that says now and then through a pipe what has come together."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._units, self._size, self._told = 0, 0.0, time.monotonic()

    def __call__(self, units: int, size: float) -> None:
        self._units += units
        self._size += size
        if time.monotonic() - self._told >= _TELL_SECONDS:
            self.tell()

    def tell(self) -> None:
        """Say what hasn't been said."""
        if self._units:
            self._pipe.send(("advance", (self._units, self._size)))
        self._units, self._size, self._told = 0, 0.0, time.monotonic()
