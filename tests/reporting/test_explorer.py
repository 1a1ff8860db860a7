"""The explorer of a report: its numbers are `filter`'s, and it is worked by hand and keyboard."""

import json
import random
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmsieve
from mmsieve import CutOptions, ReportOptions, RunOptions
from mmsieve.cli import main
from mmsieve.reporting.explorer.edges import choose_edges
from mmsieve.reporting.explorer.explorer import find_explorers
from mmsieve.reporting.explorer.stratified import StratifiedSample, fair_shares
from mmsieve.reporting.inputs import sort_inputs
from tests.helpers.browsing import BROWSER, needs_browser
from tests.helpers.shards import captions, write_tar
from tests.helpers.tables import read_decisions, rows_of, write_table

SHARDS = ("web/00000", "web/00001", "news's/00000", "books")


def make_tables(folder: Path, rows: int = 900, seed: int = 0) -> list[str]:
    """Two tables about the same samples: qualities with levels and failures, and CLIP scores."""
    dice = np.random.default_rng(seed)
    quality, clip = {}, {}
    for shard in SHARDS:
        scores = np.round(dice.normal(1.5, 0.8, rows), 5).astype(np.float32)
        status = ["ok" if one else "image_undecodable" for one in dice.random(rows) > 0.05]
        given = [float(s) if ok == "ok" else None for s, ok in zip(scores, status, strict=True)]
        levels = [None if s is None else int(np.clip(np.rint(s), 0, 3)) for s in given]
        columns = rows_of(shard, given, quality_level=pl.Series(levels, dtype=pl.Int8))
        columns["status"], columns["error"] = (
            status,
            [None if s == "ok" else "torn" for s in status],
        )
        columns["place"] = list(range(rows))
        quality[shard] = columns
        similar = (0.2 + 0.05 * scores + 0.03 * dice.normal(size=rows)).astype(np.float32)
        other = {name: columns[name] for name in ("key", "shard", "place")}
        other |= {"status": ["ok"] * rows, "error": [None] * rows, "uid": [None] * rows}
        clip[shard] = other | {"clip_score": pl.Series(similar, dtype=pl.Float32)}
    return [
        str(write_table(folder / "quality", quality)),
        str(write_table(folder / "clip", clip, kind="quality")),
    ]


@contextmanager
def open_page(path: Path, width: int = 1280, **options) -> Iterator:
    """The page in Chromium; nothing may be said on its console, and nothing may be asked for."""
    from playwright.sync_api import sync_playwright

    said, asked = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        yield page
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]


def filtered(command: str, out: Path) -> int:
    """How many rows the command that the page shows keeps, run as it stands."""
    words = shlex.split(command)
    assert words[:2] == ["mmsieve", "filter"]
    assert words[-2:] == ["--out", "kept"]
    with pytest.raises(SystemExit) as ended:
        main([*words[1:-1], str(out), "--quiet", "--overwrite"])
    assert ended.value.code == 0
    return int(read_decisions(out)["keep"].sum())


def shown(page) -> int:
    """How many rows the page says that it keeps."""
    return int(page.locator(".explorer .lead b").first.inner_text().replace(",", ""))


@needs_browser
def test_the_numbers_are_those_of_filter(tmp_path):
    tables = make_tables(tmp_path)
    mmsieve.filter(*tables, out=tmp_path / "top", cut=CutOptions(top_fraction=0.3), quiet=True)
    page_file = tmp_path / "page.html"
    mmsieve.report(*tables, str(tmp_path / "top"), out=page_file)
    dice = random.Random(3)
    with open_page(page_file) as page:
        top = int(read_decisions(tmp_path / "top")["keep"].sum())
        assert shown(page) == top
        page.locator(".bar input[type=number]").first.fill("0.5")
        page.locator(".bar input[type=number]").first.press("Enter")
        page.wait_for_timeout(40)
        assert shown(page) > top
        made = page.get_by_role("button", name="top", exact=True)
        assert made.get_attribute("aria-pressed") == "false"
        made.click()
        page.wait_for_timeout(40)
        assert (shown(page), made.get_attribute("aria-pressed")) == (top, "true")
        page.evaluate(
            "document.querySelectorAll('.facets details').forEach(one => one.open = true)"
        )
        names = page.locator(".bar select").first.locator("option").all_inner_texts()
        assert names[:2] == ["quality_score", "clip_score"]
        for _ in range(20):
            page.get_by_role("button", name="clear all").click()
            page.locator(".bar select").first.select_option(label=dice.choice(names[:2]))
            page.locator(".bar input[type=number]").first.fill(f"{dice.uniform(0.1, 2.5):.3f}")
            page.locator(".bar input[type=number]").first.press("Enter")
            boxes = page.locator(".facets input[type=checkbox]")
            for number in dice.sample(range(boxes.count()), dice.randrange(4)):
                boxes.nth(number).check()
            page.wait_for_timeout(40)
            kept = filtered(page.locator(".command").inner_text(), tmp_path / "kept")
            assert shown(page) == kept, page.locator(".command").inner_text()
            assert "Estimated" not in page.locator(".explorer .lead").inner_text()


@needs_browser
@pytest.mark.parametrize(
    ("low", "high", "width"),
    [
        (-0.3, 3.2, 1280),
        (1_700_000, 1_700_400, 390),
        (0.91, 0.9103, 390),
        (-5e8, 5e8, 1280),
        (0, 1e-6, 390),
    ],
)
def test_labels_below_the_bars_tell_values_apart(tmp_path, low, high, width):
    scores = np.linspace(low, high, 400).astype(np.float32).tolist()
    table = write_table(tmp_path / "quality", {"a": rows_of("a", scores)})
    mmsieve.report(str(table), out=tmp_path / "page.html")
    with open_page(tmp_path / "page.html", width) as page:
        texts = page.locator(".histogram text:not(.cut)")
        places = [texts.nth(n).bounding_box() for n in range(texts.count())]
        lowest = max(place["y"] for place in places)
        below = [n for n, place in enumerate(places) if abs(place["y"] - lowest) < 2]
        assert len({texts.nth(n).text_content() for n in below}) == len(below) >= 2
        ends = [(places[n]["x"], places[n]["x"] + places[n]["width"]) for n in below]
        assert all(one[1] < other[0] for one, other in pairwise(ends))
        assert ends[0][0] >= 0 and ends[-1][1] <= width


@needs_browser
def test_two_columns_at_once_are_an_estimate_with_its_interval(tmp_path):
    tables = make_tables(tmp_path, rows=2000)
    mmsieve.report(*tables, out=tmp_path / "page.html", options=ReportOptions(cards=600))
    with open_page(tmp_path / "page.html") as page:
        page.get_by_text("Two columns at once").click()
        box = page.locator("canvas").bounding_box()
        page.locator("canvas").scroll_into_view_if_needed()
        box = page.locator("canvas").bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 60)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + 200, steps=5)
        page.mouse.up()
        page.wait_for_timeout(60)
        lead = page.locator(".explorer .lead").inner_text()
        low, high = (
            int(n.replace(",", "")) for n in re.findall(r"interval ([\d,]+) to ([\d,]+)", lead)[0]
        )
        command = page.locator(".command").inner_text()
        assert "clip_score >= " in command
        kept = filtered(command, tmp_path / "kept")
        assert low <= kept <= high
        assert high - low < 2000


@needs_browser
def test_it_is_worked_by_the_keyboard(tmp_path):
    write_tar(tmp_path / "pool" / "00000.tar", captions(40))
    run = RunOptions(workers=0, quiet=True)
    pool = str(tmp_path / "pool")
    mmsieve.score(pool, model="unifilter-tiny", out=tmp_path / "quality", run=run)
    mmsieve.report(str(tmp_path / "quality"), pool, out=tmp_path / "page.html")
    with open_page(tmp_path / "page.html") as page:
        slider = page.get_by_role("slider")
        slider.focus()
        page.keyboard.press("Home")
        page.wait_for_timeout(40)
        assert shown(page) == 40
        page.keyboard.press("End")
        page.wait_for_timeout(40)
        assert shown(page) == 1
        page.keyboard.press("ArrowLeft")
        page.wait_for_timeout(40)
        assert "keeps 2 samples, 5.0%" in slider.get_attribute("aria-valuetext")
        page.get_by_role("button", name="Dropped").click()
        cards = page.locator(".explorer article")
        assert cards.count() == 8
        cards.first.focus()
        page.keyboard.press("PageDown")
        assert "page 2 of 5" in page.locator(".samples [role=status]").inner_text()
        key = page.locator(".explorer article .key").first.inner_text()
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        assert key in dialog.inner_text()
        assert dialog.locator("img").evaluate("one => one.naturalWidth") > 0
        page.keyboard.press("Escape")
        assert dialog.count() == 0
        page.get_by_role("searchbox").fill(key)
        assert cards.count() == 1
        page.get_by_role("button", name="blur pictures").click()
        assert "blur" in page.locator(".explorer article img").first.evaluate(
            "o => getComputedStyle(o).filter"
        )


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_both_colours(tmp_path, scheme):
    mmsieve.report(*make_tables(tmp_path, rows=60), out=tmp_path / "page.html")
    with open_page(tmp_path / "page.html", 390, color_scheme=scheme) as page:
        overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0
        ink = page.evaluate("getComputedStyle(document.body).color")
        assert (sum(map(int, re.findall(r"\d+", ink))) > 380) == (scheme == "dark")
        page.locator("#dark").click()
        assert page.evaluate("getComputedStyle(document.body).color") != ink


def test_the_counts_are_those_of_the_rows(tmp_path):
    (one,), _ = find_explorers(sort_inputs(make_tables(tmp_path)).tables, 200)
    quality = pl.concat(
        pl.read_parquet(p) for p in sorted((tmp_path / "quality").rglob("*.parquet"))
    )
    scores = quality["quality_score"].drop_nulls().to_numpy()
    edges, counts = one.columns[0].edges.values, one.histograms[0].counts.sum(axis=0)
    assert len(edges) >= 1000
    for edge in range(0, len(edges), 37):
        assert counts[edge:].sum() == (scores >= edges[edge]).sum()
    assert one.rows == quality.height
    assert sum(one.failed["image_undecodable"]) == quality.height - len(scores)
    assert sum(rows for rows, _ in one.strata) == len(scores)


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=300),
    st.sampled_from([np.float32, np.float64, np.int16]),
)
def test_edges_are_ascending_from_the_lowest_value(values, dtype):
    sampled = np.array(values).clip(-30_000, 30_000).astype(dtype)
    edges = choose_edges(sampled, sampled.min(), sampled.max())
    assert (np.diff(edges.values.astype(np.float64)) > 0).all()
    assert edges.values[0] == sampled.min()
    assert edges.bars[0] == 0
    assert list(edges.bars) == sorted(set(edges.bars))
    again = np.array(edges.numbers()).astype(dtype)
    assert (again == edges.values).all()


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), st.integers(0, 200))
def test_shares_are_as_equal_as_can_be(there, most):
    shares = fair_shares(there, most)
    assert shares.sum() == min(most, sum(there))
    assert (shares <= there).all()
    short = [share for share, have in zip(shares, there, strict=True) if share < have]
    assert not short or max(shares) <= min(short) + 1


def test_a_sample_does_not_depend_on_the_order_of_the_rows():
    rows = pl.DataFrame(
        {
            "key": [f"k{n}" for n in range(500)],
            "shard": ["s"] * 500,
            "place": range(500),
            "stratum": [n % 3 for n in range(500)],
        }
    )
    taken = []
    for seed in (1, 2):
        sample = StratifiedSample(60, 3)
        for part in rows.sample(fraction=1, shuffle=True, seed=seed).iter_slices(77):
            sample.add(part)
        taken.append(sample.take())
    assert taken[0].equals(taken[1])
    assert taken[0].height == 60
    assert taken[0]["weight"].sum() == pytest.approx(500)


def test_hostile_labels_stay_text(tmp_path):
    name = "</script><script>alert(1)</script>"
    columns = rows_of("a", [0.5, 1.5, 2.5], quality_level=[0, 1, 2])
    columns["key"] = [name, "<img src=x>", "\u2028&amp;"]
    write_table(tmp_path / "quality", {"a": columns})
    mmsieve.report(str(tmp_path / "quality"), out=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "alert(1)</script>" not in page
    data = json.loads(re.search(r'id="explorer-0">(.*?)</script>', page)[1])
    assert set(data["samples"]["key"]) == set(columns["key"])
