"""What a classifier learns from captions and documents together, and from documents alone.

    python -m benchmarks.joint FOLDER [--count 2000] [--seed 990]

Draws both kinds of texts into FOLDER, gives `unifilter-tiny` a new head (four outputs, which know
neither), trains it on both files and on the documents alone, and measures all on texts that no
training saw. The same command goes on where it was stopped.
"""

import argparse
import datetime
import os
import platform
import tempfile
from pathlib import Path

import mmsieve
from benchmarks.held_out import HEADER, measure
from mmsieve import GenerateOptions, TrainOptions

RECIPE = '''"""A new head on a model that reads these pictures: no loss but that of the level."""

from mmsieve.training.recipe import Recipe, load_recipe

RECIPE = load_recipe("unifilter-tiny", Recipe).changed(
    name="joint",
    start={"labels": 4},
    classifier={
        "batch": 12,
        "epochs": 2,
        "learning_rate": 4e-4,
        "captioning": 0.0,
        "wrong_words": 0.0,
        "tower_rate": 0.0,
        "save_steps": 100,
    },
)
'''


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=990)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    captions, documents = folder / "cap", folder / "doc"
    drawn = {"teacher": "rendered", "val_fraction": 0.05, "quiet": True}
    captioned = GenerateOptions(count=8000, seed=21, **drawn)
    mmsieve.generate_captions(out=captions, options=captioned)
    mmsieve.generate_documents(out=documents, options=GenerateOptions(count=4000, seed=22, **drawn))
    (folder / "joint.py").write_text(RECIPE)
    trained = {"both": [captions, documents], "docs-only": [documents]}
    for name, data in trained.items():
        mmsieve.train_classifier(
            str(folder / "joint.py"),
            out=folder / name,
            start_from="unifilter-tiny",
            options=TrainOptions(data=data, val=data, quiet=True),
        )
    print(
        f"{arguments.count} texts a row, seed {arguments.seed}; {datetime.date.today()}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}.\n\n{HEADER}"
    )
    with tempfile.TemporaryDirectory() as scratch:
        for name in trained:
            measure(Path(scratch), arguments, str(folder / name), "core")


if __name__ == "__main__":
    main()
