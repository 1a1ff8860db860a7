"""One process, two, and Ray: shards through a stand-in that waits for its device a fixed time.

    python -m benchmarks.devices [--shards 200] [--batch-ms 60] [--nodes | --grow]

A batch of 32 samples takes the stand-in so long, as a GPU would that needs no core. `--nodes`:
instead four simulated Ray nodes of one CPU, one of which is killed every 20 s and replaced; the
tables are then compared with those of one process. `--grow`: a cluster of Ray's autoscaler that
begins with no node that has a CPU, and may have two.
"""

import argparse
import datetime
import os
import platform
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Event, Thread
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
KILL_EVERY = 20.0


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


def annotate(source: Path, out: Path, seconds: float, **how: Any) -> tuple[RunReport, float]:
    """The report, and the CPU seconds of all processes that have ended with it."""
    before = cpu_seconds()
    report = run_annotator(
        lambda device: StandIn(seconds),
        [str(source)],
        out,
        device="cpu",
        read=ReadOptions(),
        run=RunOptions(quiet=True, **how),
    )
    assert not report.failed, report.failed
    return report, cpu_seconds() - before


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
        report, used = annotate(folder / "in", folder / f"out{number}", seconds, **how)
        first = first or report.seconds
        shown = "-" if "engine" in how else f"{used:.1f}"
        print(f"| {name} | {report.seconds:.1f} | {first / report.seconds:.2f} | {shown} |")
        assert tables(folder / f"out{number}") == tables(folder / "out0")
    ray.shutdown()


def kill_nodes(folder: Path, seconds: float) -> None:
    """Four simulated nodes, one of which is killed every 20 s and replaced."""
    import ray
    from ray.cluster_utils import Cluster

    annotate(folder / "in", folder / "calm", 0.0, workers=1)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(4)]
    ray.init(cluster.address, logging_level="error", log_to_driver=False)
    is_done, killed = Event(), []

    def kill() -> None:
        while not is_done.wait(KILL_EVERY):
            cluster.remove_node(nodes.pop(0), allow_graceful=False)
            nodes.append(cluster.add_node(num_cpus=1))
            killed.append(time.monotonic())

    thread = Thread(target=kill, daemon=True)
    thread.start()
    report, _ = annotate(folder / "in", folder / "out", seconds, engine="ray")
    is_done.set()
    thread.join()
    assert killed, "too few shards: no node was killed"
    same = tables(folder / "out") == tables(folder / "calm")
    print(f"{report.summary()}; {len(killed)} nodes killed; tables equal: {same}")
    ray.shutdown()
    cluster.shutdown()


def grow(folder: Path, seconds: float) -> None:
    """A cluster without a CPU, whose autoscaler adds nodes where they are asked for."""
    import ray
    from ray.cluster_utils import AutoscalingCluster

    annotate(folder / "in", folder / "calm", 0.0, workers=1)
    kind = {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2}
    cluster = AutoscalingCluster(head_resources={"CPU": 0}, worker_node_types={"small": kind})
    cluster.start()
    ray.init("auto", logging_level="error", log_to_driver=False)
    most, is_done = [0.0], Event()

    def watch() -> None:
        while not is_done.wait(1):
            most[0] = max(most[0], ray.cluster_resources().get("CPU", 0))

    thread = Thread(target=watch, daemon=True)
    thread.start()
    report, _ = annotate(folder / "in", folder / "out", seconds, engine="ray")
    is_done.set()
    thread.join()
    same = tables(folder / "out") == tables(folder / "calm")
    print(f"{report.summary()}; CPUs: 0 at first, {most[0]:g} at most; tables equal: {same}")
    ray.shutdown()
    cluster.shutdown()


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
        way = kill_nodes if asked.nodes else grow if asked.grow else compare
        way(folder, asked.batch_ms / 1000)


if __name__ == "__main__":
    main()
