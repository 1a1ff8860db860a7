"""The Ray engine: the local shard job inside actors, one per GPU, or one per `--workers` CPUs.

Shard names travel, pixels don't: an actor reads its shards and writes their tables itself, so
sources and `--out` must be reachable from every node.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from mmsieve.devices import Device
from mmsieve.engine.job import ShardJob, ShardReport, ShardWorker
from mmsieve.errors import MmsieveError, RequestError
from mmsieve.progress import Advance
from mmsieve.sources import Shard

_CPUS_PER_GPU = 4
_ATTEMPTS = 3
"""How often a shard is begun before its worker's death is held against it."""
_DEADLY = f"its worker died {_ATTEMPTS} times (a crash in a decoder, or out of memory)"


class RayEngine:
    """Runs shards on a Ray cluster; at `address` (`auto` or host:port), or one started here."""

    def __init__(self, address: str | None) -> None:
        try:
            import ray
        except ImportError as error:
            raise RequestError("--engine ray needs ray: pip install 'mmsieve[ray]'") from error
        if not ray.is_initialized():
            options = {} if address else {"include_dashboard": False}
            try:
                ray.init(address=address, log_to_driver=False, logging_level="error", **options)
            except (ConnectionError, ValueError, RuntimeError) as error:
                reason = str(error).splitlines()[0]
                raise RequestError(f"no Ray cluster at {address}: {reason}") from error
        self._ray = ray
        resources = ray.cluster_resources()
        self._gpus, self._cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))

    def device(self, asked: str) -> Device:
        """`cuda` where the cluster has GPUs, unless a CPU is asked for; actors get one each."""
        if asked not in ("auto", "cpu", "cuda"):
            raise RequestError(f"--device {asked}: with --engine ray one of auto, cpu, cuda")
        if asked == "cuda" and not self._gpus:
            raise RequestError("--device cuda: the Ray cluster has no GPU; use --device cpu")
        return "cuda" if self._gpus and asked != "cpu" else "cpu"

    def run(
        self, job: ShardJob, shards: Sequence[Shard], workers: int | None, advance: Advance
    ) -> Iterator[ShardReport]:
        """A report per shard; a shard whose actor dies is begun again, a few times."""
        on_gpu = job.runner.device != "cpu"
        cpus = max(workers or 0, 1) if workers is not None or not on_gpu else _CPUS_PER_GPU
        most = self._gpus if on_gpu else self._cpus // cpus
        crew = _Crew(self._ray, job, cpus, min(most, len(shards)))
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
    """The actors: starting, idle, or busy with a shard.

    A plain `ray.wait` loop: `ActorPool` gives up the whole run when one actor dies.
    """

    def __init__(self, ray: Any, job: ShardJob, cpus: int, size: int) -> None:
        self._ray = ray
        on_gpu = job.runner.device != "cpu"
        self._class = ray.remote(num_cpus=cpus, num_gpus=int(on_gpu))(ShardActor)
        self._job = job
        # On a CPU the model needs the actor's cores itself: no processes beside it.
        self._workers = cpus if on_gpu else 0
        self._began = False
        self.idle: list[Any] = []
        self._starting: dict[Any, Any] = {}
        self.busy: dict[Any, tuple[Any, Shard, int]] = {}
        for _ in range(max(size, 1)):
            self._hire()

    def start(self, shard: Shard, attempt: int) -> None:
        """Give a shard to an idle actor."""
        actor = self.idle.pop()
        self.busy[actor.run.remote(shard)] = (actor, shard, attempt)

    def wait(self) -> tuple[Shard, int, ShardReport | None] | None:
        """The next shard that ends, without a report where its actor died; None: one has begun."""
        done, _ = self._ray.wait([*self._starting, *self.busy], num_returns=1)
        if done[0] in self._starting:
            self._begin(done[0])
            return None
        actor, shard, attempt = self.busy.pop(done[0])
        try:
            report: ShardReport | None = self._ray.get(done[0])
        except self._ray.exceptions.RayActorError:
            self._ray.kill(actor)
            self._hire()
            return shard, attempt, None
        self.idle.append(actor)
        return shard, attempt, report

    def dismiss(self) -> None:
        """End the actors."""
        busy = [actor for actor, _, _ in self.busy.values()]
        for actor in [*self.idle, *self._starting.values(), *busy]:
            self._ray.kill(actor)

    def _hire(self) -> None:
        actor = self._class.remote(self._job, self._workers)
        self._starting[actor.ready.remote()] = actor

    def _begin(self, ready: Any) -> None:
        """An actor has loaded its model; if the very first can't, none will."""
        actor = self._starting.pop(ready)
        try:
            self._ray.get(ready)
        except self._ray.exceptions.RayActorError as error:
            if not self._began:
                raise MmsieveError(f"no Ray actor could start: {error}") from error
            self._hire()
            return
        self._began = True
        self.idle.append(actor)


class ShardActor:
    """A ShardWorker in an actor: loads the model once, then takes one shard after another."""

    def __init__(self, job: ShardJob, workers: int) -> None:
        self._worker = ShardWorker(job, workers)

    def ready(self) -> None:
        """Answers once the model is loaded."""

    def run(self, shard: Shard) -> ShardReport:
        """One shard's report."""
        return next(self._worker.run([shard]))
