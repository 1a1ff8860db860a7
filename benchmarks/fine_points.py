"""Choices of UniFilter's training, one changed at a time, on rendered scenes.

    python -m benchmarks.fine_points --out DIR [--groups 15000] [--count 4000]

Squared error or cross-entropy of the level; images padded or stretched to a square; 16 or 144
tokens per image, with as many groups and with as much time. Pictures are half as wide again as
high, the tower has 144 patches whatever becomes of them. All rows go on from one tower that had
its lesson, with one seed, and are judged on texts of an unseen seed; seconds are the row's own. Run
again, what is finished is not trained again.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import tempfile
from pathlib import Path

import mmsieve
from mmsieve import EvaluateOptions, TrainOptions
from mmsieve.generation.files import TrainingFiles, image_names, text_fields
from mmsieve.synthetic.teacher import Drawing, caption_group, document_group
from mmsieve.training.recipe import Architecture, ClassifierStage, Optimisation, Recipe, Rendered

ASPECT = 1.5
SEED = 991
_THINGS = {"core": 0.5, "many": 0.5}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--groups", type=int, default=15_000)
    parser.add_argument("--count", type=int, default=4000)
    arguments = parser.parse_args()
    print(
        f"{arguments.groups:,} groups of training, {arguments.count} held-out texts of each kind; "
        f"{datetime.date.today()}, {os.cpu_count()} cores, Python {platform.python_version()}.\n\n"
        "| loss | fit | tokens per image | groups | seconds | captions: accuracy, macro F1, mse "
        "| documents: accuracy, macro F1, mse |\n|---|---|---|---|---|---|---|"
    )
    base = {"labels": 1, "image_fit": "pad", "image_tokens": 16, "groups": arguments.groups}
    rows = [
        base,
        base | {"labels": 4},
        base | {"image_fit": "stretch"},
        base | {"image_tokens": 144, "groups": arguments.groups // 3},
        base | {"image_tokens": 144},
    ]
    with tempfile.TemporaryDirectory() as folder:
        data = {kind: held_out(Path(folder), kind, arguments.count) for kind in MAKERS}
        for row in rows:
            measure(arguments.out, base, row, data)


MAKERS = {"captions": caption_group, "documents": document_group}


def held_out(folder: Path, kind: str, count: int) -> Path:
    """Labelled texts over pictures of this aspect that no training sees."""
    files = TrainingFiles(folder / kind)
    for index in range(count // 4):
        group = MAKERS[kind](SEED, index, Drawing(aspect=ASPECT))
        files.add_images(group.key, group.images)
        names = image_names(group.key, ["png"] * len(group.images))
        files.add(group.key, text_fields(names, group.texts), False)
    files.finish()
    return folder / kind / "train.json"


def train(out: Path, name: str, recipe: Recipe, start_from: Path | None = None) -> Path:
    """The checkpoint of a recipe: a tower that had its lesson, or a classifier."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{name}.py"
    file.write_text(
        "from mmsieve.training.recipe import Recipe\n"
        f"RECIPE = Recipe.model_validate_json({recipe.model_dump_json()!r})\n"
    )
    options = TrainOptions(quiet=True)
    if start_from is None:
        mmsieve.train_projector(str(file), out=out / name, options=options)
    else:
        mmsieve.train_classifier(str(file), out=out / name, start_from=start_from, options=options)
    return out / name


def recipe(row: dict) -> Recipe:
    """The bundled recipe's training in short, on pictures that are not square."""
    start = {name: row[name] for name in ("labels", "image_fit", "image_tokens")}
    return Recipe(
        name="fine-points",
        start=Architecture(patch_size=6, **start),
        lesson=Optimisation(
            batch=48, learning_rate=2e-3, rendered=Rendered(groups=28_800, families=_THINGS)
        ),
        projector=Optimisation(
            batch=12, learning_rate=1e-3, rendered=Rendered(groups=12, aspect=ASPECT)
        ),
        classifier=ClassifierStage(
            batch=12,
            learning_rate=4e-4,
            tower_rate=0.3,
            captioning=1.0,
            wrong_words=1.0,
            rendered=Rendered(groups=row["groups"], aspect=ASPECT),
        ),
    )


def prepared(out: Path, base: dict, row: dict) -> Path:
    """The shared start, fitting and pooling images as this row wants it."""
    lesson = train(out, "lesson", recipe(base))
    place = out / f"start-{row['image_fit']}-{row['image_tokens']}"
    shutil.copytree(lesson, place, dirs_exist_ok=True)
    config = json.loads((lesson / "config.json").read_text("utf-8"))
    config["mm_num_image_tokens"] = row["image_tokens"]
    config["mmsieve"]["image_fit"] = row["image_fit"]
    (place / "config.json").write_text(json.dumps(config, indent=2))
    return place


def measure(out: Path, base: dict, row: dict, data: dict[str, Path]) -> None:
    """Train and print a row."""
    name = "-".join(str(value) for value in row.values())
    train(out, name, recipe(row), prepared(out, base, row))
    logs = json.loads((out / name / "training.json").read_text("utf-8"))["logs"]
    seconds = sum(log[-1]["train_runtime"] for log in logs.values())
    cells = []
    for kind, file in data.items():
        found = mmsieve.evaluate(
            model=str(out / name),
            data=file,
            out=out / f"{name}-{kind}",
            run=EvaluateOptions(quiet=True),
        ).overall
        cells.append(f"{found.accuracy:.4f}, {found.f1:.4f}, {found.mse:.4f}")
    loss = "squared error" if row["labels"] == 1 else "cross-entropy"
    print(
        f"| {loss} | {row['image_fit']} | {row['image_tokens']} | {row['groups']:,} "
        f"| {seconds:,.0f} | {' | '.join(cells)} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
