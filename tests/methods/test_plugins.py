"""Scorers of other packages, over the command line: examples/aesthetic_scorer, and broken ones."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from tests.helpers.plugins import write_plugin
from tests.helpers.shards import captions, write_tar

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
EXAMPLE = REPOSITORY / "examples" / "aesthetic_scorer"
LABELS = {0: "fine", 1: "fair", 2: "poor"}
MEMBERS = captions(12)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder of installed packages: the example by pip, without network, and a broken one."""
    site, copy = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("source") / "example"
    shutil.copytree(EXAMPLE, copy)
    install = "install --quiet --no-deps --no-build-isolation --no-index --target"
    subprocess.run([sys.executable, "-m", "pip", *install.split(), site, copy], check=True)
    write_plugin(site, "broken", "broken_scorer:make", "import a_package_that_is_not_there\n")
    write_plugin(site, "odd", "odd_scorer:make", "def make(model, options):\n    return model\n")
    write_plugin(site, "failing", "failing_scorer:make", "make = lambda model, options: 1 / 0\n")
    return site


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "vit"
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        id2label=LABELS,
        label2id={name: number for number, name in LABELS.items()},
    )
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    rng = np.random.default_rng(0)
    random = {name: rng.normal(size=w.shape).astype(w.dtype) / 4 for name, w in weights.items()}
    save_file(random, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    for number in range(2):
        write_tar(folder / f"{number:05}.tar", MEMBERS[18 * number : 18 * number + 18])
    return folder


@pytest.fixture(scope="module")
def mmsieve(site):
    """Runs the command with the plug-ins installed; gives exit code, output and errors."""

    def run(*words: object) -> tuple[int, str, str]:
        path = os.pathsep.join([str(site), str(REPOSITORY)])
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "mmsieve", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture(scope="module")
def scored(mmsieve, classifier, shards, tmp_path_factory) -> tuple[Path, str]:
    """The table of the example's scores, and what `score` printed."""
    out = tmp_path_factory.mktemp("scored") / "aesthetic"
    model = f"aesthetic:{classifier}#fair"
    code, printed, errors = mmsieve("score", shards, "--model", model, "--out", out, "--quiet")
    assert code == 0, errors
    return out, printed


def test_models_lists_plugins_and_names_broken_ones_in_one_line(mmsieve):
    code, printed, errors = mmsieve("models")
    assert (code, errors) == (0, "")
    lines = [line.strip() for line in printed.splitlines()]
    assert "unifilter-tiny" in lines
    (listed,) = [line for line in lines if line.startswith("aesthetic:MODEL")]
    assert "scores images with any image classifier" in listed
    assert "aesthetic-scorer 0.1.0" in listed
    (broken,) = [line for line in lines if line.startswith("broken")]
    assert "ModuleNotFoundError: No module named 'a_package_that_is_not_there'" in broken


def test_a_plugin_scores(scored, shards):
    out, printed = scored
    table = pl.read_parquet(out / "*.parquet")
    assert table["status"].to_list() == ["ok"] * 12
    assert table["aesthetic_score"].dtype == pl.Float32
    assert table["aesthetic_score"].is_between(0, 1).all()
    assert table["aesthetic_score"].n_unique() > 6
    assert "aesthetic_score is the probability of label 1 of vit" in printed


def test_its_scores_are_those_of_the_stock_classes(scored, classifier):
    model = ViTForImageClassification.from_pretrained(classifier).eval()
    processor = ViTImageProcessorPil.from_pretrained(classifier)
    members = dict(MEMBERS)
    for row in pl.read_parquet(scored[0] / "*.parquet").iter_rows(named=True):
        picture = Image.open(io.BytesIO(members[f"{row['key']}.jpg"]))
        with torch.inference_mode():
            logits = model(**processor(images=picture, return_tensors="pt")).logits
        assert row["aesthetic_score"] == pytest.approx(logits.softmax(1)[0, 1].item(), abs=1e-5)


@pytest.mark.parametrize("by", [("--by", "aesthetic_score"), ()])
def test_its_scores_are_filtered_by_their_name_or_alone(scored, mmsieve, tmp_path, by):
    cut = ("--top-fraction", "0.5", *by, "--out", tmp_path / "keep", "--quiet")
    code, _, errors = mmsieve("filter", scored[0], *cut)
    assert (code, errors) == (0, "")
    decisions = pl.read_parquet(tmp_path / "keep" / "*.parquet")
    table = pl.read_parquet(scored[0] / "*.parquet")
    kept = decisions.filter("keep")["score"]
    assert len(kept) == 6
    assert kept.min() >= table["aesthetic_score"].median()


def test_an_integer_column_is_filtered_by_too(scored, mmsieve, tmp_path):
    cut = ("--by", "num_images", "--min-score", 1, "--out", tmp_path / "keep", "--quiet")
    code, printed, _ = mmsieve("filter", scored[0], *cut)
    assert code == 0
    assert "12 of 12 rows kept" in printed


def test_its_scores_are_drawn(scored, mmsieve, shards, tmp_path):
    page = tmp_path / "page.html"
    code, _, errors = mmsieve("report", scored[0], shards, "--out", page, "--quiet")
    assert (code, errors) == (0, "")
    text = page.read_text("utf-8")
    assert "samples by aesthetic_score" in text
    assert "data:image" in text
    best = pl.read_parquet(scored[0] / "*.parquet")["aesthetic_score"].max()
    assert f"<b>{best:.2f}</b>" in text


def test_its_scores_are_compared_with_others(scored, mmsieve, shards, tmp_path):
    words = ("score", shards, "--model", "rules", "--out", tmp_path / "rules", "--quiet")
    assert mmsieve(*words)[0] == 0
    code, printed, _ = mmsieve(
        "evaluate", scored[0], tmp_path / "rules", "--out", tmp_path / "both"
    )
    assert code == 0
    assert "aesthetic_score and quality_score, 12 samples" in printed


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("broken:x", "plug-in broken (broken-scorer 1.0) can't be imported: ModuleNotFoundError"),
        ("odd", "plug-in odd (odd-scorer 1.0) gives a NoneType, no Annotator: it has no kind"),
        ("failing", "plug-in failing (failing-scorer 1.0) ZeroDivisionError"),
        ("aesthetic:{0}#lovely", "has no label 'lovely': give one of fine, fair, poor"),
        ("aesthetic", "a folder with config.json"),
        ("nosuch:x", "aesthetic:MODEL"),
    ],
)
def test_only_using_a_broken_plugin_is_refused(mmsieve, shards, classifier, tmp_path, model, says):
    words = ("--model", model.format(classifier), "--out", tmp_path / "out")
    code, _, errors = mmsieve("score", shards, *words)
    assert code == 2
    assert errors.count("\n") == 1
    assert says in errors
    assert not (tmp_path / "out").exists()


def test_a_broken_plugin_costs_other_models_nothing(mmsieve, shards, tmp_path):
    code, _, errors = mmsieve("score", shards, "--model", "rules", "--out", tmp_path / "out")
    assert (code, errors) == (0, "")
