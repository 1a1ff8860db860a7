"""What evaluate and train made, on a page: confusion, calibration, wrong texts, curves."""

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import mmsieve
from mmsieve import ReadOptions, ReportOptions
from mmsieve.cli import main
from mmsieve.evaluation.metrics import measure
from mmsieve.methods.folders import bundled_folder
from tests.helpers.browsing import foreign_scripts, look_at, needs_browser
from tests.helpers.instruction_files import item
from tests.helpers.pages import cards_of, cells, section_of, told
from tests.helpers.shards import image
from tests.helpers.tables import rows_of, write_table

EVIL = "</script><script>alert(1)</script>"


def write_evaluation(folder: Path, models: int = 1, texts: int = 40) -> Path:
    """What evaluate leaves, as it writes it, of models that err by up to a level and a half."""
    folder.mkdir(parents=True)
    dice, levels = np.random.default_rng(3), np.arange(texts) % 4
    columns = {
        "key": [f"k{n}" for n in range(texts)],
        "kind": ["caption"] * texts,
        "image": [["0.jpg"]] * texts,
        "text": [f"<image>\nText {n} {EVIL}" for n in range(texts)],
        "label": pl.Series(levels, dtype=pl.Int8),
        "measured": [n > 0 for n in range(texts)],
    }
    numbers = {}
    for model in range(models):
        prefix = f"m{model}." if models > 1 else ""
        scores = levels + dice.uniform(-1.4, 1.4, texts)
        found = measure(scores[1:], levels[1:])
        columns |= {prefix + "status": ["ok"] * texts}
        columns |= {prefix + "score": pl.Series(scores, dtype=pl.Float32)}
        taken = np.rint(np.clip(scores, 0, 3))
        columns |= {prefix + "level": pl.Series(taken, dtype=pl.Int8)}
        numbers[f"m{model}"] = found.as_dict() | {
            "by_kind": {},
            "statuses": {"ok": texts, EVIL: 1},
            "thresholds": None,
            "intervals": {"accuracy": [0.25, 0.75]},
        }
    made = numbers["m0"]
    if models > 1:
        less = {name: {"accuracy": {"value": -0.5, "interval": [-0.75, 0.25]}} for name in numbers}
        less.pop("m0")
        made = {"models": numbers, "reference": "m0", "differences": less}
    (folder / "metrics.json").write_text(json.dumps(made))
    pl.DataFrame(columns).write_parquet(folder / "predictions.parquet")
    return folder


def made_page(folder: Path, *inputs: Path, images: Path | None = None) -> mmsieve.PageReport:
    read, options = ReadOptions(images=images), ReportOptions(gallery=3)
    out = folder / "page.html"
    return mmsieve.report(*map(str, inputs), out=out, read=read, options=options)


def test_an_evaluation_shows_confusion_calibration_and_the_worst_texts(tmp_path):
    evaluated = write_evaluation(tmp_path / "evaluated")
    (tmp_path / "0.jpg").write_bytes(image(0))
    report = made_page(tmp_path, evaluated, images=tmp_path)
    assert (report.sections, report.cards, report.notes) == (1, 6, ())
    section = section_of(tmp_path / "page.html", "evaluated")
    found = json.loads((evaluated / "metrics.json").read_text())
    table = section.split('class="heat')[1].split("</table>")[0]
    counts = [int(n) for n in re.findall(r">(\d+)<", table.split("</tr>", 1)[1])]
    assert counts == [n for row in found["confusion"] for n in row]
    assert cells(section, "accuracy") == [f"{found['accuracy']:.4f} (0.250 to 0.750)"]
    bins = found["calibration"]["bins"]
    assert section.split('class="lines"')[1].count("<circle") == len(bins)
    assert f"dashed line is {found['calibration']['expected_error']:.4f}" in section
    rows = pl.read_parquet(evaluated / "predictions.parquet").filter("measured")
    errors = rows["score"].clip(0, 3) - rows["label"]
    for title, sign in (("Furthest above their level", 1), ("Furthest below their level", -1)):
        cards = cards_of(section, title)
        wanted = rows.with_columns(e=sign * errors).sort("e", descending=True).head(3)
        keys = [re.search(r"<bdi>(k\d+)", card)[1] for card in cards]
        assert keys == wanted["key"].to_list()
        for card, row in zip(cards, wanted.iter_rows(named=True), strict=True):
            assert f"level {row['label']} as {row['level']}" in card
            assert card.count("<img") == 1
            assert row["text"].removeprefix("<image>\n") in told(card)


def test_several_models_are_told_with_their_differences(tmp_path):
    evaluated = write_evaluation(tmp_path / "evaluated", models=2)
    report = made_page(tmp_path, evaluated / "metrics.json")
    assert report.sections == 2
    assert any("--images" in note for note in report.notes)
    second = section_of(tmp_path / "page.html", "evaluated: m1")
    assert "<td>-0.5000 (-0.750 to +0.250)</td>" in second
    assert "Less the first model" not in section_of(tmp_path / "page.html", "evaluated: m0")
    assert "<img" not in second


def write_run(folder: Path, logs: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    recipe = {"name": EVIL, "seed": 1, "classifier": {"batch": 12}}
    run = {"goal": "classifier", "recipe": recipe, "logs": logs}
    (folder / "training.json").write_text(json.dumps(run))
    (folder / ("config.json" if logs else "stages/start/x")).parent.mkdir(
        parents=True, exist_ok=True
    )
    (folder / ("config.json" if logs else "stages/start/x")).touch()
    return folder


LOG = [
    {"loss": 2.0, "learning_rate": 1e-3, "step": 50, "epoch": 0.5},
    {"loss": 0.01, "learning_rate": 5e-4, "step": 100, "epoch": 1.0},
    {"eval_loss": 0.5, "eval_accuracy": 0.75, "eval_runtime": 3.0, "step": 100, "epoch": 1.0},
    {"loss": float("nan"), "learning_rate": 0.0, "step": 150, "epoch": 1.5},
    {"train_runtime": 9.0, "train_loss": 1.0, "total_flos": 0.0, "step": 150, "epoch": 1.5},
]


def test_a_training_shows_its_curves(tmp_path):
    made_page(tmp_path, write_run(tmp_path / "run", {"classifier": LOG}))
    section = section_of(tmp_path / "page.html", "run")
    titles = re.findall(r"<b>([^<]* by step)</b>", section)
    assert titles == ["loss by step", "accuracy by step", "learning rate by step"]
    assert "in training: 2 at step 50, 0.01 at 100; held out: 0.5 at step 100" in section
    assert "(logarithmic scale)" in section
    assert "1 numbers of its log are not finite" in section
    assert "runtime" not in section
    assert cells(section, "50") == ["2", "", "", "0.001"]
    assert "classifier.batch" in section


def test_a_bundled_model_shows_how_it_was_trained(tmp_path):
    made_page(tmp_path, bundled_folder("unifilter-tiny"))
    section = section_of(tmp_path / "page.html", bundled_folder("unifilter-tiny").name)
    assert section.count("<polyline") >= 6
    assert "done" in section


def test_a_training_that_is_under_way_is_shown_as_far_as_it_is(tmp_path):
    run = write_run(tmp_path / "run", {})
    (run / "stages" / "projector").mkdir(parents=True)
    (run / "stages" / "projector" / "log.json").write_text(json.dumps(LOG[:2]))
    for step, state in ((50, {"log_history": LOG[:1], "max_steps": 400}), (100, None)):
        place = run / "stages" / "classifier-states" / f"checkpoint-{step}"
        place.mkdir(parents=True)
        (place / "trainer_state.json").write_text("{" if state is None else json.dumps(state))
    made_page(tmp_path, run / "training.json")
    section = section_of(tmp_path / "page.html", "run")
    assert "not done yet" in section
    assert "under way: step 50 of 400 is saved" in section
    assert section.index("Stage <bdi>projector") < section.index("Stage <bdi>classifier")


@needs_browser
def test_hostile_texts_and_recipes_stay_text(tmp_path):
    run = write_run(tmp_path / "run", {EVIL: LOG})
    made_page(tmp_path, write_evaluation(tmp_path / "evaluated", models=2), run)
    page = tmp_path / "page.html"
    assert foreign_scripts(page.read_text("utf-8")) == []
    assert page.read_text("utf-8").count("<script>") == 1
    look_at(page, width=390)


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("run/training.json", "{", "training.json"),
        ("run/training.json", '{"goal": 3, "recipe": {}}', "goal"),
        ("run/training.json", '{"goal": "a", "recipe": {}, "logs": {"a": 3}}', "logs.a"),
        (
            "evaluated/metrics.json",
            '{"accuracy": 1, "f1": 1, "count": 1, "confusion": [[1, 2]]}',
            "square",
        ),
        (
            "evaluated/metrics.json",
            '{"accuracy": 1, "f1": 1, "count": 1, "confusion": [[1]], "calibration": 3}',
            "calibration",
        ),
        ("evaluated/metrics.json", '{"tables": {}, "spearman": 1}', "give these to report"),
        ("evaluated/predictions.parquet", "PAR1", "predictions.parquet"),
    ],
)
def test_damaged_files_are_one_line(tmp_path, capsys, file, text, says):
    write_run(tmp_path / "run", {"classifier": LOG})
    write_evaluation(tmp_path / "evaluated")
    (tmp_path / file).write_text(text)
    with pytest.raises(SystemExit) as ended:
        main(
            ["report", f"{tmp_path}/run", f"{tmp_path}/evaluated", "--out", f"{tmp_path}/page.html"]
        )
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.count("\n") == 1
    assert says in error


def test_predictions_of_something_else_are_one_line(tmp_path):
    evaluated = write_evaluation(tmp_path / "evaluated")
    pl.DataFrame({"key": ["a"]}).write_parquet(evaluated / "predictions.parquet")
    with pytest.raises(mmsieve.RequestError, match="has no column image"):
        made_page(tmp_path, evaluated)


def test_data_of_the_same_names_is_still_data(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "0.jpg").write_bytes(image(0))
    (data / "metrics.json").write_text("[]")
    (data / "training.json").write_text(json.dumps([item(0, image="0.jpg")]))
    rows = rows_of("training-000000", [1.0]) | {"key": ["i0"]}
    write_table(tmp_path / "quality", {"training-000000": rows})
    report = made_page(tmp_path, tmp_path / "quality", data / "training.json", images=data)
    assert (report.sections, report.notes) == (1, ())
    assert "A cat." in (tmp_path / "page.html").read_text()
