"""Filter: wrong requests, and what is there already."""

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmsieve import tables
from mmsieve.errors import RequestError
from tests.helpers.filters import NAN, cut, others_file, two_shards
from tests.helpers.tables import kept_keys, read_decisions, rows_of, write_table


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no cut given"),
        ({"min_score": 1, "top_count": 1}, "--min-score and --top-count given"),
        ({"top_fraction": 0}, "above 0 and at most 1"),
        ({"top_fraction": 1.5}, "above 0 and at most 1"),
        ({"top_fraction": NAN}, "above 0 and at most 1"),
        ({"top_count": 0}, "at least 1"),
        ({"min_score": math.inf}, "finite"),
        ({"min_score": 1, "per": "shard"}, "--per cuts within groups"),
        ({"min_score": 1, "by": "nope"}, "no column nope: scores has key, shard"),
        ({"min_score": 1, "by": "status"}, "needs numbers"),
        ({"top_count": 1, "per": "nope"}, "no column nope"),
        ({"where": "nope > 1"}, "no column nope: scores has key, shard"),
        ({"where": "quality_score >"}, "SQL condition"),
        ({"where": "quality_score"}, "not yes or no"),
        ({"where": "quality_score > 'x'"}, "cannot compare"),
        ({"where": "scores.nope > 1"}, "no column of scores is named"),
        ({"where": "1 = 1"}, "names no column"),
        ({"where": ""}, "SQL condition"),
        ({"where": "quality_score > AVG(quality_score)"}, "one row only"),
        ({"where": "MAX(quality_score) > 1"}, "one row only"),
        ({"where": "ROW_NUMBER() OVER (ORDER BY key) > 1"}, "one row only"),
        ({"where": "COUNT(*) > 1"}, "one row only"),
        ({"where": "quality_score IN (SELECT 1)"}, "SQL condition"),
        ({"where": "REGEXP_LIKE(key, '(')"}, "regex"),
        ({"where": "CAST(key AS INT) > 1"}, "conversion"),  # known only from the rows
        ({"top_count": 1, "format": "datacomp"}, "npy"),
        ({"top_count": 1, "on": "uid", "by": "clip.score"}, "no column clip.score"),
    ],
)
def test_wrong_requests(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    scores = two_shards(tmp_path / "scores")
    with pytest.raises(RequestError, match=message.replace("(", r"\(")) as error:
        cut(scores, out=tmp_path / "keep", **options)
    assert "\n" not in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scores"]


def test_wrong_tables(tmp_path: Path) -> None:
    scores = two_shards(tmp_path / "scores")

    def refused(*tables: Path, **options: Any) -> str:
        with pytest.raises(RequestError) as error:
            cut(*tables, **{"out": tmp_path / "keep", "top_count": 1, **options})
        assert "\n" not in str(error.value)
        assert not (tmp_path / "keep").exists()
        return str(error.value)

    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    assert "no TABLE" in refused()
    assert "no such table" in refused(tmp_path / "nope")
    assert "no Parquet file" in refused(tmp_path / "empty")
    assert "can't be read" in refused(tmp_path / "broken.parquet")
    assert "is where the table" in refused(scores, out=scores)
    assert "is where the table" in refused(scores, out=scores / "keep")
    assert "is where the table" in refused(scores, out=tmp_path)
    other = write_table(tmp_path / "other", {"a": rows_of("a", [1.0] * 4)})
    assert "other.quality_score" in refused(scores, other, on="key")
    assert "no file b/c.parquet" in refused(scores, other, by="scores.quality_score")
    fewer = write_table(
        tmp_path / "fewer", {"a": rows_of("a", [1.0]), "b/c": rows_of("b/c", [1.0])}
    )
    assert "other samples" in refused(scores, fewer, by="fewer.quality_score")
    write_table(tmp_path / "other", {"z": rows_of("z", [1.0])}, fingerprint={"model": "x"})
    assert "not made by the model" in refused(tmp_path / "other")
    strange = others_file(tmp_path / "strange.parquet", ["x"], [1.0])
    assert "no column key to join by" in refused(scores, strange, by="clip_l14", on="key")
    assert "no row of scores" in refused(scores, strange, by="clip_l14", on="uid")
    assert "no usable column key" in refused(strange, by="clip_l14")


def test_columns_that_files_do_not_agree_on(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    for name, columns in {
        "a": {"key": ["1"], "x": [1.0], "y": [None], "z": [1]},
        "b": {"key": ["2"], "x": ["one"], "y": [2.0]},
    }.items():
        pq.write_table(pa.table(columns), tmp_path / "t" / f"{name}.parquet")
    for column in "xz":
        with pytest.raises(RequestError, match=f"column {column} of t can't be used"):
            cut(tmp_path / "t", out=tmp_path / "keep", top_count=1, by=column)
    cut(tmp_path / "t", out=tmp_path / "keep", top_count=1, by="y")
    assert kept_keys(tmp_path / "keep") == {"2"}


def test_two_tables_of_one_name_are_numbered(tmp_path: Path) -> None:
    x = write_table(tmp_path / "1" / "s", {"a": rows_of("a", [1.0, 2.0])})
    y = write_table(tmp_path / "2" / "s", {"a": rows_of("a", [2.0, 1.0])})
    cut(x, y, out=tmp_path / "keep", where="s2.quality_score > s.quality_score")
    assert kept_keys(tmp_path / "keep") == {"a-k0"}


def test_unfinished_tables_are_named(tmp_path: Path) -> None:
    scores = two_shards(tmp_path / "scores")
    write_table(scores, {"a": rows_of("a", [1.0])}, complete=False, problem="cut off")
    report = cut(scores, out=tmp_path / "keep", min_score=0)
    assert "1 of 2 files hold a part of their shard only" in report.summary()
    header = tables.read_header(tmp_path / "keep" / "a.parquet")
    assert header is not None
    assert not header.complete


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    scores = two_shards(tmp_path / "scores")
    report = cut(scores, out=tmp_path / "keep", top_fraction=0.5, dry_run=True)
    assert report.kept == 2
    assert "nothing was written in" in report.summary()
    assert [p.name for p in tmp_path.iterdir()] == ["scores"]


@pytest.mark.parametrize("name", ["keep", "keep.parquet"])
def test_what_is_there_is_replaced_by_the_same_cut_only(name: str, tmp_path: Path) -> None:
    scores, out = two_shards(tmp_path / "scores"), tmp_path / name
    cut(scores, out=out, top_fraction=0.5)
    before = read_decisions(out)
    assert "made again" in cut(scores, out=out, top_fraction=0.5).summary()
    assert read_decisions(out).equals(before)
    with pytest.raises(RequestError, match="another top_fraction"):
        cut(scores, out=out, top_fraction=0.2)
    assert read_decisions(out).equals(before)
    cut(scores, out=out, top_fraction=0.2, overwrite=True)
    assert kept_keys(out) == {"b/c-k0"}
    assert {p.name for p in tmp_path.iterdir()} == {"scores", name, f".{name}.run"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_else_is_ever_replaced(overwrite: bool, tmp_path: Path) -> None:
    scores = two_shards(tmp_path / "scores")
    other = two_shards(tmp_path / "other")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "dog.jpg").write_bytes(b"x")
    (tmp_path / "x.npy").write_bytes(b"x")
    for out in (other, tmp_path / "photos", other / "a.parquet", tmp_path):
        with pytest.raises(RequestError, match="--out"):
            cut(scores, out=out, top_fraction=0.5, overwrite=overwrite)
    with pytest.raises(RequestError, match="not a file of uids"):
        cut(scores, out=tmp_path / "x.npy", top_count=1, format="datacomp", overwrite=overwrite)
    assert len(tables.table_files(other)) == 2
    assert (tmp_path / "photos" / "dog.jpg").exists()


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    scores = two_shards(tmp_path / "scores")
    left, another = f".keep.{'1' * 32}.tmp", f".keep.2.{'1' * 32}.tmp"
    (tmp_path / left / "b").mkdir(parents=True)
    (tmp_path / another).mkdir()
    cut(scores, out=tmp_path / "keep", top_fraction=0.5)
    assert {p.name for p in tmp_path.iterdir()} == {"scores", "keep", ".keep.run", another}


def test_a_file_that_breaks_off_is_a_wrong_request(tmp_path: Path) -> None:
    scores = two_shards(tmp_path / "scores")
    path = scores / "a.parquet"
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)  # the footer is whole, the pages are not
    path.write_bytes(data)
    with pytest.raises(RequestError, match=r"a\.parquet: can't be read"):
        cut(scores, out=tmp_path / "keep", top_fraction=0.5)
    assert not (tmp_path / "keep").exists()


def test_integers_beyond_floats_are_told_apart(tmp_path: Path) -> None:
    big = 2**53
    rows = rows_of("a", [0.0] * 3, rank=[big, big + 1, big - 1])
    cut(write_table(tmp_path / "s", {"a": rows}), out=tmp_path / "keep", top_count=1, by="rank")
    assert kept_keys(tmp_path / "keep") == {"a-k1"}


def test_lists_can_be_asked_but_not_grouped_by(tmp_path: Path) -> None:
    rows = rows_of("a", [1.0, 2.0], styles=[["x"], ["y", "z"]])
    scores = write_table(tmp_path / "s", {"a": rows})
    cut(scores, out=tmp_path / "keep", where="ARRAY_CONTAINS(styles, 'z')")
    assert kept_keys(tmp_path / "keep") == {"a-k1"}
    with pytest.raises(RequestError, match="groups need single values"):
        cut(scores, out=tmp_path / "k2", top_count=1, per="styles")
