"""How well raters know the ratings and styles of rendered instruction samples they never saw.

    python -m benchmarks.rated [--model mmssr-tiny-scorer] [--styler mmssr-tiny-styler]
        [--count 2000] [--seed 990] [--family core] [--blank]

Ratings that are exact, and within one, per capability; micro F1 of styles. `--blank` shows blank
images: with a model that was trained so, what the texts alone give away.
"""

import argparse
import datetime
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import polars as pl

import mmsieve
from mmsieve import GenerateOptions, RatingOptions, ReadOptions, RunOptions
from mmsieve.labels import CAPABILITIES
from tests.helpers.drawn import NEEDS_PICTURE

CORES = os.cpu_count()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="mmssr-tiny-scorer")
    parser.add_argument("--styler", default=None)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=990)
    parser.add_argument("--family", default="core")
    parser.add_argument("--blank", action="store_true")
    arguments = parser.parse_args()
    shown = ", blank images" if arguments.blank else ""
    print(
        f"{arguments.model}, {arguments.styler or 'no styler'}: {arguments.count} "
        f"{arguments.family} samples{shown}, seed {arguments.seed}; "
        f"{datetime.date.today()}, {CORES} cores, Python {platform.python_version()}.\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        truth, told = measure(Path(folder), arguments)
    report_ratings(truth, told)
    if "styles" in told.columns:
        report_styles(truth, told)


def measure(
    folder: Path, arguments: argparse.Namespace
) -> tuple[list[dict[str, Any]], pl.DataFrame]:
    """The records as they were made, and the table that the model made of them, in one order."""
    data, table = folder / "data", folder / "table"
    options = GenerateOptions(
        teacher="rendered",
        count=arguments.count,
        seed=arguments.seed,
        family=arguments.family,
        blank_images=arguments.blank,
        quiet=True,
    )
    mmsieve.generate_ratings(out=data, options=options)
    mmsieve.rate(
        str(data / "qas.json"),
        model=arguments.model,
        out=table,
        rating=RatingOptions(styler=arguments.styler),
        read=ReadOptions(images=data),
        run=RunOptions(quiet=True, workers=0),
    )
    told = pl.read_parquet(sorted(table.rglob("*.parquet")))
    truth = json.loads((data / "train.json").read_text())
    assert [str(one["idx"]) for one in truth] == told["key"].to_list()
    assert (told["status"] == "ok").all()
    return truth, told


def report_ratings(truth: list[dict[str, Any]], told: pl.DataFrame) -> None:
    print("| capability | exact | within one | needs the picture |\n|---|---|---|---|")
    rows = {}
    for name in CAPABILITIES:
        known = pl.Series([one["ratings"][name] for one in truth])
        off = (told[name].cast(pl.Int64) - known).abs()
        rows[name] = ((off == 0).mean(), (off <= 1).mean())
        exact, near = rows[name]
        print(f"| {name} | {exact:.4f} | {near:.4f} | {'yes' if name in NEEDS_PICTURE else ''} |")
    for label, names in (("all", tuple(CAPABILITIES)), ("needing the picture", NEEDS_PICTURE)):
        exact, near = (sum(rows[name][i] for name in names) / len(names) for i in (0, 1))
        print(f"| mean of {label} | {exact:.4f} | {near:.4f} | |")


def report_styles(truth: list[dict[str, Any]], told: pl.DataFrame) -> None:
    pairs = [
        (set(one["styles"]), set(styles)) for one, styles in zip(truth, told["styles"], strict=True)
    ]
    right = sum(len(known & said) for known, said in pairs)
    total = sum(len(known) + len(said) for known, said in pairs)
    same = sum(known == said for known, said in pairs)
    print(
        f"\nStyles: micro F1 {2 * right / total:.4f}; "
        f"all of a sample right: {same / len(pairs):.4f}"
    )


if __name__ == "__main__":
    main()
