"""demo: the whole pipeline as a newcomer runs it; and the bundled model that it runs on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mmsieve
from mmsieve import (
    EvaluateOptions,
    GenerateOptions,
    RatingOptions,
    ReadOptions,
    RequestError,
    RunOptions,
    SelectOptions,
)
from mmsieve.cli import main
from mmsieve.methods.folders import CATALOG, bundled_names

pytestmark = pytest.mark.slow

REFERENCE = os.environ.get("MMSIEVE_REFERENCE")


def test_the_demo_keeps_what_is_right(tmp_path):
    command = [sys.executable, "-m", "mmsieve", "demo", "--count", "480", "--out", "made"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    shown = [line for line in done.stdout.splitlines() if line.startswith("$ mmsieve ")]
    verbs = [line.split()[2] for line in shown]
    filtering = ["generate"] * 2 + ["score"] + ["filter"] * 3 + ["export"]
    assert verbs == [
        *filtering, *("enhance", "export", "score"), *("generate", "rate", "select"), "report"
    ]  # fmt: skip
    report = mmsieve.demo(out=tmp_path / "made", count=480, quiet=True)  # everything is there
    kept, pool = report.kept["top"], report.pool
    assert sum(pool.values()) == 480
    assert sum(kept.values()) == report.read_back == 120
    assert kept[3] / 120 > 0.85
    assert abs(pool[3] / 480 - 0.25) < 0.08
    assert sum(report.kept["random"].values()) == 120
    assert report.kept["random"][3] / 120 < 0.4
    page = (tmp_path / "made" / "report.html").stat()
    assert 100_000 < page.st_size < 10_000_000
    assert "right" in done.stdout.split("Shares:")[1]
    captions = report.captions
    assert captions.captions == 320
    assert 0.6 < captions.rewritten / 320 < 0.9
    assert captions.after - captions.before > 1.3
    assert report.right["subset"] > 0.8 > report.right["pool"]
    subset = json.loads((tmp_path / "made" / "subset.json").read_text())
    assert len(subset) == 48


def test_a_dry_run_shows_the_commands_and_makes_nothing(tmp_path):
    said = mmsieve.demo(out=tmp_path / "out", dry_run=True).summary()
    assert said.count("$ mmsieve ") == 14
    assert not (tmp_path / "out").exists()


@pytest.mark.long
@pytest.mark.skipif(not REFERENCE, reason="MMSIEVE_REFERENCE does not name the folder of real data")
def test_real_shards_go_through_with_the_bundled_model(tmp_path):
    sources = [str(Path(REFERENCE) / "data" / name) for name in ("captions", "interleaved")]
    run = RunOptions(workers=1, quiet=True)
    report = mmsieve.score(*sources, model="unifilter-tiny", out=tmp_path / "out", run=run)
    assert not report.failed
    assert report.rows == 1493 + 116
    assert report.statuses == {"ok": 1493 + 116}


def test_a_demo_that_is_too_small_is_refused(tmp_path):
    with pytest.raises(RequestError, match="--count"):
        mmsieve.demo(out=tmp_path / "out", count=3)


@pytest.mark.long
@pytest.mark.parametrize("what", ["captions", "documents"])
def test_the_bundled_classifier_masters_scenes_it_never_saw(tmp_path, what):
    make = mmsieve.generate_captions if what == "captions" else mmsieve.generate_documents
    options = GenerateOptions(teacher="rendered", count=600, seed=4242, quiet=True)
    make(out=tmp_path / "data", options=options)
    report = mmsieve.evaluate(
        model="unifilter-tiny",
        data=tmp_path / "data" / "train.json",
        out=tmp_path / "metrics",
        run=EvaluateOptions(quiet=True),
    )
    assert report.overall is not None
    assert report.overall.accuracy > 0.93
    assert report.overall.f1 > 0.92


def test_bundled_models_are_small_and_say_what_they_are():
    assert bundled_names("score") == ["unifilter-tiny"]
    assert bundled_names("enhance") == ["aitqe-tiny"]
    assert bundled_names("rate") == ["mmssr-tiny-scorer", "mmssr-tiny-styler"]
    for known in CATALOG:
        if known.folder is None:
            continue
        files = list(known.folder.iterdir())
        assert sum(file.stat().st_size for file in files) < 10_000_000
        card = (known.folder / "README.md").read_text("utf-8")
        for part in ("## Data", "## Recipe", "## Numbers", "## Not for"):
            assert part in card
        weights = json.loads((known.folder / "training.json").read_text("utf-8"))
        assert weights["recipe"]["name"] == known.name


def test_models_lists_names_sizes_and_licences(capsys):
    with pytest.raises(SystemExit):
        main(["models"])
    said = capsys.readouterr().out
    for known in CATALOG:
        assert f"{known.name}\n" in said
        assert known.licence in said
    assert "not for photographs" in said


def test_an_unknown_model_names_the_bundled_ones(tmp_path: Path):
    with pytest.raises(RequestError, match="unifilter-tiny"):
        mmsieve.load_model("unifilter-huge")


@pytest.mark.long
@pytest.mark.skipif(not REFERENCE, reason="MMSIEVE_REFERENCE does not name the folder of real data")
def test_real_instruction_samples_are_rated_and_chosen(tmp_path):
    data = Path(REFERENCE) / "data" / "instruct"
    report = mmsieve.rate(
        str(data / "qas.json"),
        model="mmssr-tiny-scorer",
        out=tmp_path / "ratings",
        rating=RatingOptions(styler="mmssr-tiny-styler"),
        read=ReadOptions(images=data / "images"),
        run=RunOptions(workers=1, quiet=True),
    )
    assert report.statuses == {"ok": 510}
    chosen = mmsieve.select(
        tmp_path / "ratings",
        out=tmp_path / "chosen",
        choice=SelectOptions(budget=0.3),
        data=data / "qas.json",
        subset=tmp_path / "subset.json",
        quiet=True,
    )
    items = json.loads((tmp_path / "subset.json").read_text())
    everything = json.loads((data / "qas.json").read_text())
    assert chosen.kept == len(items) == 153
    assert [item for item in everything if item in items] == items


@pytest.mark.long
@pytest.mark.skipif(not REFERENCE, reason="MMSIEVE_REFERENCE does not name the folder of real data")
def test_real_captions_are_judged(tmp_path):
    report = mmsieve.enhance(
        str(Path(REFERENCE) / "data" / "captions" / "00000001.tar"),
        model="aitqe-tiny",
        out=tmp_path / "out",
        run=RunOptions(workers=1, quiet=True),
    )
    assert report.rows > 400
    assert report.statuses == {"ok": report.rows}
