"""One process, two, and Ray: shards through a stand-in that waits for its device a fixed time.

    python -m benchmarks.devices [--shards 200] [--batch-ms 60] [--nodes | --grow]

A batch of 32 samples takes the stand-in so long, as a GPU would that needs no core. `--nodes`:
instead four simulated Ray nodes of one CPU, one of which is killed every 20 s and replaced; the
tables are then compared with those of one process. `--grow`: no node with a CPU at first, one
after 20 s, another after 40.
"""

import argparse
import datetime
import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmsieve.engine.annotator import Annotator, Row, Runner, RunnerOptions
from mmsieve.engine.run import RunOptions, RunReport, run_annotator
from mmsieve.read import ReadOptions
from mmsieve.sample import Sample
from mmsieve.tables import table_files
from tests.helpers.shards import write_tar

BATCH = 32
SAMPLES = 320
"""Of a shard."""
EVERY = 20.0
"""Seconds between two changes of a cluster's nodes."""


class BytesPreparer:
    """Items are the images' sizes."""

    def prepare(self, sample: Sample) -> int:
        """Bytes of the first image."""
        return len(sample.images[0].data)


class WaitingRunner:
    """Waits a fixed time a batch."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.notes: dict[str, str] = {}

    def run(self, items: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Row]]:
        """A row for each item, in order."""
        for number, (index, size) in enumerate(items):
            if number % BATCH == 0:
                time.sleep(self._seconds)
            yield index, {"quality_score": float(size)}


class StandIn(Annotator):
    """Scores a sample by the size of its first image, as slowly as it is told."""

    schema = pa.schema([("quality_score", pa.float32())])

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.fingerprint = {"method": "stand-in"}

    def preparer(self) -> BytesPreparer:
        """The CPU half."""
        return BytesPreparer()

    def runner(self, options: RunnerOptions) -> Runner:
        """The half that waits."""
        return WaitingRunner(self._seconds)


def make_shards(folder: Path, count: int) -> None:
    for shard in range(count):
        members = []
        for number in range(SAMPLES):
            name = f"{shard:04d}-{number:04d}"
            members += [(f"{name}.jpg", b"x" * (1000 + number)), (f"{name}.txt", b"a text")]
        write_tar(folder / f"{shard:04d}.tar", members)


def annotate(source: Path, out: Path, seconds: float, **how: Any) -> tuple[RunReport, float, float]:
    """The report, the CPU seconds of all processes that have ended with it, and seconds."""
    before, began = cpu_seconds(), time.monotonic()
    report = run_annotator(
        lambda device: StandIn(seconds),
        [str(source)],
        out,
        device="cpu",
        read=ReadOptions(),
        run=RunOptions(quiet=True, **how),
    )
    assert not report.failed, report.failed
    return report, cpu_seconds() - before, time.monotonic() - began


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def tables(out: Path) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in table_files(out).items()}


def compare(folder: Path, seconds: float) -> None:
    """One process, two, and as many Ray actors, over the same shards."""
    import ray

    runs: dict[str, dict[str, Any]] = {
        "one process": {"workers": 1},
        "--devices 2": {"workers": 1, "devices": 2},
        "--devices 2, once more": {"workers": 1, "devices": 2},
        "--engine ray, 2 actors": {"engine": "ray"},
    }
    print("| run | seconds | one process / this | CPU seconds |\n|---|---|---|---|")
    first = 0.0
    for number, (name, how) in enumerate(runs.items()):
        if "engine" in how:
            ray.init("local", num_cpus=2, include_dashboard=False, logging_level="error")
        _, used, took = annotate(folder / "in", folder / f"out{number}", seconds, **how)
        first = first or took
        shown = "-" if "engine" in how else f"{used:.1f}"
        print(f"| {name} | {took:.1f} | {first / took:.2f} | {shown} |", flush=True)
        assert tables(folder / f"out{number}") == tables(folder / "out0")
    ray.shutdown()


def on_cluster(folder: Path, seconds: float, change: Callable[[Any, int], bool], cpus: int) -> None:
    """Shards on simulated nodes that change meanwhile; the tables are those of one process."""
    import ray
    from ray.cluster_utils import Cluster

    annotate(folder / "in", folder / "calm", 0.0, workers=1)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(cpus):
        cluster.add_node(num_cpus=1)
    ray.init(cluster.address, logging_level="error", log_to_driver=False)
    with ThreadPoolExecutor(1) as pool:  # nodes are begun in the main thread alone
        done = pool.submit(annotate, folder / "in", folder / "out", seconds, engine="ray")
        changes = 0
        while not wait([done], EVERY).done:
            changes += change(cluster, changes)
        report, _, took = done.result()
    same = tables(folder / "out") == tables(folder / "calm")
    end = f"{took:.0f} s, {changes} changes of nodes; tables equal: {same}"
    print(f"{report.rows:,} rows of {report.shards} shards, {len(report.failed)} failed, in {end}")
    ray.shutdown()
    cluster.shutdown()


def replace_one(cluster: Any, changes: int) -> bool:
    """Kill the node that is there longest, and begin another."""
    oldest = next(node for node in list(cluster.worker_nodes))
    cluster.remove_node(oldest, allow_graceful=False)
    cluster.add_node(num_cpus=1)
    return True


def add_one(cluster: Any, changes: int) -> bool:
    """Begin a node, unless there are two."""
    if changes < 2:
        cluster.add_node(num_cpus=1)
    return changes < 2


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", type=int, default=200)
    parser.add_argument("--batch-ms", type=float, default=60.0)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--nodes", action="store_true")
    which.add_argument("--grow", action="store_true")
    asked = parser.parse_args()
    print(
        f"{asked.shards} shards of {SAMPLES} samples, {asked.batch_ms:g} ms a batch of {BATCH}; "
        f"{datetime.date.today()}, {os.cpu_count()} cores, Python {platform.python_version()}.\n"
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "in").mkdir()
        make_shards(folder / "in", asked.shards)
        if asked.nodes or asked.grow:
            how = (replace_one, 4) if asked.nodes else (add_one, 0)
            on_cluster(folder, asked.batch_ms / 1000, *how)
        else:
            compare(folder, asked.batch_ms / 1000)


if __name__ == "__main__":
    main()
