"""How well an enhancer judges and rewrites captions of rendered scenes that it never saw.

    python -m benchmarks.rewritten [--model aitqe-tiny] [--count 2000] [--seed 990] [--family core]

Rewrites are checked against the scene, not by a model. `true`: all that a rewrite says is so;
`complete`: and nothing is missing.
"""

import argparse
import datetime
import os
import platform
import tempfile
from pathlib import Path

import polars as pl
from scipy.stats import spearmanr

import mmsieve
from mmsieve import GenerateOptions, RunOptions, Sample, load_model
from mmsieve.labels import LEVELS, POSITIVE
from mmsieve.synthetic.teacher import Drawing, caption_scene
from tests.helpers.drawn import is_complete, states_only_true_facts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="aitqe-tiny")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=990)
    parser.add_argument("--family", default="core")
    arguments = parser.parse_args()
    print(
        f"{arguments.model}: {arguments.count} {arguments.family} captions of all levels, seed "
        f"{arguments.seed}; {datetime.date.today()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}.\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        told = measure(Path(folder), arguments)
    report(told)
    report_quality(told, arguments)


def measure(folder: Path, arguments: argparse.Namespace) -> pl.DataFrame:
    """The assessment table, with each caption's level and what its rewrite is worth."""
    options = GenerateOptions(
        teacher="rendered",
        count=arguments.count,
        texts_per_image=1,
        seed=arguments.seed,
        family=arguments.family,
        shards=True,
        quiet=True,
    )
    mmsieve.generate_captions(out=folder / "pool", options=options)
    mmsieve.enhance(
        str(folder / "pool" / "shards"),
        model=arguments.model,
        out=folder / "table",
        run=RunOptions(quiet=True, workers=0, keep_metadata=True),
    )
    table = pl.read_parquet(sorted((folder / "table").rglob("*.parquet")))
    level = table["metadata"].str.json_path_match("$.level").cast(pl.Int64)
    scenes = [
        caption_scene(arguments.seed, int(key[1:9]), arguments.family) for key in table["key"]
    ]
    finals = table["final_caption"].to_list()
    rewritten = table["rewritten"].to_list()
    true = [
        r and states_only_true_facts(f, s)
        for r, f, s in zip(rewritten, finals, scenes, strict=True)
    ]
    whole = [t and is_complete(f, s) for t, f, s in zip(true, finals, scenes, strict=True)]
    return table.with_columns(level=level, true=pl.Series(true), complete=pl.Series(whole))


def report(told: pl.DataFrame) -> None:
    usable = told.filter(pl.col("status") == "ok")
    print("| level | captions | unusable answers | mean score | rewritten | true | complete |")
    print("|---|---|---|---|---|---|---|")
    for level in reversed(LEVELS):
        rows = told.filter(pl.col("level") == level)
        new = rows.filter(pl.col("rewritten"))
        shares = [f"{new[name].mean():.4f}" if new.height else "" for name in ("true", "complete")]
        print(
            f"| {level} | {rows.height} | {(rows['status'] != 'ok').sum()} | "
            f"{rows['overall_score'].mean():.2f} | {rows['rewritten'].mean():.4f} | "
            f"{' | '.join(shares)} |"
        )
    rank = spearmanr(usable["level"], usable["overall_score"]).statistic
    new = told.filter(pl.col("rewritten"))
    right = told.filter(pl.col("level") == POSITIVE)
    worse = right.filter(pl.col("rewritten") & ~pl.col("complete"))
    print(f"\nSpearman of the overall score with the level: {rank:.4f}")
    if new.height:
        print(f"Of {new.height} rewrites {new['true'].mean():.4f} state only true facts.")
    print(f"Right captions replaced by one that says less: {worse.height / right.height:.4f}")


def report_quality(told: pl.DataFrame, arguments: argparse.Namespace) -> None:
    """What the bundled classifier says of the rewritten captions, before and after."""
    new = told.filter(pl.col("rewritten"))
    if not new.height:
        return
    model, drawing = load_model("unifilter-tiny"), Drawing(family=arguments.family)
    images = [
        drawing.draw(caption_scene(arguments.seed, int(key[1:9]), arguments.family))
        for key in new["key"]
    ]
    means = []
    for column in ("caption", "final_caption"):
        samples = [Sample.caption(i, t) for i, t in zip(images, new[column], strict=True)]
        scores = [row["quality_score"] for row in model.score(samples)]
        means.append(sum(scores) / len(scores))
    before, after = means
    print(
        f"unifilter-tiny's mean on what was rewritten: {before:.3f} before, {after:.3f} after, "
        f"{after - before:+.3f}"
    )


if __name__ == "__main__":
    main()
