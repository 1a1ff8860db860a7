"""What half precision does to a choice: distinct scores, ties at the cut, agreement with float32.

    python -m benchmarks.head_precision [--model unifilter-tiny] [--count 4000] [--top 0.15]

Drawn captions of random levels, each scored five times, and the best of each table kept by
`filter`. "Stock head" is the last layer in the precision of the rest, as it was before 2026-11-30:
its scores are rounded to what that precision can hold. Runs on a CPU; a GPU adds its products in
another order, and rounds alike.
"""

import argparse
import datetime
import os
import platform
import tempfile
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import polars as pl
import torch
from torch import Tensor, nn

import mmsieve
from mmsieve import CutOptions, GenerateOptions, RunOptions, ScoringOptions
from mmsieve.methods.unifilter.model import ScoreHead
from mmsieve.tables import read_frames, table_files

ROWS = (
    ("float32", "float32", False),
    ("bfloat16, stock head", "bfloat16", True),
    ("bfloat16, float32 head", "bfloat16", False),
    ("float16, float32 head", "float16", False),
    ("float16, stock head", "float16", True),
)
"""Name, precision of the model, whether its head has it too."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="unifilter-tiny")
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=990)
    parser.add_argument("--top", type=float, default=0.15)
    arguments = parser.parse_args()
    print(
        f"{arguments.model}, {arguments.count:,} drawn captions, seed {arguments.seed}; the best "
        f"{arguments.top:.0%} kept; {datetime.date.today()}, {os.cpu_count()} cores, torch "
        f"{torch.__version__}, Python {platform.python_version()}.\n\n"
        "| precision | different scores | tied at the cut | of these kept | of the float32 choice "
        "kept | largest drift of a score |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), arguments)


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    """Draw the captions; score, cut and compare them in every precision."""
    options = GenerateOptions(
        teacher="rendered",
        count=arguments.count,
        texts_per_image=1,
        seed=arguments.seed,
        shards=True,
        quiet=True,
    )
    mmsieve.generate_captions(out=folder / "pool", options=options)
    exact = None
    for number, (name, dtype, stock) in enumerate(ROWS):
        table, decided = folder / f"table{number}", folder / f"decided{number}"
        with ExitStack() as patched:
            if stock:
                patched.enter_context(patch.object(ScoreHead, "forward", stock_head))
            mmsieve.score(
                str(folder / "pool" / "shards"),
                model=arguments.model,
                out=table,
                scoring=ScoringOptions(device="cpu", dtype=dtype),
                run=RunOptions(quiet=True, workers=0),
            )
        cut = mmsieve.filter(
            str(table), out=decided, cut=CutOptions(top_fraction=arguments.top), quiet=True
        )
        found = rows(table, ["quality_score"]).hstack(rows(decided, ["keep"]))
        exact = found if exact is None else exact
        agreed = (found["keep"] & exact["keep"]).sum() / cut.kept
        drift = (found["quality_score"] - exact["quality_score"]).abs().max()
        print(
            f"| {name} | {cut.ties.distinct:,} | {cut.ties.tied:,} | {cut.ties.kept:,} "
            f"| {agreed:.1%} | {drift:.4f} |",
            flush=True,
        )


def stock_head(head: nn.Linear, hidden: Tensor) -> Tensor:
    """The product in the precision of what comes in."""
    return nn.functional.linear(hidden, head.weight.to(hidden.dtype))


def rows(folder: Path, columns: list[str]) -> pl.DataFrame:
    """Columns of all files of a table."""
    return pl.concat(read_frames(table_files(folder).values(), columns))


if __name__ == "__main__":
    main()
