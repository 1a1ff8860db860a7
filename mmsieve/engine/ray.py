"""The Ray engine: the local shard job inside actors, one per GPU, or one per `--workers` CPUs.

Shard names travel, pixels don't: an actor reads its shards and writes their tables itself, so
sources and `--out` must be reachable from every node.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from mmsieve.devices import Device
from mmsieve.engine.crew import (
    TICK,
    Actor,
    Named,
    ShardActor,
    WorkerDied,
    WorkerError,
    Workers,
    run_crew,
    run_shards,
)
from mmsieve.engine.job import ShardJob, ShardReport
from mmsieve.errors import MmsieveError, RequestError
from mmsieve.patience import Patience
from mmsieve.progress import Progress
from mmsieve.sources import Shard
from mmsieve.stores.asking import one_line
from mmsieve.wording import counted

SHARED = "--out must be the same folder on every node, as on a shared disk"
_CPUS_PER_GPU = 4
T = TypeVar("T", bound=Named)


def check_installed() -> None:
    """Raise RequestError where there is no ray."""
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise RequestError("--engine ray needs ray: pip install 'mmsieve[ray]'") from error


class RayEngine:
    """Runs shards on a Ray cluster; at `address` (`auto` or host:port), or one started here."""

    def __init__(self, address: str | None, workers: int | None, patience: Patience) -> None:
        check_installed()
        import ray

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
            except Exception as error:
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
        thread.join(TICK)
        while thread.is_alive():
            self._patience.check(lambda: f"a Ray cluster at {address} to answer")
            thread.join(TICK)
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
        self, job: ShardJob, shards: Sequence[Shard], progress: Progress
    ) -> Iterator[ShardReport]:
        """A report per shard, of as many actors as the cluster's nodes have place for."""
        progress.phase("samples")
        device = job.runner.device
        cpus = self._cpus(device)
        most = sum(gpus if device != "cpu" else all_ // cpus for all_, gpus in self._nodes)
        # On a CPU the model needs the actor's cores itself: no processes beside it.
        make = partial(ShardActor, job, 0 if device == "cpu" else cpus)
        actors = _Actors(self._ray, make, cpus, int(device != "cpu"))
        for shard, report in run_shards(actors, most, shards, self._patience):
            progress(report.rows, shard.size)  # all of it at once: nothing is heard of it before
            if report.problem is None and not job.path(shard).exists():
                report = ShardReport(shard=shard.name, problem=f"its table isn't here: {SHARED}")
            yield report

    def run_each(
        self,
        make: Callable[[], Actor],
        items: Sequence[T],
        most: int | None = None,
        is_enough: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[T, Any]]:
        """What an actor that is made so makes of each item, or its Failure; a CPU each.

        `most`: actors, where more would only wait for who takes the results. `is_enough`: as
        `run_crew` has it.
        """
        size = most or sum(cpus for cpus, _ in self._nodes)
        actors = _Actors(self._ray, make, 1, 0, grows=most is None)
        yield from run_crew(actors, size, items, self._patience, is_enough)


class RayActor:
    """What Ray makes an actor of: it makes the one that does the work, and hands calls on.

    It works in the folder of who asked, as paths may be relative to it; not where there is none.
    """

    def __init__(self, make: Callable[[], Actor], folder: str) -> None:
        with suppress(OSError):
            os.chdir(folder)
        self._actor: Any = make()

    def do(self, method: str, *given: Any) -> Any:
        """What the method returns."""
        return getattr(self._actor, method)(*given)


class _Actors(Workers):
    """The actors, as a crew asks for them.

    Not by `ActorPool`, which gives up the whole run when one actor dies.
    """

    name = "Ray actor"

    def __init__(
        self, ray: Any, make: Callable[[], Actor], cpus: int, gpus: int, grows: bool = True
    ) -> None:
        self._ray, self._cpus, self._gpus, self.grows = ray, cpus, gpus, grows
        self._class = ray.remote(num_cpus=cpus, num_gpus=gpus)(RayActor)
        self._make = ray.put(make)

    def start(self) -> Any:
        """Ask for an actor; it has its place on a node once it answers."""
        return self._class.remote(self._make, str(Path.cwd()))

    def call(self, worker: Any, method: str, *given: Any) -> Any:
        """A reference to what the method will return."""
        return worker.do.remote(method, *given)

    def wait(self, calls: Sequence[Any]) -> Any | None:
        """The first that has ended within a second."""
        done, _ = self._ray.wait(calls, num_returns=1, timeout=TICK)
        return done[0] if done else None

    def result(self, call: Any) -> Any:
        """What was returned; raises WorkerError."""
        try:
            return self._ray.get(call)
        except Exception as error:  # noqa: BLE001 - raised again as what a crew knows
            exceptions = self._ray.exceptions  # a result is lost with the node that it lies on
            died = isinstance(error, (exceptions.RayActorError, exceptions.ObjectLostError))
            kind = WorkerDied if died else WorkerError
            raise kind(_reason(error), str(error)) from getattr(error, "cause", None)

    def end(self, worker: Any) -> None:
        """Kill an actor."""
        self._ray.kill(worker)

    def wanted(self) -> str:
        """What an actor needs, and what is free on the cluster."""
        kinds = ("CPU", "GPU") if self._gpus else ("CPU",)
        there, free = self._ray.cluster_resources(), self._ray.available_resources()
        found = [f"{free.get(kind, 0):g} of {there.get(kind, 0):g} {kind}s" for kind in kinds]
        wanted = counted(self._cpus, "CPUs") + (" and a GPU" if self._gpus else "")
        return f"{wanted} on one node of the Ray cluster, where {' and '.join(found)} are free"


def _reason(error: Exception) -> str:
    """What went wrong in an actor, in one line: Ray's errors end in it, after a traceback."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return f"{type(cause).__name__}: {one_line(cause)}"
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
