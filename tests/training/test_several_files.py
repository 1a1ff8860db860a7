"""train from several files: each with its images and weight; both stages from one command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import mmsieve
from mmsieve import RequestError, TrainOptions
from mmsieve.cli import main
from mmsieve.generation.files import CAPTION_HEAD
from mmsieve.training.records import Mixture
from tests.helpers.tiny import Recipe, make_tower, picture
from tests.training.test_pretrained import language_model

RECIPE = """from mmsieve.training.recipe import Recipe, load_recipe
SMOKE = load_recipe("unifilter-tiny", Recipe, smoke=True).changed(
    lesson=None, classifier={"batch": 2, "captioning": 0.0, "wrong_words": 0.0, "tower_rate": 0.0},
)
"""


def texts(folder: Path, seed: int, groups: int) -> Path:
    """A file in the published layout, its images beside it, under the same names anywhere."""
    folder.mkdir(parents=True)
    records = []
    for index in range(groups):
        PIL.Image.fromarray(picture(seed + index, 40, 40)).save(folder / f"{index}.png")
        records += [
            {"image": f"{index}.png", "text": f"{CAPTION_HEAD}{seed} {level}", "label": level}
            for level in (0, 3)
        ]
    (folder / "train.json").write_text(json.dumps(records))
    return folder / "train.json"


@pytest.fixture
def files(tmp_path) -> tuple[Path, Path]:
    return texts(tmp_path / "a", 1, 4), texts(tmp_path / "b", 50, 3)


@pytest.fixture
def recipe(tmp_path) -> str:
    (tmp_path / "recipe.py").write_text(RECIPE)
    return str(tmp_path / "recipe.py")


@pytest.mark.long
def test_files_are_learnt_together_each_with_its_own_folder_of_images(files, recipe, tmp_path):
    """The same names of images in both folders are different images."""
    out = tmp_path / "out"
    options = TrainOptions(smoke=True, quiet=True, data=[files[0].parent, files[1]])
    report = mmsieve.train_classifier(recipe, out=out, options=options)
    assert f"{files[0]}: 8 records" in report.notes
    assert f"{files[1]}: 6 records" in report.notes
    log = json.loads((out / "training.json").read_text("utf-8"))
    assert log["logs"]["classifier"][-1]["step"] == 4  # 7 images, two at a time
    assert len(log["data"]) == 2
    together = tmp_path / "together"
    texts(together, 1, 4)
    records = json.loads(files[0].read_text())
    for record in json.loads(files[1].read_text()):
        source = files[1].parent / record["image"]
        (together / f"b{record['image']}").write_bytes(source.read_bytes())
        records.append(record | {"image": f"b{record['image']}"})
    (together / "train.json").write_text(json.dumps(records))
    one = TrainOptions(smoke=True, quiet=True, data=together)
    mmsieve.train_classifier(recipe, out=tmp_path / "one", options=one)
    same = [load_file(folder / "model.safetensors") for folder in (out, tmp_path / "one")]
    assert all(torch.equal(tensor, same[1][name]) for name, tensor in same[0].items())


@pytest.mark.long
def test_a_weight_is_how_often_a_file_comes_in_an_epoch(files, recipe, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["train", "classifier", recipe, "--smoke", "--quiet", "--out", str(out)]
    for file, weight in zip(files, ("0.5", "2"), strict=True):
        words += ["--data", str(file), "--data-weight", weight]
    with pytest.raises(SystemExit) as done:
        main(words)
    assert done.value.code == 0, capsys.readouterr().err
    log = json.loads((out / "training.json").read_text("utf-8"))
    assert log["logs"]["classifier"][-1]["step"] == 4  # 2 + 6 images
    assert log["data_weight"] == [0.5, 2]


@pytest.mark.slow
@pytest.mark.long
def test_what_is_left_out_says_of_which_file(files, recipe, tmp_path):
    (files[1].parent / "0.png").unlink()
    out = tmp_path / "out"
    options = TrainOptions(smoke=True, quiet=True, data=list(files))
    mmsieve.train_classifier(recipe, out=out, options=options)
    lines = [json.loads(line) for line in (out / "left_out.jsonl").read_text().splitlines()]
    assert [(one["file"], one["index"]) for one in lines] == [
        (str(files[1]), 0),
        (str(files[1]), 1),
    ]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"images": 1}, "--images: 1 for 2 --data: one for each"),
        ({"data_weight": [1.0, 2.0, 3.0]}, "--data-weight: 3 for 2 --data: one for each"),
        ({"data_weight": [1.0, 0.0]}, "--data-weight: must be above 0"),
        ({"val": "nowhere.json"}, "--val nowhere.json: no such file"),
        ({"pretrain": "nowhere.json"}, "--pretrain nowhere.json: no such file"),
        ({"pretrain_images": 1}, "--pretrain-images goes with --pretrain FILE"),
        ({"data": None, "data_weight": 2.0}, "--data-weight goes with --data FILE"),
    ],
)
def test_what_does_not_go_together_is_refused(files, recipe, tmp_path, given, says):
    values = {"data": list(files)} | given
    for name in ("images", "pretrain_images"):
        if name in values:
            values[name] = [files[0].parent]
    paths = {name: Path(v) if isinstance(v, str) else v for name, v in values.items()}
    with pytest.raises(RequestError, match=says):
        mmsieve.train_classifier(
            recipe, out=tmp_path / "out", options=TrainOptions(smoke=True, **paths)
        )
    assert not (tmp_path / "out").exists()


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    weight=st.sampled_from([0.25, 0.5, 1.0, 1.5, 3.0]),
    seed=st.integers(0, 9),
)
def test_over_four_epochs_every_item_comes_as_often_as_its_weight_says(sizes, weight, seed):
    sizes = [4 * size for size in sizes]
    mixture = Mixture(tuple(sizes), (weight,) * len(sizes))
    epochs = [mixture.items(seed, epoch) for epoch in range(4)]
    assert all(len(items) == len(mixture) for items in epochs)
    for item in range(sum(sizes)):
        assert sum(items.count(item) for items in epochs) == 4 * weight
        most = max(items.count(item) for items in epochs)
        assert most <= weight + 1


# Stage 1 and stage 2 from one command


@pytest.fixture
def parts(tmp_path) -> dict[str, str]:
    """A language model and a tower, in words of a command line."""
    make_tower(tmp_path / "tower", Recipe())
    language_model(tmp_path / "language", "qwen2", tied=True)
    return {"language_model": str(tmp_path / "language"), "vision_tower": str(tmp_path / "tower")}


def captions(folder: Path) -> Path:
    records = [
        {"image": f"{n}.png", "conversations": [{"from": "gpt", "value": f"A dog, {n}."}]}
        for n in range(3)
    ]
    (folder / "captions.json").write_text(json.dumps(records))
    return folder / "captions.json"


UNTAUGHT = "is new and knows nothing: --pretrain captions.json teaches it"


@pytest.mark.slow
@pytest.mark.long
def test_a_new_projector_is_taught_first_or_missed_in_a_line(files, parts, tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from mmsieve.training.recipe import Recipe, load_recipe\n"
        "SMOKE = load_recipe('unifilter-qwen3-0.6b', Recipe, smoke=True).changed(\n"
        "    weights='float32', start={'image_tokens': 4})\n"
    )
    words = [str(recipe), "--data", str(files[0]), "--smoke", "--quiet"]
    words += [w for name, value in parts.items() for w in (f"--{name.replace('_', '-')}", value)]
    alone, both = tmp_path / "alone", tmp_path / "both"
    assert _train("classifier", [*words, "--out", str(alone)]).count(UNTAUGHT) == 1
    taught = [*words, "--pretrain", str(captions(files[0].parent)), "--out", str(both)]
    assert _train("classifier", taught) == ""
    stages = json.loads((both / "training.json").read_text("utf-8"))["logs"]
    assert list(stages) == ["projector", "classifier"]
    # the same as one stage after the other
    first, second = tmp_path / "first", tmp_path / "second"
    options = {"smoke": True, "quiet": True, **parts}
    captioned = TrainOptions(data=files[0].parent / "captions.json", **options)
    mmsieve.train_projector(str(recipe), out=first, options=captioned)
    levels = TrainOptions(data=files[0], **options)
    mmsieve.train_classifier(str(recipe), out=second, start_from=first, options=levels)
    made = [load_file(folder / "model.safetensors") for folder in (both, second)]
    assert all(torch.equal(tensor, made[1][name]) for name, tensor in made[0].items())


@pytest.mark.long
def test_an_enhancer_is_aligned_by_its_projector_alone(files, parts, tmp_path):
    data, out, started = tmp_path / "data", tmp_path / "out", tmp_path / "started"
    asked = mmsieve.GenerateOptions(teacher="rendered", count=4, quiet=True)
    mmsieve.generate_assessments(out=data, options=asked)
    words = ["aitqe-qwen2-7b-lora", "--data", str(data), "--smoke", "--quiet"]
    words += [w for name, value in parts.items() for w in (f"--{name.replace('_', '-')}", value)]
    assert _train("enhancer", [*words, "--out", str(started)]).count(UNTAUGHT) == 1
    taught = [*words, "--pretrain", str(captions(files[0].parent)), "--out", str(out)]
    assert _train("enhancer", taught) == ""
    logs = json.loads((out / "training.json").read_text("utf-8"))["logs"]
    assert list(logs) == ["projector", "enhancer"]
    assert logs["projector"][-1]["step"] == 1


def test_pretrain_is_refused_where_there_is_no_such_stage(files, recipe, tmp_path):
    options = TrainOptions(smoke=True, data=files[0], pretrain=captions(files[0].parent))
    with pytest.raises(RequestError, match="train projector has --data"):
        mmsieve.train_projector(recipe, out=tmp_path / "out", options=options)
    with pytest.raises(RequestError, match="recipe aitqe-tiny has no stage projector"):
        mmsieve.train_enhancer("aitqe-tiny", out=tmp_path / "out", options=options)


def _train(goal: str, words: list[str]) -> str:
    """Run the command line; returns what came on stderr."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mmsieve", "train", goal, *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr
