"""mmsieve's own shard worker, tables written and all. Arguments: CHECKPOINT, TAR, DTYPE."""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from protocol import serve

from mmsieve.engine.annotator import RunnerOptions
from mmsieve.engine.job import ShardJob, ShardWorker
from mmsieve.methods.load import load_annotator
from mmsieve.methods.unifilter.annotator import ScoringOptions
from mmsieve.read import ReadOptions
from mmsieve.sources import find_files
from mmsieve.tables import table_files


def main(checkpoint: str, tar: str, dtype: str) -> None:
    """Load, then score the shard whenever asked."""
    import polars as pl

    os.chdir(Path(checkpoint).parent)
    options = ScoringOptions(device="cpu", dtype=dtype)
    with TemporaryDirectory() as folder:
        job = ShardJob(
            annotator=load_annotator(checkpoint, options),
            out=Path(folder),
            read=ReadOptions(),
            runner=RunnerOptions(device="cpu"),
            fingerprint={},
        )
        worker = ShardWorker(job, 1)
        shards = find_files([tar]).files

        def score_all() -> dict[str, float]:
            for report in worker.run(shards):
                if report.problem:
                    raise RuntimeError(report.problem)
            table = pl.concat([pl.read_parquet(path) for path in table_files(job.out).values()])
            return dict(zip(table["key"], table["quality_score"], strict=True))

        serve(score_all)
        worker.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
