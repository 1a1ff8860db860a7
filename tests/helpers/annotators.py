"""A method of one's own, as a user would write it; some of its samples kill the process."""

import os
import sys
import time
from pathlib import Path

import pyarrow as pa

from mmsieve.engine.annotator import Annotator, Runner, RunnerOptions
from mmsieve.engine.run import RunOptions, RunReport, run_annotator
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
    notes = {"device": "cpu"}  # noqa: RUF012

    def run(self, items):
        for index, size in items:
            yield index, {"quality_score": float(size)}


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
    report = annotate(Path(out), *sources, engine=engine, workers=int(workers))
    for shard, problem in report.failed.items():
        print(shard, problem)
    print(report.summary())
