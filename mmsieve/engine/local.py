"""The local engine: one device loop in this process, samples prepared in worker processes."""

import os
from collections.abc import Iterator, Sequence

from mmsieve.devices import Device, resolve_device
from mmsieve.engine.job import ShardJob, ShardReport, ShardWorker
from mmsieve.progress import Advance
from mmsieve.sources import Shard

_MOST_WORKERS = 16


class LocalEngine:
    """Runs shards on this machine, on one device."""

    def device(self, asked: str) -> Device:
        """What is asked for, or a GPU where there is one."""
        return resolve_device(asked)

    def run(
        self, job: ShardJob, shards: Sequence[Shard], workers: int | None, advance: Advance
    ) -> Iterator[ShardReport]:
        """A report per shard, in order."""
        if workers is None:
            workers = _default_workers(job.runner.device)
        worker = ShardWorker(job, workers, advance)
        try:
            yield from worker.run(shards)
        finally:
            worker.close()


def _default_workers(device: Device) -> int:
    """One where the model needs the CPU itself, else enough to keep a GPU fed."""
    return 1 if device == "cpu" else min(len(os.sched_getaffinity(0)), _MOST_WORKERS)
