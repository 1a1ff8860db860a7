"""evaluate: a model against labelled texts, on files in the released layout."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

import mmsieve
from mmsieve import EvaluateOptions, GenerateOptions, RequestError
from mmsieve.cli import main
from mmsieve.evaluation.comparing import units_of
from mmsieve.evaluation.metrics import half_of_units, measure, predict
from mmsieve.methods.folders import bundled_folder
from tests.helpers.tiny import Recipe, make_checkpoint


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A training file of 40 captions and 40 documents."""
    folder = tmp_path_factory.mktemp("data")
    options = GenerateOptions(teacher="rendered", count=40, seed=9, quiet=True)
    mmsieve.generate_captions(out=folder / "a", options=options)
    mmsieve.generate_documents(out=folder / "b", options=options)
    both = []
    for part in "ab":
        for entry in json.loads((folder / part / "train.json").read_text("utf-8")):
            images = [entry["image"]] if isinstance(entry["image"], str) else entry["image"]
            names = [f"{part}/{name}" for name in images]
            both.append(entry | {"image": names[0] if len(names) == 1 else names})
    (folder / "both.json").write_text(json.dumps(both))
    return folder / "both.json"


@pytest.fixture(scope="module")
def worse(tmp_path_factory) -> Path:
    """The bundled model with noise on its weights."""
    folder = tmp_path_factory.mktemp("worse") / "worse"
    shutil.copytree(bundled_folder("unifilter-tiny"), folder)
    torch.manual_seed(0)
    for path in folder.glob("*.safetensors"):
        noisy = {
            name: tensor + (torch.randn(tensor.shape) * tensor.float().std() * 0.6).to(tensor.dtype)
            for name, tensor in load_file(path).items()
        }
        save_file(noisy, path, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def two_labels(tmp_path_factory) -> Path:
    """A checkpoint whose score is the probability of a label: no level."""
    return make_checkpoint(tmp_path_factory.mktemp("two") / "two-labels", Recipe(labels=2))


def evaluate(
    data: Path, out: Path, *models: Path | str, **options
) -> tuple[mmsieve.EvaluateReport, dict]:
    run = EvaluateOptions(**({"quiet": True, "resamples": 200} | options))
    chosen = [str(model) for model in models] or "unifilter-tiny"
    report = mmsieve.evaluate(model=chosen, data=data, out=out, run=run)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text = (out / "metrics.json").read_text("utf-8")
    return report, json.loads(text, parse_constant=refuse)


def test_metrics_are_those_of_the_scores_that_score_gives(data, tmp_path):
    report, written = evaluate(data, tmp_path)
    texts = json.loads(data.read_text("utf-8"))
    model = mmsieve.load_model("unifilter-tiny")
    scores = []
    for entry in texts:
        images = [entry["image"]] if isinstance(entry["image"], str) else list(entry["image"])
        if entry["text"].startswith("<image>\n") and not entry["text"].startswith("<image>\n\n"):
            sample = mmsieve.Sample.caption(data.parent / images[0], entry["text"][8:])
        else:
            pieces = entry["text"].split("\n\n")
            parts = [data.parent / images.pop(0) if p == "<image>" else p for p in pieces]
            sample = mmsieve.Sample.document(parts)
        scores.append(model.score([sample])[0]["quality_score"])
    expected = measure(np.array(scores), np.array([entry["label"] for entry in texts]))
    assert written["mse"] == pytest.approx(expected.mse, abs=1e-4)
    assert written["confusion"] == expected.confusion
    assert written["count"] == 80
    assert written["statuses"] == {"ok": 80}
    assert {kind: one["count"] for kind, one in written["by_kind"].items()} == {
        "caption": 40,
        "document": 40,
    }
    assert report.overall is not None
    assert f"{report.overall.accuracy:.4f}" in report.summary()


def test_workers_and_batches_change_nothing(data, tmp_path):
    _, one = evaluate(data, tmp_path / "a")
    _, other = evaluate(data, tmp_path / "b", workers=2, batch_tokens=300)
    assert one["mse"] == pytest.approx(other["mse"], abs=1e-5)
    assert one["confusion"] == other["confusion"]


def test_texts_that_cannot_be_scored_are_counted(data, tmp_path):
    texts = json.loads(data.read_text("utf-8"))[:6]
    texts[0]["image"] = "nowhere.png"
    texts[1]["image"] = "../../etc/passwd"
    texts[2]["text"] = "no mark at all"
    (data.parent / "broken.png").write_bytes(b"not a picture")
    texts[3]["image"] = "broken.png"
    (data.parent / "bad.json").write_text(json.dumps(texts))
    _, written = evaluate(data.parent / "bad.json", tmp_path)
    assert written["statuses"] == {"image_missing": 3, "image_undecodable": 1, "ok": 2}
    assert written["count"] == 2


def test_not_one_text_that_can_be_scored_is_no_success(data, tmp_path, capsys):
    (tmp_path / "alone.json").write_text(data.read_text("utf-8"))
    words = ["evaluate", "--model", "unifilter-tiny", "--data", str(tmp_path / "alone.json")]
    with pytest.raises(SystemExit) as exited:
        main([*words, "--out", str(tmp_path / "out"), "--limit", "3", "--quiet"])
    assert exited.value.code == 1
    assert "3 image_missing, such as 'c00000000-0': " in capsys.readouterr().out


def test_images_may_lie_elsewhere(data, tmp_path):
    (tmp_path / "other.json").write_text(data.read_text("utf-8"))
    _, written = evaluate(tmp_path / "other.json", tmp_path, images=data.parent, limit=5)
    assert written["statuses"] == {"ok": 5}


def test_intervals_stand_beside_the_plain_numbers(data, worse, tmp_path):
    report, written = evaluate(data, tmp_path, worse)
    assert set(written["intervals"]) == {"accuracy", "f1", "mse", "spearman"}
    for part in (written, *written["by_kind"].values()):
        for name, (low, high) in part["intervals"].items():
            assert low <= part[name] <= high, name
    assert written["units"] == 20  # ten images of captions, ten sets of images of documents
    assert written["thresholds"] is None
    assert "20 images or sets of images" in report.summary()
    _, again = evaluate(data, tmp_path / "again", worse)
    _, other = evaluate(data, tmp_path / "other", worse, seed=1)
    assert again["intervals"] == written["intervals"] != other["intervals"]


def test_texts_over_one_image_have_no_interval(data, tmp_path):
    report, written = evaluate(data, tmp_path, limit=4)
    assert written["units"] == 1
    assert set(written["intervals"].values()) == {None}
    assert "no intervals" in report.summary()


def test_several_models_side_by_side(data, worse, tmp_path):
    report, written = evaluate(data, tmp_path, "unifilter-tiny", worse, worse)
    assert list(written["models"]) == list(report.models) == ["unifilter-tiny", "worse", "worse 2"]
    assert written["reference"] == "unifilter-tiny"
    _, alone = evaluate(data, tmp_path / "alone", worse)
    beside = written["models"]["worse"]
    assert {name: alone[name] for name in beside} == beside
    first = written["models"]["unifilter-tiny"]
    for name in ("accuracy", "f1", "spearman"):
        difference = written["differences"]["worse"][name]
        assert difference["value"] == pytest.approx(beside[name] - first[name])
        low, high = difference["interval"]
        assert low <= difference["value"] <= high < 0
    assert written["differences"]["worse"] == written["differences"]["worse 2"]


def test_a_model_less_itself_is_nothing(data, worse, tmp_path):
    _, written = evaluate(data, tmp_path, worse, worse)
    for difference in written["differences"]["worse 2"].values():
        assert difference == {"value": 0, "interval": [0, 0]}


def test_the_printed_tables_are_narrow(data, worse, two_labels, tmp_path):
    long = tmp_path / "a-model-with-a-name-that-is-too-long-for-any-column"
    shutil.copytree(worse, long)
    for models in ([worse], ["unifilter-tiny", worse], ["unifilter-tiny", long, two_labels, worse]):
        report, _ = evaluate(data, tmp_path / "out", *models)
        tables = report.summary().split("\n\n")
        assert max(len(line) for part in tables[:-1] for line in part.splitlines()) <= 100
        assert "\x1b" not in report.summary()


def test_scores_that_are_no_levels_get_thresholds_from_the_other_half(data, two_labels, tmp_path):
    report, written = evaluate(data, tmp_path, two_labels)
    rows = pl.read_parquet(tmp_path / "predictions.parquet")
    half = half_of_units(units_of(rows["image"].to_list()), seed=0)
    assert rows["measured"].to_list() == (~half).tolist()
    cuts = written["thresholds"]
    assert cuts == sorted(cuts)
    assert len(cuts) == 3
    measured = rows.filter("measured")
    scores = measured["score"].to_numpy().astype(np.float64)
    assert predict(scores, cuts).tolist() == measured["level"].to_list()
    assert written["accuracy"] == (measured["level"] == measured["label"]).mean()
    assert written["texts"] + written["texts_fitted"] == 80
    assert written["mse"] is None
    assert written["calibration"]["expected_error"] is None
    assert "two-labels aren't levels" in report.summary()


def test_beside_a_score_with_thresholds_all_are_measured_on_one_half(data, two_labels, tmp_path):
    _, written = evaluate(data, tmp_path, "unifilter-tiny", two_labels)
    counts = {one["count"] for one in written["models"].values()}
    assert counts == {written["texts"]}
    assert written["texts"] < 80
    assert written["models"]["unifilter-tiny"]["thresholds"] is None
    assert written["models"]["unifilter-tiny"]["mse"] is not None


def test_too_few_images_for_thresholds_are_refused(data, two_labels, tmp_path):
    with pytest.raises(RequestError, match="at least 2 images"):
        evaluate(data, tmp_path / "out", two_labels, limit=4)
    assert not (tmp_path / "out").exists()


def test_too_few_usable_images_for_thresholds_is_said(data, two_labels, tmp_path):
    texts = json.loads(data.read_text("utf-8"))[:8]
    missing = [text | {"image": "nowhere.png"} for text in texts[4:]]
    (data.parent / "half.json").write_text(json.dumps(texts[:4] + missing))
    report, written = evaluate(data.parent / "half.json", tmp_path, two_labels)
    assert report.overall is None
    assert written["statuses"] == {"ok": 4, "image_missing": 4}
    assert written["texts"] == 0
    assert "nothing measured" in report.summary()
    assert pl.read_parquet(tmp_path / "predictions.parquet")["level"].null_count() == 8


def test_predictions_show_every_text(data, worse, tmp_path):
    texts = json.loads(data.read_text("utf-8"))[:9]
    texts[4]["image"] = "nowhere.png"
    del texts[5]["id"]
    (data.parent / "some.json").write_text(json.dumps(texts))
    _, written = evaluate(data.parent / "some.json", tmp_path, "unifilter-tiny", worse)
    rows = pl.read_parquet(tmp_path / "predictions.parquet")
    assert rows["key"].to_list() == [text.get("id", "5") for text in texts]
    assert rows["text"].to_list() == [text["text"] for text in texts]
    assert rows["label"].to_list() == [text["label"] for text in texts]
    assert set(rows["kind"]) == {"caption"}
    missing = rows.row(4, named=True)
    assert missing["worse.status"] == "image_missing"
    assert missing["worse.score"] is missing["worse.level"] is None
    assert not missing["measured"]
    right = rows.filter("measured").filter(pl.col("worse.level") == pl.col("label")).height
    assert written["models"]["worse"]["accuracy"] == pytest.approx(right / 8)


def test_a_report_shows_each_model(data, worse, tmp_path):
    evaluate(data, tmp_path, "unifilter-tiny", worse)
    page = tmp_path / "page.html"
    mmsieve.report(str(tmp_path / "metrics.json"), out=page)
    assert f"{tmp_path.name}: worse" in page.read_text("utf-8")


def test_a_dry_run_writes_nothing(data, tmp_path):
    run = EvaluateOptions(dry_run=True)
    out = tmp_path / "out"
    report = mmsieve.evaluate(model="unifilter-tiny", data=data, out=out, run=run)
    assert "would evaluate 80 texts" in report.summary()
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{}", "wanted"),
        ("[", "wanted"),
        ('[{"image": "a.png", "text": "<image>"}]', "label"),
        ('[{"image": "a.png", "text": "<image>", "label": 7}]', "label 7"),
        ("[]", "no texts"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, capsys, content, says):
    (tmp_path / "data.json").write_text(content)
    words = ["evaluate", "--model", "unifilter-tiny", "--data", str(tmp_path / "data.json")]
    with pytest.raises(SystemExit) as exit_:
        main([*words, "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert error.count("\n") == 1
    assert says in error


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model", "unifilter-tiny"], "--data"),
        (["--data", "x.json"], "--model"),
        (["a", "b", "--model", "unifilter-tiny", "--data", "x.json"], "not both"),
        (["--model", "unifilter-tiny", "--data", "x.json", "--resamples", "0"], "--resamples 0"),
        (["--model", "unifilter-tiny", "--data", "x.json", "--on", "uid"], "--on"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(tmp_path, capsys, words, says):
    with pytest.raises(SystemExit) as exit_:
        main(["evaluate", *words, "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert error.count("\n") == 1
    assert says in error
    assert not (tmp_path / "out").exists()


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(RequestError, match="no such file"):
        mmsieve.evaluate(model="unifilter-tiny", data=tmp_path / "no.json", out=tmp_path)


def without_libraries(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command line where neither scikit-learn nor scipy can be imported."""
    code = """
import sys
sys.modules.update(dict.fromkeys(["scipy", "sklearn"]))
from mmsieve.cli import main
main(sys.argv[1:])
"""
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)


@pytest.mark.parametrize("words", [("--model", "no/model", "--data", "no.json"), ("a", "b")])
def test_a_missing_library_is_said_before_anything_is_read(tmp_path, words):
    done = without_libraries("evaluate", *words, "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'mmsieve[evaluate]'" in done.stderr
    assert not (tmp_path / "out").exists()


def test_scoring_needs_no_library_of_metrics(source, tmp_path):
    out = ("--out", str(tmp_path / "out"), "--workers", "0", "--quiet")
    done = without_libraries("score", str(source), "--model", "unifilter-tiny", *out)
    assert done.returncode == 0, done.stderr
