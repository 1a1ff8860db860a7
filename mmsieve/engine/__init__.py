"""Engines map a shard job over shards: one report per shard, in any order, raising for none.

Every engine runs the same ShardWorker, so all of them write the same tables.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

from mmsieve.devices import Device
from mmsieve.engine.job import ShardJob, ShardReport
from mmsieve.progress import Advance
from mmsieve.sources import Shard


class Engine(Protocol):
    """Where shards are run."""

    def device(self, asked: str) -> Device:
        """The device that `auto`, `cpu`, `cuda` or `cuda:N` means here; raises RequestError."""
        ...

    def run(
        self, job: ShardJob, shards: Sequence[Shard], workers: int | None, advance: Advance
    ) -> Iterator[ShardReport]:
        """A report per shard, in any order."""
        ...


def open_engine(name: Literal["local", "ray"], ray_address: str | None = None) -> Engine:
    """The engine of that name; raises RequestError where it can't be had."""
    if name == "local":
        from mmsieve.engine.local import LocalEngine

        return LocalEngine()
    from mmsieve.engine.ray import RayEngine

    return RayEngine(ray_address)
