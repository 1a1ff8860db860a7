"""What selection makes of a pool of rendered instruction samples whose truth is known.

    python -m benchmarks.chosen [--model mmssr-tiny-scorer] [--styler mmssr-tiny-styler]
        [--count 20000] [--budget 0.3] [--seed 990]

Rates the pool once, then chooses by every strategy. `right`: samples whose answers the pictures
confirm, which no model was told. `rarest`: samples of the style that is rarest in the pool.
"""

import argparse
import datetime
import json
import os
import platform
import tempfile
import time
from collections import Counter
from pathlib import Path

import polars as pl

import mmsieve
from mmsieve import GenerateOptions, RatingOptions, ReadOptions, RunOptions, SelectOptions
from mmsieve.labels import CAPABILITIES
from mmsieve.synthetic.instructions import WRONG_CAP

STRATEGIES = {
    "mmssr": {"strategy": "mmssr"},
    "mmssr above 1": {"strategy": "mmssr", "above": 1.0},
    "top-mean": {"strategy": "top-mean"},
    "per-source": {"strategy": "per-source"},
    "random": {"strategy": "random"},
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="mmssr-tiny-scorer")
    parser.add_argument("--styler", default="mmssr-tiny-styler")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--budget", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=990)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), arguments)


def compare(folder: Path, arguments: argparse.Namespace) -> None:
    pool, table = folder / "pool", folder / "table"
    options = GenerateOptions(
        teacher="rendered", count=arguments.count, seed=arguments.seed, quiet=True
    )
    mmsieve.generate_ratings(out=pool, options=options)
    started = time.monotonic()
    mmsieve.rate(
        str(pool / "qas.json"),
        model=arguments.model,
        out=table,
        rating=RatingOptions(styler=arguments.styler),
        read=ReadOptions(images=pool),
        run=RunOptions(quiet=True),
    )
    seconds = time.monotonic() - started
    print(
        f"{arguments.count:,} core samples, {arguments.budget:.0%} chosen, seed {arguments.seed}; "
        f"{datetime.date.today()}, {os.cpu_count()} cores, Python {platform.python_version()}. "
        f"Rated in {seconds:.0f} s.\n"
    )
    truth = {str(one["idx"]): one for one in json.loads((pool / "train.json").read_text())}
    styles = Counter(style for one in truth.values() for style in one["styles"])
    rarest = min(styles, key=lambda style: styles[style])
    print(
        f"| subset | samples | right | true mean rating | {rarest} | sources |\n"
        "|---|---|---|---|---|---|"
    )
    show("pool", list(truth), truth, rarest)
    for name, wanted in STRATEGIES.items():
        out = folder / f"{name}.parquet"
        choice = SelectOptions(budget=arguments.budget, **wanted)
        mmsieve.select(table, out=out, choice=choice, quiet=True)
        keys = pl.read_parquet(out).filter("keep")["key"].to_list()
        show(name, keys, truth, rarest)


def show(name: str, keys: list[str], truth: dict[str, dict], rarest: str) -> None:
    """Print the row of a subset."""
    chosen = [truth[key] for key in keys]
    right = sum(max(one["ratings"].values()) > WRONG_CAP for one in chosen) / len(chosen)
    mean = sum(sum(one["ratings"].values()) for one in chosen) / len(chosen) / len(CAPABILITIES)
    rare = sum(rarest in one["styles"] for one in chosen) / len(chosen)
    sources = len({one["image_source"] for one in chosen})
    print(f"| {name} | {len(keys):,} | {right:.4f} | {mean:.3f} | {rare:.4f} | {sources} |")


if __name__ == "__main__":
    main()
