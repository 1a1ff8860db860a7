"""Trainings that are spread over processes end with the weights of one that accumulates.

`make test-sharded` runs them in an environment with DeepSpeed: DDP, ZeRO-2, ZeRO-3 and FSDP2, each
as two processes of the shipped config, which are killed once and go on.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import PIL.Image
import pytest
import torch
from safetensors.torch import load_file

import mmsieve
import mmsieve.training
from mmsieve import GenerateOptions
from mmsieve.generation.files import CAPTION_HEAD
from mmsieve.training.options import TrainOptions
from tests.helpers.tiny import Recipe, make_tower, picture
from tests.training.test_pretrained import language_model

pytestmark = pytest.mark.sharded

CONFIGS = Path(mmsieve.training.__file__).parent / "accelerate"
LAUNCH = Path(__file__).parent / "launch.py"
KINDS = ("zero2", "zero3", "fsdp2")
STEPS, KILLED_AT, SAVED_AT = 6, 4, 2

RECIPE = """from mmsieve.training.recipe import Recipe, load_recipe
SMOKE = load_recipe("unifilter-qwen3-0.6b", Recipe, smoke=True).changed(
    weights="float32", start={"image_tokens": 4},
    projector={"total_batch": 4, "learning_rate": 1e-3},
    classifier={"total_batch": 4, "epochs": 3, "learning_rate": 1e-4, "save_steps": 2,
                "tower_rate": 0.2, "captioning": 1.0, "gradient_checkpointing": True},
)
"""


BFLOAT16 = '4, "precision": "bfloat16", "epochs'

RATER = """from mmsieve.training.recipe import RaterRecipe, load_recipe
SMOKE = load_recipe("mmssr-tiny-scorer", RaterRecipe, smoke=True).changed(
    weights="float32", rater={"batch": 1, "total_batch": 4, "epochs": 2, "learning_rate": 1e-4},
)
"""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A training that can be run in any number of processes."""

    goal: str
    recipe: str
    options: TrainOptions
    start_from: str | None = None

    def words(self, out: Path) -> list[str]:
        """Its command line."""
        found = ["train", self.goal, self.recipe, "--out", str(out), "--smoke", "--quiet"]
        given = {"start-from": self.start_from}
        for name in ("data", "val", "pretrain", "language_model", "vision_tower"):
            given[name.replace("_", "-")] = getattr(self.options, name)
        return found + [w for k, v in given.items() if v is not None for w in (f"--{k}", str(v))]


def run(kind: str, count: int, setting: Setting, out: Path, *, die_at: int | None = None) -> str:
    """Launch it under a shipped config; returns what was printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "false"}
    environment |= {"PYTHONPATH": str(LAUNCH.parents[2])}
    environment |= {} if die_at is None else {"MMSIEVE_DIE_AT": str(die_at)}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0"]
    launch += ["--config_file", str(CONFIGS / f"{kind}.yaml"), "--num_processes", str(count)]
    done = subprocess.run(
        [*launch, str(LAUNCH), *setting.words(out)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert (done.returncode == 0) == (die_at is None), done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    """A language model with tied embeddings, a tower, captions, texts at levels."""
    folder = tmp_path_factory.mktemp("parts")
    make_tower(folder / "tower", Recipe())
    language_model(folder / "language", "qwen3", tied=True)
    texts, captions = [], []
    for index in range(8):
        PIL.Image.fromarray(picture(index, 40, 40)).save(folder / f"{index}.png")
        for level in range(4):
            text = f"{CAPTION_HEAD}A small brown dog, number {index}, of level {level}."
            texts.append({"image": f"{index}.png", "text": text, "label": level})
        turns = [{"from": "gpt", "value": f"A dog on grass, number {index}."}]
        captions.append({"image": f"{index}.png", "conversations": turns})
    (folder / "train.json").write_text(json.dumps(texts))
    (folder / "val.json").write_text(json.dumps(texts[3:7]))
    (folder / "captions.json").write_text(json.dumps(captions))
    (folder / "recipe.py").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def classifier(parts) -> Setting:
    """Both stages of a classifier, the tower at a low rate."""
    options = TrainOptions(
        smoke=True,
        quiet=True,
        data=parts / "train.json",
        pretrain=parts / "captions.json",
        language_model=str(parts / "language"),
        vision_tower=str(parts / "tower"),
    )
    return Setting(goal="classifier", recipe=str(parts / "recipe.py"), options=options)


@pytest.fixture(scope="module")
def alone(classifier, tmp_path_factory) -> Path:
    """What one process makes of it."""
    out = tmp_path_factory.mktemp("alone") / "out"
    torch.set_num_threads(1)
    mmsieve.train_classifier(classifier.recipe, out=out, options=classifier.options)
    return out


@pytest.fixture(scope="module")
def best_alone(parts, classifier, tmp_path_factory) -> Path:
    """The same, but of the states the one that does best on held-out texts: the first."""
    out = tmp_path_factory.mktemp("best") / "out"
    options = replace(classifier.options, val=parts / "val.json")
    mmsieve.train_classifier(classifier.recipe, out=out, options=options)
    return out


def progress(seen: Path, start: Path, end: Path) -> float:
    """How far weights are on the straight way from one checkpoint to another: 0 to 1.

    Rounding moves them, too, but hardly along the way.
    """
    files = [load_file(folder / "model.safetensors") for folder in (seen, start, end)]
    names = [name for name in files[0] if ".layers." in name]
    at, first, last = (torch.cat([file[n].flatten() for n in names]).double() for file in files)
    way = last - first
    return ((at - first) @ way / (way @ way)).item()


def gap(one: Path, other: Path) -> float:
    """The largest difference between two checkpoints, which have the same tensors."""
    files = [load_file(folder / "model.safetensors") for folder in (one, other)]
    assert files[0].keys() == files[1].keys()
    return max((files[0][name] - files[1][name]).abs().max().item() for name in files[0])


def logged(out: Path) -> list[float]:
    """The losses of the goal's stage."""
    logs = json.loads((out / "training.json").read_text("utf-8"))["logs"]["classifier"]
    return [entry["loss"] for entry in logs if "loss" in entry]


def test_ddp_ends_with_the_weights_of_one_process(classifier, alone, tmp_path):
    out = tmp_path / "out"
    said = run("ddp", 2, classifier, out)
    assert said.count("trained in") == 1  # the first process alone speaks
    assert gap(alone, out) < 1e-5
    assert logged(out) == pytest.approx(logged(alone), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_resumed_the_weights_are_those_of_one_process(kind, classifier, alone, tmp_path):
    """Killed with -9 after the first saved state; then on as many processes, and on another."""
    out, other = tmp_path / "out", tmp_path / "other"
    run(kind, 2, classifier, out, die_at=KILLED_AT)
    states = out / "stages" / "classifier-states"
    assert (states / f"checkpoint-{SAVED_AT}" / "trainer_state.json").is_file()
    assert not (out / "config.json").exists()
    shutil.copytree(out, other)
    for count, folder in ((2, out), (1, other)):
        said = run(kind, count, classifier, folder)
        assert "stage projector was done before" in said
        assert gap(alone, folder) < 1e-5
        assert logged(folder) == pytest.approx(logged(alone), abs=1e-5)


@pytest.fixture(scope="module")
def rater(tmp_path_factory) -> tuple[Setting, Path]:
    """The fine-tuning of a rater, and what one process makes of it."""
    folder = tmp_path_factory.mktemp("rater")
    asked = GenerateOptions(teacher="rendered", count=8, quiet=True)
    mmsieve.generate_ratings(out=folder / "data", options=asked)
    (folder / "recipe.py").write_text(RATER)
    options = TrainOptions(smoke=True, quiet=True, data=folder / "data")
    setting = Setting(
        goal="rater",
        recipe=str(folder / "recipe.py"),
        options=options,
        start_from="mmssr-tiny-scorer",
    )
    mmsieve.train_rater(
        setting.recipe, out=folder / "out", start_from=setting.start_from, options=options
    )
    return setting, folder / "out"


@pytest.mark.parametrize("kind", ["zero3", "fsdp2"])
def test_a_rater_is_gathered_whole(kind, rater, tmp_path):
    """Supervised fine-tuning: a parameter beside all modules, a tower whose end is not used."""
    setting, alone = rater
    run(kind, 2, setting, tmp_path / "out")
    assert gap(alone, tmp_path / "out") < 1e-5


@pytest.mark.parametrize("kind", ["zero3", "fsdp2"])
def test_the_best_state_is_gathered_also_in_bfloat16(
    kind, parts, classifier, alone, best_alone, tmp_path
):
    """DeepSpeed rounds the weights that it starts from, but goes no further than the best state."""
    (tmp_path / "recipe.py").write_text(RECIPE.replace('4, "epochs', BFLOAT16))
    setting = replace(
        classifier,
        recipe=str(tmp_path / "recipe.py"),
        options=replace(classifier.options, val=parts / "val.json"),
    )
    run(kind, 2, setting, tmp_path / "out")
    assert abs(progress(tmp_path / "out", best_alone, alone)) < 0.2
