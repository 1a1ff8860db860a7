"""The subset of a report beside its pool and chance, and what brought each sample."""

import re
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import mmsieve
from mmsieve import ReportOptions, SelectOptions
from mmsieve.selection.options import SelectOptions as Options
from tests.helpers.browsing import look_at, needs_browser
from tests.helpers.pages import cards_of, section_of
from tests.helpers.tables import kept_keys, rows_of, write_table

CAPABILITIES = ("spatial", "ocr", "stem")
STYLES = ("yes/no", "comparison", "<b>&own</b>")


@pytest.fixture
def ratings(tmp_path: Path) -> Path:
    """A rating table of two shards, some rows of which are not ok."""
    return write_ratings(tmp_path / "ratings", seed=5)


def write_ratings(folder: Path, seed: int) -> Path:
    dice = np.random.default_rng(seed)
    shards = {}
    for shard in ("a", "b"):
        rows = rows_of(shard, [None] * 60)
        del rows["quality_score"]
        rows["status"] = ["ok"] * 55 + ["model_output_invalid"] * 5
        rows |= {n: pa.array(dice.integers(0, 6, 60).tolist(), pa.int8()) for n in CAPABILITIES}
        rows["styles"] = [list(dice.permutation(STYLES)[: 1 + n % 2]) for n in range(60)]
        rows["image_source"] = [("coco", "vg")[n % 2] for n in range(60)]
        shards[shard] = rows
    return write_table(folder, shards, kind="ratings")


def made_page(ratings: Path, *decisions: Path, gallery: int = 200) -> Path:
    page = ratings.parent / "page.html"
    options = ReportOptions(gallery=gallery, cards=0)
    mmsieve.report(str(ratings), *map(str, decisions), out=page, options=options)
    return page


def select(ratings: Path, name: str, **options) -> Path:
    out = ratings.parent / name
    mmsieve.select(ratings, out=out, choice=SelectOptions(**options), quiet=True)
    return out


def cells_of(section: str, title: str) -> dict[str, list[list[int]]]:
    """Capability -> the numbers of each cell of a heat map."""
    table = section.split(f"<h4>{title}</h4>")[1].split("</table>")[0]
    found = {}
    for row in re.findall(r'<tr><th scope="row">(.*?)</tr>', table):
        cells = re.findall(r"<td[^>]*>(.*?)</td>", row)
        numbers = [[int(n) for n in re.findall(r"\d+", cell)] for cell in cells]
        found[re.search(r"<bdi>(.*?)</bdi>", row)[1]] = numbers
    return found


def test_each_cell_holds_the_chosen_and_as_many_random_ones(ratings):
    subset = select(ratings, "subset", budget=0.25, above=1)
    random = select(ratings, "random", budget=30, strategy="random")
    section = section_of(made_page(ratings, subset), "ratings")
    rows = pl.concat(map(pl.read_parquet, sorted(ratings.rglob("*.parquet"))))
    sources = re.findall(r'scope="col"><bdi>(coco|vg)', section)
    found = cells_of(section, "Capability and source")
    assert found.keys() == set(CAPABILITIES)
    for name in CAPABILITIES:
        for source, numbers in zip(sources, found[name], strict=True):
            own = rows.filter((pl.col("image_source") == source) & (pl.col(name) > 1))
            wanted = [own.filter(pl.col("key").is_in(kept_keys(out))) for out in (subset, random)]
            assert numbers == [each.height for each in wanted]


def test_what_brought_a_sample_is_one_that_could(ratings):
    (ratings.parent / "no.txt").write_text("a-k0\nb-k7\n")
    subset = select(
        ratings,
        "subset",
        budget=0.25,
        above=1,
        capabilities="ocr,spatial,stem",
        weights="ocr=3",
        source_quota=("coco=12",),
        exclude=ratings.parent / "no.txt",
    )
    section = section_of(made_page(ratings, subset), "ratings")
    rows = pl.concat(map(pl.read_parquet, sorted(ratings.rglob("*.parquet"))))
    by_key = {row["key"]: row for row in rows.iter_rows(named=True)}
    cards = cards_of(section, "Kept in subset")
    assert len(cards) == len(kept_keys(subset)) == 30
    for card in cards:
        row = by_key[re.search(r"([ab]-k\d+)", card)[1]]
        who, style, source = re.search(r"chosen by (\w+), among (.*?) of (\w+)<", card).groups()
        assert row[who] > 1
        assert (
            style.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") in row["styles"]
        )
        assert source == row["image_source"]
    brought = cells_of(section, "Which capability and style brought the samples")
    totals = {name: (cells[-1] or [0])[0] for name, cells in brought.items()}
    assert sum(totals.values()) == 30
    assert max(totals, key=totals.get) == "ocr"


def test_where_it_cannot_be_told_that_is_said(ratings):
    top = select(ratings, "top", budget=9, strategy="top-mean")
    subset = select(ratings, "subset", budget=9)
    write_ratings(ratings, seed=6)
    section = section_of(made_page(ratings, top, subset), "ratings")
    assert "the strategy top-mean asks no capability" in section
    assert "made of another one" in section
    assert "chosen by" not in section
    assert "random for top" in section


@pytest.mark.parametrize(
    "options",
    [
        Options(budget=0.3),
        Options(budget=7, above=1.5, capabilities="ocr,stem", weights="ocr=2", styles="strict"),
        Options(budget_tokens=900, source_quota=("it's=3", "vg=2"), strategy="random", seed=4),
    ],
)
def test_a_request_is_read_back_from_its_fingerprint(options):
    assert Options.of_fingerprint(options.fingerprint()) == options


@pytest.mark.parametrize("wrong", [{}, {"strategy": "best"}, {"strategy": "mmssr", "budget": "x"}])
def test_a_fingerprint_that_says_no_request_is_a_value_error(wrong):
    with pytest.raises(ValueError, match=r".+"):
        Options.of_fingerprint(wrong)


@needs_browser
def test_a_browser_finds_nothing_wrong(ratings):
    page = made_page(ratings, select(ratings, "subset", budget=20), gallery=4)
    assert STYLES[2] in look_at(page, width=390)
