"""evaluate: a model against labelled texts, on files in the released layout."""

import json
from pathlib import Path

import numpy as np
import pytest

import mmsieve
from mmsieve import EvaluateOptions, GenerateOptions, RequestError
from mmsieve.cli import main
from mmsieve.metrics import measure


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


def evaluate(data: Path, out: Path, **options) -> tuple[mmsieve.EvaluateReport, dict]:
    run = EvaluateOptions(**({"quiet": True} | options))
    report = mmsieve.evaluate(model="unifilter-tiny", data=data, out=out, run=run)
    return report, json.loads((out / "metrics.json").read_text("utf-8"))


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


def test_images_may_lie_elsewhere(data, tmp_path):
    (tmp_path / "other.json").write_text(data.read_text("utf-8"))
    _, written = evaluate(tmp_path / "other.json", tmp_path, images=data.parent, limit=5)
    assert written["statuses"] == {"ok": 5}


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


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(RequestError, match="no such file"):
        mmsieve.evaluate(model="unifilter-tiny", data=tmp_path / "no.json", out=tmp_path)
