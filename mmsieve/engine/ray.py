"""The Ray engine: the local shard job inside actors, one per GPU, or one per `--workers` CPUs.

Shard names travel, pixels don't: an actor reads its shards and writes their tables itself, so
sources and `--out` must be reachable from every node.
"""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from threading import Thread
from typing import Any

from mmsieve.devices import Device
from mmsieve.engine.job import ShardJob, ShardReport, ShardWorker
from mmsieve.errors import MmsieveError, RequestError, ShardError
from mmsieve.patience import Patience
from mmsieve.progress import Advance
from mmsieve.sources import Shard
from mmsieve.stores.asking import one_line

_CPUS_PER_GPU = 4
_ATTEMPTS = 3
"""How often a shard is begun before its worker's death is held against it."""
_DEADLY = f"its worker died {_ATTEMPTS} times (a crash in a decoder, or out of memory)"
_MOST_DEATHS = 10
"""Of workers that start, one after the other without one that succeeds."""
_TICK = 1.0
"""Seconds after which is looked again whether anything has happened."""


class RayEngine:
    """Runs shards on a Ray cluster; at `address` (`auto` or host:port), or one started here."""

    def __init__(self, address: str | None, workers: int | None, patience: Patience) -> None:
        try:
            import ray
        except ImportError as error:
            raise RequestError("--engine ray needs ray: pip install 'mmsieve[ray]'") from error
        self._ray, self._workers, self._patience = ray, workers, patience
        if not ray.is_initialized():
            self._join(address or os.environ.get("RAY_ADDRESS"))
        found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self._nodes = [(int(each.get("CPU", 0)), int(each.get("GPU", 0))) for each in found]
        """CPUs and GPUs of each."""

    def _join(self, address: str | None) -> None:
        options = {"log_to_driver": False, "logging_level": "error"}
        if not address:  # `local`: not the one that a file names, which may be long gone
            try:
                self._ray.init("local", include_dashboard=False, **options)
            except (OSError, RuntimeError, ValueError) as error:
                raise MmsieveError(f"Ray can't be started here: {one_line(error)}") from error
            return
        failed: list[BaseException] = []

        def join() -> None:
            try:
                self._ray.init(address, **options)
            except BaseException as error:  # noqa: BLE001 - raised by who waits
                failed.append(error)

        thread = Thread(target=join, daemon=True)  # it may wait for ever
        thread.start()
        thread.join(_TICK)
        while thread.is_alive():
            self._patience.check(lambda: f"a Ray cluster at {address} to answer")
            thread.join(_TICK)
        for reason in failed:
            raise RequestError(f"no Ray cluster at {address}: {one_line(reason)}") from reason
        self._patience.renew()

    def device(self, asked: str) -> Device:
        """`cuda` where the cluster has GPUs, unless a CPU is asked for; actors get one each.

        Raises RequestError where no node is large enough.
        """
        if asked not in ("auto", "cpu", "cuda"):
            raise RequestError(f"--device {asked}: with --engine ray one of auto, cpu, cuda")
        has_gpus = any(gpus for _, gpus in self._nodes)
        if asked == "cuda" and not has_gpus:
            raise RequestError("--device cuda: the Ray cluster has no GPU; use --device cpu")
        device: Device = "cuda" if has_gpus and asked != "cpu" else "cpu"
        largest, wanted = self._largest(device), self._cpus(device)
        if 0 < largest < wanted:
            raise RequestError(
                f"--workers {wanted}: each Ray actor has so many CPUs, and the largest node has "
                f"{largest}"
            )
        return device

    def _largest(self, device: Device) -> int:
        """CPUs of the largest node that will do; 0 where there is none yet."""
        return max((cpus for cpus, gpus in self._nodes if gpus or device == "cpu"), default=0)

    def _cpus(self, device: Device) -> int:
        """CPUs of an actor."""
        if self._workers is not None or device == "cpu":
            return max(self._workers or 0, 1)
        return max(min(_CPUS_PER_GPU, self._largest(device)), 1)

    def run(
        self, job: ShardJob, shards: Sequence[Shard], advance: Advance
    ) -> Iterator[ShardReport]:
        """A report per shard; a shard whose actor dies is begun again, a few times."""
        device = job.runner.device
        cpus = self._cpus(device)
        most = sum(gpus if device != "cpu" else all_ // cpus for all_, gpus in self._nodes)
        crew = _Crew(self._ray, job, cpus, min(most, len(shards)), self._patience)
        waiting = deque((shard, 1) for shard in shards)
        try:
            while waiting or crew.busy:
                while waiting and crew.idle:
                    crew.start(*waiting.popleft())
                ended = crew.wait()
                if ended is None:
                    continue
                shard, attempt, report = ended
                if report is None and attempt < _ATTEMPTS:
                    waiting.append((shard, attempt + 1))
                    continue
                report = report or ShardReport(shard=shard.name, problem=_DEADLY)
                advance(report.rows, shard.size)
                yield report
        finally:
            crew.dismiss()


class _Crew:
    """The actors: without a place on a node yet, loading the model, idle, or busy with a shard.

    A plain `ray.wait` loop: `ActorPool` gives up the whole run when one actor dies.
    """

    def __init__(self, ray: Any, job: ShardJob, cpus: int, size: int, patience: Patience) -> None:
        self._ray = ray
        self._gpus = int(job.runner.device != "cpu")
        self._class = ray.remote(num_cpus=cpus, num_gpus=self._gpus)(ShardActor)
        self._job, self._cpus, self._patience = job, cpus, patience
        # On a CPU the model needs the actor's cores itself: no processes beside it.
        self._workers = cpus if self._gpus else 0
        self._deaths = 0
        self._began = False
        self.idle: list[Any] = []
        self._unplaced: dict[Any, Any] = {}
        self._loading: dict[Any, Any] = {}
        self.busy: dict[Any, tuple[Any, Shard, int]] = {}
        for _ in range(max(size, 1)):
            self._hire()

    def start(self, shard: Shard, attempt: int) -> None:
        """Give a shard to an idle actor."""
        actor = self.idle.pop()
        self.busy[actor.run.remote(shard)] = (actor, shard, attempt)

    def wait(self) -> tuple[Shard, int, ShardReport | None] | None:
        """The next shard that ends, without a report where its actor died; None: none yet.

        Raises MmsieveError where nothing happens for too long, or no actor can start.
        """
        awaited = [*self._unplaced, *self._loading, *self.busy]
        done, _ = self._ray.wait(awaited, num_returns=1, timeout=_TICK)
        if not done:
            if not self.busy:
                self._patience.check(self._describe)
            return None
        self._patience.renew()
        if done[0] not in self.busy:
            self._begin(done[0])
            return None
        actor, shard, attempt = self.busy.pop(done[0])
        try:
            report: ShardReport | None = self._ray.get(done[0])
        except self._ray.exceptions.RayActorError:
            self._ray.kill(actor)
            self._hire()
            return shard, attempt, None
        except Exception as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, MmsieveError) and not isinstance(cause, ShardError):
                raise cause from error
            report = ShardReport(shard=shard.name, problem=_reason(error), details=str(error))
        self.idle.append(actor)
        return shard, attempt, report

    def dismiss(self) -> None:
        """End the actors."""
        busy = [actor for actor, _, _ in self.busy.values()]
        starting = [*self._unplaced.values(), *self._loading.values()]
        for actor in [*self.idle, *starting, *busy]:
            self._ray.kill(actor)

    def _hire(self) -> None:
        actor = self._class.remote(self._job, self._workers)
        self._unplaced[actor.answer.remote()] = actor

    def _begin(self, ready: Any) -> None:
        """An actor has its place, or its model; if the very first can't start, none will."""
        is_placed = ready in self._unplaced
        actor = (self._unplaced if is_placed else self._loading).pop(ready)
        try:
            self._ray.get(ready)
        except self._ray.exceptions.RayError as error:
            self._ray.kill(actor)
            self._deaths += 1
            if not self._began or self._deaths >= _MOST_DEATHS:
                raise MmsieveError(f"no Ray actor could start: {_reason(error)}") from error
            self._hire()
            return
        if is_placed:
            self._loading[actor.load.remote()] = actor
            return
        self._began, self._deaths = True, 0
        self.idle.append(actor)

    def _describe(self) -> str:
        """What is waited for while nothing is done."""
        if self._loading:
            return f"{len(self._loading)} Ray actors to load the model"
        kinds = ("CPU", "GPU") if self._gpus else ("CPU",)
        there, free = self._ray.cluster_resources(), self._ray.available_resources()
        found = [f"{free.get(kind, 0):g} of {there.get(kind, 0):g} {kind}s" for kind in kinds]
        wanted = f"{self._cpus} CPUs" + (" and a GPU" if self._gpus else "")
        return f"{wanted} on one node of the Ray cluster, where {' and '.join(found)} are free"


def _reason(error: Exception) -> str:
    """What went wrong in an actor, in one line: Ray's errors end in it, after a traceback."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return f"{type(cause).__name__}: {one_line(cause)}"
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


class ShardActor:
    """A ShardWorker in an actor: loads the model once, then takes one shard after another."""

    def __init__(self, job: ShardJob, workers: int) -> None:
        self._job, self._workers = job, workers

    def answer(self) -> None:
        """Answers once the actor has its place on a node."""

    def load(self) -> None:
        """Load the model."""
        self._worker = ShardWorker(self._job, self._workers)

    def run(self, shard: Shard) -> ShardReport:
        """One shard's report."""
        return next(self._worker.run([shard]))
