"""audit: a blinded form, labels, and cuts whose intervals hold the truth."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import mmsieve
from mmsieve import RunOptions
from mmsieve.auditing.form import scores_of
from mmsieve.auditing.labels import LabelledRows
from mmsieve.auditing.precision import Precision
from mmsieve.cli import main
from mmsieve.reporting.inputs import find_table
from tests.helpers.browsing import BROWSER, foreign_scripts, needs_browser
from tests.helpers.shards import captions, write_tar
from tests.helpers.tables import read_decisions, rows_of, write_table

ROWS = 6000


def run(capsys, *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


@pytest.fixture(scope="module")
def judged(tmp_path_factory) -> tuple[Path, np.ndarray, np.ndarray]:
    """A table, its scores, and which rows are good: the more likely, the higher the score."""
    dice = np.random.default_rng(4)
    scores = np.round(dice.normal(1.5, 0.8, ROWS), 4).astype(np.float32)
    good = dice.random(ROWS) < 1 / (1 + np.exp(-4 * (scores - 1.2)))
    columns = rows_of("a", scores.tolist()) | {"place": list(range(ROWS))}
    folder = tmp_path_factory.mktemp("audit")
    write_table(folder / "quality", {"a": columns})
    return folder / "quality", scores, good


def labelled(scores: np.ndarray, good: np.ndarray, rows: np.ndarray) -> LabelledRows:
    truth = good[rows].astype(float)
    return LabelledRows(scores[rows].astype(float), truth, truth[None], ("one",), 0, 0)


def draw(scores: np.ndarray, seed: int, count: int = 200, bands: int = 10) -> np.ndarray:
    """Rows as a form has them: as many of every band."""
    dice = np.random.default_rng(seed)
    order = np.argsort(scores, kind="stable")
    parts = np.array_split(order, bands)
    return np.concatenate([dice.choice(part, count // bands, replace=False) for part in parts])


def test_intervals_hold_the_truth(judged):
    table, scores, good = judged
    column = scores_of(find_table(table), None, 1)
    edges = column.columns[0].edges.values
    places = [int(np.searchsorted(edges, cut)) for cut in (0.2, 1.0, 1.5, 2.0, 2.6)]
    truth = [good[scores >= edges[place]].mean() for place in places]
    found = [good[scores >= edges[place]].sum() / good.sum() for place in places]
    held = np.zeros((2, len(places)))
    for seed in range(300):
        precision = Precision(column, labelled(scores, good, draw(scores, seed)))
        for number, place in enumerate(places):
            one = precision.at(place)
            held[0, number] += one.precision.low <= truth[number] <= one.precision.high
            held[1, number] += one.recall.low <= found[number] <= one.recall.high
            assert one.kept == (scores >= edges[place]).sum()
    assert (held / 300 >= 0.93).all(), held / 300


def test_the_chosen_cut_is_as_precise_as_was_asked_for(judged):
    table, scores, good = judged
    column = scores_of(find_table(table), None, 1)
    right = 0
    for seed in range(60):
        one = Precision(column, labelled(scores, good, draw(scores, seed))).lowest(0.85)
        assert one is not None
        right += good[scores >= np.float32(one.threshold)].mean() >= 0.85 - 0.03
    assert right >= 54


def write_labels(path: Path, scores, good, rows, rater: str = "") -> Path:
    lines = (
        {
            "key": f"a-k{row}",
            "shard": "a",
            "place": int(row),
            "label": int(good[row]),
            "rater": rater,
        }
        for row in rows
    )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_filter_cuts_where_the_labels_allow_it(judged, tmp_path, capsys):
    table, scores, good = judged
    labels = write_labels(tmp_path / "one.jsonl", scores, good, draw(scores, 1))
    cut = ("filter", table, "--labels", labels, "--out", tmp_path / "kept", "--quiet")
    code, out, _ = run(capsys, *cut, "--min-precision", "0.8")
    assert code == 0
    assert "--min-score" in out and "precision" in out
    kept = read_decisions(tmp_path / "kept")["keep"].to_numpy()
    assert good[kept].mean() >= 0.8
    assert not kept[scores < scores[kept].min()].any()
    code, _, err = run(capsys, *cut, "--min-precision", "0.999", "--overwrite")
    assert (code, err.count("\n")) == (2, 1)
    assert "can't show so much" in err and "judge more samples" in err


def test_two_raters_and_what_they_agree_on(judged, tmp_path, capsys):
    table, scores, good = judged
    rows = draw(scores, 2)
    other = good.copy()
    other[rows[:20]] = ~other[rows[:20]]
    files = [
        write_labels(tmp_path / "one.jsonl", scores, good, rows, "ann"),
        write_labels(tmp_path / "two.jsonl", scores, other, rows, "bob"),
    ]
    with files[0].open("a") as file:
        file.write('{"key": "a-k0", "shard": "a", "label": null, "rater": "ann"}\n')
        file.write('{"key": "gone", "shard": "a", "label": 1, "rater": "ann"}\n')
    out = tmp_path / "cuts.json"
    code, said, _ = run(
        capsys, "audit", table, "--read", files[0], "--read", files[1], "--out", out
    )
    assert code == 0
    assert "agreement of 2 raters (Krippendorff's alpha): 0.7" in said
    assert "left out: 1 label of samples without a score" in said
    assert "precision (95%)" in said
    cuts = json.loads(out.read_text())["cuts"]
    assert len(cuts) >= 1000
    assert cuts[0]["recall"]["value"] == 1.0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("audit {t}", "--out FORM.html"),
        ("audit {t} --out form.txt", "ends in .html"),
        ("audit {t} --out form.html", "no sources given"),
        ("audit {t} --by nothing --out form.html {t}/../pool", "no column nothing"),
        ("audit {t}/nowhere --out form.html", "0 tables of scores given"),
        ("audit {t} --read {t}/none.jsonl", "can't be read as labels"),
        ("audit {t} --read {t}/../bad.jsonl", "bad.jsonl, line 2: no label (label"),
        ("audit {t} --read {t}/../empty.jsonl", "holds no label"),
        ("audit {t} --read {t}/../other.jsonl", "no judgement among 1 label"),
        ("filter {t} --min-precision 0.9 --out kept", "go together"),
        ("filter {t} --labels {t}/../bad.jsonl --min-score 1 --out kept", "go together"),
        (
            "filter {t} --min-precision 0.9 --labels {t}/../bad.jsonl --where uid --out kept",
            "no --where",
        ),
    ],
)
def test_wrong_requests_are_one_line(judged, capsys, monkeypatch, tmp_path, words, says):
    monkeypatch.chdir(tmp_path)
    table = judged[0]
    line = '{"key": "a-k1", "shard": "a", "label": '
    (table.parent / "bad.jsonl").write_text(f"{line}1}}\n{line}2}}\n")
    (table.parent / "empty.jsonl").write_text("\n")
    (table.parent / "other.jsonl").write_text('{"key": "b", "shard": "b", "label": 1}\n')
    write_tar(table.parent / "pool" / "a.tar", captions(2))
    code, _, err = run(capsys, *words.format(t=table).split())
    assert (code, err.count("\n")) == (2, 1), err
    assert says in err


@needs_browser
def test_a_person_judges_and_exports(tmp_path, capsys):
    from playwright.sync_api import sync_playwright

    write_tar(tmp_path / "pool" / "00000.tar", captions(30))
    pool, table, form = str(tmp_path / "pool"), tmp_path / "quality", tmp_path / "form.html"
    mmsieve.score(pool, model="unifilter-tiny", out=table, run=RunOptions(workers=0, quiet=True))
    code, said, _ = run(capsys, "audit", table, pool, "--out", form, "--samples", "12")
    assert code == 0 and "12 samples to judge" in said
    html = form.read_text("utf-8")
    assert foreign_scripts(html) == ['<script type="application/json" id="form">']
    scores = pl.read_parquet(table / "00000.parquet")["quality_score"]
    assert not any(f"{score:.4f}" in html for score in scores)
    problems, asked = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_context(accept_downloads=True).new_page()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(form.as_uri())
        page.get_by_role("textbox").fill("ann")
        page.locator("h1").click()
        for key in "1001u":
            page.keyboard.press(key)
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("1")
        page.reload()
        assert "Sample 6 of 12; 5 judged" in page.get_by_role("status").inner_text()
        for _ in range(7):
            page.keyboard.press("0")
        with page.expect_download() as download:
            page.get_by_role("button", name="Export labels").click()
        assert download.value.suggested_filename == "labels-ann.jsonl"
        download.value.save_as(tmp_path / "labels.jsonl")
        browser.close()
    assert problems == []
    assert all(url.startswith(("data:", "blob:", form.as_uri())) for url in asked)
    labels = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert [one["label"] for one in labels] == [1, 0, 0, 1, 1, *[0] * 7]
    assert {one["rater"] for one in labels} == {"ann"}
    code, said, _ = run(capsys, "audit", table, "--read", tmp_path / "labels.jsonl")
    assert code == 0 and "12 samples judged" in said
