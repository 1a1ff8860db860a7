"""A method of one's own, as a user would write it; some of its samples kill the process."""

import os
import sys
import time
from pathlib import Path

import pyarrow as pa

from mmsieve.engine.annotator import Annotator, Runner, RunnerOptions
from mmsieve.engine.run import RunOptions, RunReport, run_annotator
from mmsieve.errors import RequestError
from mmsieve.read import ReadOptions

DEADLY = b"deadly"


class Preparer:
    def prepare(self, sample):
        data = sample.images[0].data
        if DEADLY in data:
            os.kill(os.getpid(), 9)
        time.sleep(float(os.environ.get("SECONDS_PER_SAMPLE", 0)))
        return len(data)


class BytesRunner:
    """Fails for good at the sizes in FAILING where a file is, which it removes: once in all."""

    notes = {"device": "cpu"}  # noqa: RUF012

    def __init__(self) -> None:
        self._is_lost = False
        self._refused = (
            Path(os.environ["NO_ROOM"] + ".refused") if "NO_ROOM" in os.environ else None
        )
        if self._refused and os.getpid() != owner(Path(os.environ["NO_ROOM"])):
            self._refused.touch()
            raise RequestError("the weights take 15 GB, and cuda has 3 GB left")

    def run(self, items):
        while self._refused and not self._refused.exists():  # the others may begin later
            time.sleep(0.05)
        for index, size in items:
            failing = os.environ.get("FAILING")
            self._is_lost |= failing is not None and size == 7 and take(Path(failing))
            if self._is_lost:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            yield index, {"quality_score": float(size)}


def owner(path: Path) -> int:
    """The first process that asks for a file that it then owns."""
    try:
        with path.open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return int(path.read_text() or 0)
    return os.getpid()


def take(path: Path) -> bool:
    """Remove a file; whether it was this process that did."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


class ImageBytes(Annotator):
    """Scores a sample by the size of its first image."""

    schema = pa.schema([("quality_score", pa.float32())])
    fingerprint = {"method": "image bytes"}  # noqa: RUF012

    def preparer(self) -> Preparer:
        return Preparer()

    def runner(self, options: RunnerOptions) -> Runner:
        return BytesRunner()


def annotate(out: Path, *sources: str, **run) -> RunReport:
    options = RunOptions(quiet=True, **run)
    return run_annotator(
        lambda device: ImageBytes(), sources, out, device="cpu", read=ReadOptions(), run=options
    )


if __name__ == "__main__":
    out, engine, workers, *sources = sys.argv[1:]
    how = {"devices": int(engine)} if engine.isdigit() else {"engine": engine}
    report = annotate(Path(out), *sources, workers=int(workers), **how)
    for shard, problem in report.failed.items():
        print(shard, problem)
    print(report.summary())
