"""Two tables of scores of the same samples on one page: agreement, and where there is none."""

import re
from pathlib import Path

import numpy as np
import pytest

import mmsieve
from mmsieve import ReportOptions
from tests.helpers.browsing import look_at, needs_browser
from tests.helpers.pages import cards_of, cells, section_of, told
from tests.helpers.tables import rows_of, write_table

EVIL = "<img src=x onerror=alert(1)></script>"


def write_scores(folder: Path, seed: int, missing: int = 0) -> str:
    """Scores of two shards; of the first some rows have none, of the second some aren't there."""
    dice, truth = np.random.default_rng(seed), np.random.default_rng(0)
    shards = {}
    for shard in ("a", "b"):
        scores = np.round(truth.normal(1.5, 0.7, 50) + dice.normal(0, 0.4, 50), 2)
        given = [None if shard == "a" and n < missing else float(s) for n, s in enumerate(scores)]
        rows = rows_of(shard, given[missing if shard == "b" else 0 :])
        rows["key"] = [f"{shard}{n}{EVIL}" for n in range(len(given))][-len(rows["key"]) :]
        rows["status"] = ["image_undecodable" if s is None else "ok" for s in rows["quality_score"]]
        rows["quality_level"] = [
            None if s is None else int(np.clip(np.rint(s), 0, 3)) for s in rows["quality_score"]
        ]
        rows["place"] = list(range(len(rows["key"])))
        shards[shard] = rows
    return str(write_table(folder, shards))


def made_page(folder: Path, *tables: str) -> tuple[Path, mmsieve.PageReport]:
    page = folder / "page.html"
    report = mmsieve.report(*tables, out=page, options=ReportOptions(cards=0, gallery=3))
    return page, report


def test_the_numbers_are_those_of_evaluate(tmp_path):
    one, other = write_scores(tmp_path / "one", 1), write_scores(tmp_path / "other", 2, missing=4)
    found = mmsieve.evaluate(one, other, out=tmp_path / "both").agreement
    page, report = made_page(tmp_path, one, other)
    assert report.sections == 3
    section = section_of(page, "one and other")
    assert f"<b>{found.count}</b> samples are ok in both" in section
    assert f"(Spearman) <b>{found.spearman:.3f}</b>" in section
    assert f"same level <b>{found.same_level:.1%}</b>" in section
    for top, share in found.top.items():
        assert cells(section, f"best {float(top):.0%}") == [f"{share:.1%}"]
    assert "one has 4 rows that the other has not" in re.sub("</?bdi>", "", section)
    table = section.split('class="heat"')[1].split("</table>")[0]
    assert sum(map(int, re.findall(r">(\d+)</td>", table))) == found.count


def test_the_samples_that_they_disagree_on_most_are_shown(tmp_path):
    rows = rows_of("a", [float(n) for n in range(20)])
    write_table(tmp_path / "one", {"a": rows})
    turned = [*range(19), -1.0]
    write_table(tmp_path / "other", {"a": rows | {"quality_score": list(map(float, turned))}})
    page, _ = made_page(tmp_path, str(tmp_path / "one"), str(tmp_path / "other"))
    section = section_of(page, "one and other")
    (card,) = cards_of(section, "High by one, low by other")
    assert "a-k19" in card
    assert "one 19, above 100%" in card
    assert "other -1, above 0%" in card
    assert len(cards_of(section, "High by other, low by one")) == 3


def test_each_further_table_is_compared_with_the_first(tmp_path):
    tables = [write_scores(tmp_path / name, seed) for seed, name in enumerate(("a", "b", "c"))]
    other = str(write_table(tmp_path / "of other shards", {"z": rows_of("z", [1.0, 2.0])}))
    page, report = made_page(tmp_path, *tables, other)
    titles = re.findall(r"<h2>([^<]*) <small>agreement", page.read_text("utf-8"))
    assert titles == ["a and b", "a and c"]
    assert report.sections == 6


def test_what_cannot_be_compared_is_a_note(tmp_path):
    rows = rows_of("a", [1.0, 2.0])
    one = str(write_table(tmp_path / "one", {"a": rows | {"key": ["k", "k"]}}))
    other = str(write_table(tmp_path / "other", {"a": rows}))
    page, report = made_page(tmp_path, one, other)
    assert report.sections == 2
    assert any("one and other are not compared" in note for note in report.notes)
    assert "are not compared" in page.read_text("utf-8")


@needs_browser
def test_hostile_keys_stay_text(tmp_path):
    tables = [write_scores(tmp_path / name, seed) for seed, name in enumerate(("one", "other"))]
    page, _ = made_page(tmp_path, *tables)
    assert "<img" not in page.read_text("utf-8")
    assert EVIL in told(section_of(page, "one and other"))
    look_at(page, width=390)


def test_of_very_many_rows_an_even_part_is_ranked_and_all_are_looked_through(tmp_path, monkeypatch):
    dice = np.random.default_rng(3)
    scores = dice.normal(size=2000)
    others = np.round(scores + dice.normal(0, 0.3, 2000), 3)
    others[1234] = -9.0 if scores[1234] > 0 else 9.0
    rows = rows_of("a", scores.tolist())
    one = str(write_table(tmp_path / "one", {"a": rows}))
    other = str(write_table(tmp_path / "other", {"a": rows | {"quality_score": others.tolist()}}))
    made_page(tmp_path, one, other)
    exact = section_of(tmp_path / "page.html", "one and other")
    monkeypatch.setattr("mmsieve.reporting.agreements._MOST_ROWS", 900)
    made_page(tmp_path, one, other)
    section = section_of(tmp_path / "page.html", "one and other")
    assert "estimated" not in exact
    part = int(re.search(r"estimated from (\d+) of the samples", section)[1])
    assert 400 <= part <= 900
    assert "<b>2,000</b> samples are ok in both" in section
    found = [float(re.search(r"Spearman\) <b>([\d.]+)", each)[1]) for each in (exact, section)]
    assert found[0] == pytest.approx(found[1], abs=0.03)
    title = "High by one, low by other" if scores[1234] > 0 else "High by other, low by one"
    assert "a-k1234<" in cards_of(section, title)[0]
