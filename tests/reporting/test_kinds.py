"""report over tables of every kind: what it counts, what it shows, and what it refuses."""

import json
import re
from collections import Counter
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

import mmsieve
from mmsieve import (
    CutOptions,
    GenerateOptions,
    RatingOptions,
    ReadOptions,
    ReportOptions,
    RequestError,
    RunOptions,
    SelectOptions,
)
from mmsieve.cli import main
from mmsieve.labels import CAPABILITIES
from tests.helpers.browsing import foreign_scripts, look_at, needs_browser
from tests.helpers.instruction_files import item, write_either
from tests.helpers.pages import cards_of, cells, section_of, told
from tests.helpers.shards import captions, image, write_parquet, write_tar
from tests.helpers.tables import rows_of, write_table

QUIET = RunOptions(workers=0, quiet=True)
EVIL = "</title><script>alert(1)</script><img src=x onerror=alert(1)> {{ 7 * 7 }} '\""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Tables of every kind over drawn samples, made by the verbs and the bundled models."""
    folder = tmp_path_factory.mktemp("made")
    for make, name in (
        (mmsieve.generate_captions, "captions"),
        (mmsieve.generate_documents, "documents"),
        (mmsieve.generate_ratings, "instructions"),
    ):
        shards = name != "instructions"
        options = GenerateOptions(teacher="rendered", count=24, seed=3, shards=shards, quiet=True)
        make(out=folder / name, options=options)
    pools = [str(folder / name / "shards") for name in ("captions", "documents")]
    mmsieve.score(*pools, model="unifilter-tiny", out=folder / "quality", run=QUIET)
    cut = CutOptions(top_fraction=0.25)
    mmsieve.filter(str(folder / "quality"), out=folder / "top", cut=cut, quiet=True)
    mmsieve.enhance(pools[0], model="aitqe-tiny", out=folder / "assessments", run=QUIET)
    mmsieve.rate(
        str(folder / "instructions" / "qas.json"),
        model="mmssr-tiny-scorer",
        out=folder / "ratings",
        rating=RatingOptions(styler="mmssr-tiny-styler"),
        read=ReadOptions(images=folder / "instructions"),
        run=QUIET,
    )
    choice = SelectOptions(budget=0.3, above=1)
    mmsieve.select(folder / "ratings", out=folder / "subset", choice=choice, quiet=True)
    return folder


@pytest.fixture(scope="module")
def whole(made) -> Path:
    """The page about all of them; two pools have a shard of the same name."""
    names = ("quality", "top", "ratings", "subset", "assessments")
    names += ("captions/shards", "documents/shards", "instructions/qas.json")
    report = make_page(made, *names, out=made / "page.html")
    assert report.sections == 5
    assert report.notes == ()
    return made / "page.html"


def make_page(folder: Path, *names: str, out: Path, **options) -> mmsieve.PageReport:
    images = folder / "instructions"
    read = ReadOptions(images=images if images.is_dir() else None)
    inputs = [str(folder / name) for name in names]
    return mmsieve.report(*inputs, out=out, read=read, options=ReportOptions(**options))


def table_of(folder: Path) -> pl.DataFrame:
    return pl.concat(map(pl.read_parquet, sorted(folder.rglob("*.parquet"))))


def test_ratings_stand_beside_the_subset(made, whole):
    section = section_of(whole, "ratings")
    rows = table_of(made / "ratings")
    subset = rows.join(table_of(made / "subset").filter("keep"), on="key", how="semi")
    assert 0 < subset.height < rows.height
    assert f"<b>{subset.height}</b> kept in subset" in section
    for name in CAPABILITIES:
        assert f"<b>{name}</b> {rows[name].mean():.2f}, {subset[name].mean():.2f}" in section
        chart = section.split(f"<b>{name}</b>")[1].split("</svg>")[0]
        for pool, samples in (("pool", rows), ("subset", subset)):
            for rating, count in Counter(samples[name]).items():
                share = f"{count / samples.height:.1%}"
                assert f"<title>{rating}: {share} of {pool}</title>" in chart
        assert "null" not in chart
    pools = [Counter(samples["styles"].explode()) for samples in (rows, subset)]
    for style in pools[0]:
        assert cells(section, style)[:4:2] == [str(pool[style]) for pool in pools]
    sources = Counter(rows["image_source"]).most_common(1)[0]
    assert cells(section, sources[0])[0] == str(sources[1])


def test_instruction_samples_are_shown_with_ratings_and_what_was_decided(made, whole):
    section = section_of(whole, "ratings")
    items = {str(one["idx"]): one for one in read_json(made / "instructions" / "qas.json")}
    rows = {row["key"]: row for row in table_of(made / "ratings").iter_rows(named=True)}
    decided = {row["key"]: row for row in table_of(made / "subset").iter_rows(named=True)}
    for title, keep in (("Kept in subset", True), ("Not kept in subset", False)):
        cards = cards_of(section, title)
        assert len(cards) == min(8, sum(row["keep"] is keep for row in decided.values()))
        for card in cards:
            key = re.search(r'class="key"[^>]*><bdi>([^<]*)', card)[1]
            assert decided[key]["keep"] is keep
            assert f'<span class="tag">{decided[key]["reason"] or "kept"}</span>' in card
            images = items[key]["image"]
            assert card.count("<img") == (len(images) if isinstance(images, list) else 1)
            for turn in items[key]["conversations"]:
                assert turn["value"] in told(card)
            for name in CAPABILITIES:
                rating = rows[key][name]
                assert (f"<bdi>{name} {rating}</bdi>" in card) is (rating > 0)
            for style in rows[key]["styles"]:
                assert f"<bdi>{style}</bdi>" in card
    assert "<article" not in section_of(whole, "subset")
    assert "kept" in section_of(whole, "subset")


def test_assessments_show_what_became_of_captions(made, whole):
    section = section_of(whole, "assessments")
    rows = table_of(made / "assessments")
    rewritten = rows.filter("rewritten")
    assert 0 < rewritten.height < rows.height
    assert f"<b>{rewritten.height}</b> of {rows.height} captions rewritten" in section
    assert f"mean overall score <b>{rows['overall_score'].mean():.2f}</b>" in section
    assert cells(section, "rewritten") == [str(rewritten.height)]
    for label, samples in (("words, all captions", rows), ("words, rewritten captions", rewritten)):
        means = (mean_words(samples[name]) for name in ("caption", "final_caption"))
        assert cells(section, label) == [f"{mean:.2f}" for mean in means]
    by_key = {row["key"]: row for row in rows.iter_rows(named=True)}
    cards = cards_of(section, "Rewritten")
    assert len(cards) == 8
    for card in cards:
        row = by_key[re.search(r"<bdi>(c[^<]*)", card)[1]]
        assert f"<b>{row['overall_score']:.2f}</b>" in card
        assert card.count("<img") == 1
        assert told(card).index(row["caption"]) < told(card).index(row["recaption"])
    for card in cards_of(section, "Left as it was"):
        row = by_key[re.search(r"<bdi>(c[^<]*)", card)[1]]
        assert told(card).count(row["caption"]) == 1


def mean_words(texts: pl.Series) -> float:
    return texts.str.count_matches(r"\w+").mean()


def read_json(path: Path) -> list[dict]:
    return json.loads(path.read_text("utf-8"))


def test_quality_tables_and_their_decisions_are_as_without_the_others(made, whole):
    alone = made / "alone.html"
    make_page(made, "quality", "top", "captions/shards", "documents/shards", out=alone)
    for name in ("quality", "top"):
        before, now = (re.sub(r'^ id="s\d"', "", section_of(p, name)) for p in (alone, whole))
        assert before == now


def test_the_page_comes_out_the_same_again(made, whole, tmp_path):
    names = ("quality", "top", "ratings", "subset", "assessments")
    names += ("captions/shards", "documents/shards", "instructions/qas.json")
    make_page(made, *names, out=tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == whole.read_bytes()


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_finds_nothing_wrong(whole, width):
    assert any("spatial" in text for text in look_at(whole, width))


def test_ratings_without_a_subset_or_samples(made, tmp_path):
    report = make_page(made, "ratings", out=tmp_path / "page.html", gallery=3, cards=0)
    assert report.cards == 3
    assert "no shards were given" in report.summary()
    section = section_of(tmp_path / "page.html", "ratings")
    assert "of subset" not in section
    assert "kept" not in section.split("</h2>")[1].split("<details>")[0]


def ratings_table(folder: Path, keys: list[str], **columns) -> Path:
    """A rating table of one shard, `qas-000000`, of two capabilities."""
    rows = rows_of("qas-000000", [None] * len(keys)) | {"key": keys}
    del rows["quality_score"]
    rows |= {name: pa.array([3, None] * len(keys), pa.int8())[: len(keys)] for name in ("ocr", "x")}
    rows |= {"styles": [["yes/no"]] * len(keys), "image_source": ["coco"] * len(keys)}
    return write_table(folder, {"qas-000000": rows | columns}, kind="ratings")


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_instruction_files_of_all_kinds_are_sources(tmp_path, suffix):
    items = [item(n, image={"path": "a", "bytes": None} | {"path": f"{n}.jpg"}) for n in range(3)]
    path = tmp_path / f"qas{suffix}"
    for n in range(3):
        (tmp_path / f"{n}.jpg").write_bytes(image(n))
    if suffix == ".parquet":
        write_parquet(path, {name: [one[name] for one in items] for name in items[0]})
    else:
        write_either(path, items)
    ratings = ratings_table(tmp_path / "ratings", ["i0", "i1", "i2"])
    values = {"accuracy": 0.875, "f1": 0.5, "count": 8, "confusion": [[2, 0, 0, 0]] * 4}
    (tmp_path / "metrics.json").write_text(json.dumps(values))
    inputs = [str(path) for path in (path, ratings, tmp_path / "metrics.json")]
    read = ReadOptions(images=tmp_path)
    options = ReportOptions(cards=0)
    report = mmsieve.report(*inputs, out=tmp_path / "page.html", read=read, options=options)
    assert (report.sections, report.cards, report.notes) == (2, 3, ())
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.count("<img") == 3
    assert page.count("assistant: A cat.") == 3
    assert "accuracy <b>0.875</b>" in page
    assert "<title>null: 33.3% of pool</title>" in page


def test_a_key_that_comes_twice_is_decided_about_twice(tmp_path):
    status = ["ok", "duplicate_key", "ok"]
    ratings_table(tmp_path / "ratings", ["a", "a", "b"], status=status)
    rows = {"key": ["a", "a", "b"], "shard": ["qas-000000"] * 3, "keep": [True, False, False]}
    rows |= {"reason": [None, "duplicate_key", "not_selected"], "score": [1.0, None, 0.5]}
    write_table(tmp_path / "keep", {"qas-000000": rows}, kind="decisions")
    make_page(tmp_path, "ratings", "keep", out=tmp_path / "page.html")
    section = section_of(tmp_path / "page.html", "ratings")
    assert "<b>3</b> samples" in section
    assert "<b>1</b> kept in keep" in section
    assert cells(section, "coco") == ["3", "100.0%", *["1", "100.0%"] * 2]
    for title, tag in (("Kept in keep", "kept"), ("Failed", "duplicate_key")):
        (card,) = cards_of(section, title)
        assert f'<span class="tag">{tag}</span>' in card


def test_decisions_in_one_file_and_other_tables_stay_apart(made, tmp_path):
    choice = SelectOptions(budget=5, above=1)
    mmsieve.select(made / "ratings", out=tmp_path / "few.parquet", choice=choice, quiet=True)
    inputs = [str(made / name) for name in ("ratings", "subset", "top")]
    inputs.append(str(tmp_path / "few.parquet"))
    mmsieve.report(*inputs, out=tmp_path / "page.html")
    section = section_of(tmp_path / "page.html", "ratings")
    assert "<b>5</b> kept in few.parquet" in section
    assert "kept in subset" in section
    assert "kept in top" not in section
    assert len(cards_of(section, "Kept in few.parquet")) == 5
    assert "<h3>Best</h3>" in section_of(tmp_path / "page.html", "top")


def test_hostile_tables_stay_text(tmp_path):
    keys = [EVIL, "b"]
    columns = {"styles": [[EVIL], None], "image_source": [EVIL, None]}
    ratings_table(tmp_path / "ratings", keys, **columns)
    rows = rows_of("00000", [None] * 2) | {"key": keys}
    del rows["quality_score"]
    names = ("recaption", "caption", "final_caption")
    rows |= {"overall_score": [3.0, 9.0], "rewritten": [False, True]}
    rows |= {name: [EVIL, EVIL] for name in names} | {"rewrite_refused": [EVIL, None]}
    write_table(tmp_path / "assessments", {"00000": rows}, kind="assessment")
    make_page(tmp_path, "ratings", "assessments", out=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert foreign_scripts(page) == []
    assert "<img" not in page
    assert page.count("<title>mmsieve report") == 1
    assert told(page).count(f"<bdi>{EVIL}</bdi>") == 3 + 2 + 2 * 3
    assert cells(told(section_of(tmp_path / "page.html", "assessments")), f"refused: {EVIL}") == [
        "1"
    ]


def unreadable(folder: Path, kind: str) -> None:
    write_table(folder / kind, {"a": {"key": ["k"], "shard": ["a"]}}, kind=kind)


@pytest.mark.parametrize("kind", ["ratings", "assessment", "quality", "decisions", "opinions"])
def test_a_table_without_its_columns_or_of_another_kind_is_one_line(tmp_path, capsys, kind):
    unreadable(tmp_path, kind)
    error = fails(capsys, f"{tmp_path}/{kind} --out {tmp_path}/page.html")
    assert f"{tmp_path}/{kind}" in error


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("{0}/qas.json", "nothing to report"),
        ("{0}/ratings {0}/qas.json", "--images"),
        ("{0}/ratings {0}/qas.json --images {0}/nowhere", "no such folder"),
        ("{0}/ratings {0}/pool", "give the same ones"),
        ("{0}/ratings {0}/none.json", "none.json: no such file"),
        ("{0}/ratings {0}/empty.json", "empty.json: neither"),
        ("{0}/ratings {0}/text.json", "text.json: neither"),
        ("{0}/ratings {0}/odd.json", "odd.json: neither"),
        ("{0}/ratings {0}/list.json", "layout not recognised"),
        ("{0}/ratings {0}/cut", "cut"),
    ],
)
def test_wrong_requests_are_one_line(tmp_path, capsys, words, says):
    ratings_table(tmp_path / "ratings", ["i0"])
    write_either(tmp_path / "qas.json", [item(0, image="a.jpg")])
    write_tar(tmp_path / "pool" / "00000.tar", captions(1))
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "text.json").write_bytes(b"\xff\x00")
    (tmp_path / "odd.json").write_text('{"models": {"a": {"confusion": [["x"]]}}}')
    (tmp_path / "list.json").write_text('[{"a": 1}]')
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "a.parquet").write_bytes(b"PAR1 cut")
    assert says in fails(capsys, f"{words.format(tmp_path)} --out {tmp_path}/page.html")
    assert not (tmp_path / "page.html").exists()


def fails(capsys, words: str) -> str:
    """What a wrong request says: one line."""
    with pytest.raises(SystemExit) as exit_:
        main(["report", *words.split()])
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert error.count("\n") == 1
    return error


def test_a_shard_that_two_sources_may_be_is_not_guessed(tmp_path):
    for folder in ("one", "two"):
        write_tar(tmp_path / folder / "a.tar", captions(2))
    rows = rows_of("a", [0.5, 1.5]) | {"key": ["0000", "0001"]}
    write_table(tmp_path / "quality", {"a": rows})
    with pytest.raises(RequestError, match=r"may be .*one/a.tar or .*two/a.tar"):
        make_page(tmp_path, "quality", "one", "two", out=tmp_path / "page.html")
    make_page(tmp_path, "quality", "two", out=tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text("utf-8").count("<img") == 4
