"""How well classifiers tell the levels of rendered texts that they never saw.

    python -m benchmarks.held_out [MODEL...] [--count 4000] [--seed 990] [--blank MODEL]

A row per model, family of scenes and kind of text; `--blank` adds a model that was trained on blank
images, measured on blank images: what the texts alone give away.
"""

import argparse
import datetime
import os
import platform
import tempfile
from pathlib import Path

import mmsieve
from mmsieve import EvaluateOptions, GenerateOptions
from mmsieve.synthetic.scenes import WORLDS

HEADER = """\
| model | scenes | kind | accuracy | macro F1 | F1 of levels 0, 1, 2, 3 | spearman |
|---|---|---|---|---|---|---|"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=["unifilter-tiny"])
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=990)
    parser.add_argument("--blank", nargs="*", default=[])
    arguments = parser.parse_args()
    print(
        f"{arguments.count} texts a row, seed {arguments.seed}; {datetime.date.today()}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}.\n\n{HEADER}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for family in WORLDS:
            for model in arguments.models:
                measure(Path(folder), arguments, model, family)
        for model in arguments.blank:
            measure(Path(folder), arguments, model, "core", blank=True)


def measure(
    folder: Path, arguments: argparse.Namespace, model: str, family: str, blank: bool = False
) -> None:
    """Print the rows of a model on a family of scenes."""
    makers = {"captions": mmsieve.generate_captions, "documents": mmsieve.generate_documents}
    for kind, make in makers.items():
        if kind == "documents" and not WORLDS[family].has_things:
            continue
        data = folder / f"{family}-{kind}-{blank}"
        options = GenerateOptions(
            teacher="rendered",
            count=arguments.count,
            seed=arguments.seed,
            family=family,
            blank_images=blank,
            quiet=True,
        )
        make(out=data, options=options)
        found = mmsieve.evaluate(
            model=model,
            data=data / "train.json",
            out=folder / "metrics",
            run=EvaluateOptions(quiet=True),
        ).overall
        levels = ", ".join(f"{value:.3f}" for value in found.f1_per_level)
        name = f"{Path(model).name}{', blank images' if blank else ''}"
        print(
            f"| {name} | {family} | {kind} | {found.accuracy:.4f} | {found.f1:.4f} | {levels} "
            f"| {found.spearman or 0:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
