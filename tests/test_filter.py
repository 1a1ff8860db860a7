import math
import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables import kept_keys, read_decisions, rows_of, write_table

from mmsieve import table
from mmsieve.cut import inputs, lookup
from mmsieve.errors import RequestError
from mmsieve.verbs.filter import CutOptions, FilterReport, filter_tables

NAN = float("nan")


def cut(*tables: Path | str, out: Path, **options: Any) -> FilterReport:
    flags = {n: options.pop(n) for n in ("format", "overwrite", "dry_run") if n in options}
    return filter_tables(*map(str, tables), out=out, cut=CutOptions(**options), quiet=True, **flags)


def two_shards(folder: Path) -> Path:
    return write_table(
        folder, {"a": rows_of("a", [0.1, 2.0, None, 1.5]), "b/c": rows_of("b/c", [2.5, NAN, 0.5])}
    )


def test_top_fraction_rounds_down_and_gives_reasons(tmp_path: Path) -> None:
    report = cut(two_shards(tmp_path / "scores"), out=tmp_path / "keep", top_fraction=0.5)
    assert (report.rows, report.kept) == (7, 2)
    rows = read_decisions(tmp_path / "keep")
    assert rows.columns == ["key", "shard", "keep", "reason", "score"]
    assert rows.rows() == [
        ("a-k0", "a", False, "below_cut", pytest.approx(0.1)),
        ("a-k1", "a", True, None, 2.0),
        ("a-k2", "a", False, "no_score", None),
        ("a-k3", "a", False, "below_cut", 1.5),
        ("b/c-k0", "b/c", True, None, 2.5),
        ("b/c-k1", "b/c", False, "no_score", None),
        ("b/c-k2", "b/c", False, "below_cut", 0.5),
    ]
    header = table.read_header(tmp_path / "keep" / "b" / "c.parquet")
    assert header is not None
    assert (header.kind, header.shard, header.rows) == ("decisions", "b/c", 3)
    assert header.fingerprint["top_fraction"] == "0.5"
    assert header.notes == {"scored": "5", "wanted": "2", "lowest": "2.0", "kept": "1"}
    assert report.summary().splitlines() == [
        "lowest score kept: 2",
        "not kept: 3 below_cut, 2 no_score",
        f"2 of 7 rows kept in {report.seconds:.1f} s: {tmp_path / 'keep'}",
    ]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"min_score": 1.5}, {"a-k1", "a-k3", "b/c-k0"}),
        ({"min_score": 0.1}, {"a-k0", "a-k1", "a-k3", "b/c-k0", "b/c-k2"}),
        ({"top_count": 1}, {"b/c-k0"}),
        ({"top_fraction": 1.0}, {"a-k0", "a-k1", "a-k3", "b/c-k0", "b/c-k2"}),
        ({"where": "quality_score < 2"}, {"a-k0", "a-k3", "b/c-k2"}),
        ({"where": "shard = 'a' AND quality_score > 1", "top_count": 1}, {"a-k1"}),
        (
            {"where": "key LIKE 'b%' OR quality_score IS NULL"},
            {"b/c-k0", "b/c-k1", "b/c-k2", "a-k2"},
        ),
        ({"where": "quality_score IN (0.5, 2.5)"}, {"b/c-k0", "b/c-k2"}),
        ({"where": "quality_score > 0", "min_score": 2.0}, {"a-k1", "b/c-k0"}),
        ({"where": "quality_score > 100", "top_fraction": 0.5}, set()),
    ],
)
def test_what_is_kept(options: dict[str, Any], kept: set[str], tmp_path: Path) -> None:
    scores = two_shards(tmp_path / "scores")
    report = cut(scores, out=tmp_path / "keep", **options)
    assert kept_keys(tmp_path / "keep") == kept
    assert report.kept == len(kept)
    one_file = tmp_path / "keep.parquet"
    cut(scores, out=one_file, **options)
    assert read_decisions(one_file).equals(read_decisions(tmp_path / "keep"))


def test_more_than_there_are_keeps_all_and_says_so(tmp_path: Path) -> None:
    report = cut(two_shards(tmp_path / "scores"), out=tmp_path / "keep", top_count=100)
    assert report.kept == 5
    assert "fewer than 100 scored rows" in report.summary()


def test_rows_that_are_not_ok_are_never_kept(tmp_path: Path) -> None:
    status = ["ok", "image_missing", "duplicate_key", "ok"]
    rows = rows_of("a", [1.0, 3.0, 2.0, 0.0], status=status)
    report = cut(write_table(tmp_path / "s", {"a": rows}), out=tmp_path / "keep", top_fraction=0.5)
    reasons = read_decisions(tmp_path / "keep")["reason"].to_list()
    assert reasons == [None, "image_missing", "duplicate_key", "below_cut"]
    assert report.reasons == {"image_missing": 1, "duplicate_key": 1, "below_cut": 1}


def test_a_score_that_prints_as_the_limit_is_kept(tmp_path: Path) -> None:
    scores = write_table(tmp_path / "s", {"a": rows_of("a", [0.7, 0.69999])})  # 0.7 as float32
    assert cut(scores, out=tmp_path / "keep", min_score=0.7).kept == 1


@pytest.mark.parametrize(("fraction", "count"), [(0.29, 29), (0.3, 30), (0.07, 7), (0.999, 99)])
def test_fractions_are_taken_as_typed(fraction: float, count: int, tmp_path: Path) -> None:
    scores = write_table(tmp_path / "s", {"a": rows_of("a", [float(n) for n in range(100)])})
    assert cut(scores, out=tmp_path / "keep", top_fraction=fraction).kept == count


def test_per_group(tmp_path: Path) -> None:
    source = ["x", "y", "x", None, "x", "y", "x", None]
    rows = rows_of("a", [1.0, 1.0, 2.0, 5.0, 3.0, 0.5, 4.0, 4.0], source=source)
    scores = write_table(tmp_path / "s", {"a": rows})
    report = cut(scores, out=tmp_path / "keep", top_fraction=0.5, per="source")
    assert report.groups == {"x": (2, 4), "y": (1, 2), "null": (1, 2)}
    assert kept_keys(tmp_path / "keep") == {"a-k4", "a-k6", "a-k1", "a-k3"}
    assert "x: 2 of 4 kept" in report.summary()
    report = cut(scores, out=tmp_path / "keep2", top_count=3, per="source")
    assert report.kept == 3 + 2 + 2
    assert "2 groups have fewer than 3 scored rows" in report.summary()


SCORES = st.lists(
    st.one_of(st.sampled_from([0.0, -0.0, 1.0, 2.0, -1.0, None, NAN]), st.floats(width=32)),
    min_size=1,
    max_size=40,
)


@given(SCORES, st.integers(1, 20), st.booleans(), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_decisions_do_not_depend_on_files_or_order(
    scores: list[float | None], count: int, per: bool, order: random.Random
) -> None:
    """Also against a plain sort: the kept scores are the highest ones."""
    columns = rows_of("a", scores, group=[str(n % 3) for n in range(len(scores))])
    columns["key"] = [f"k{n // 2}" for n in range(len(scores))]  # every key in two shards
    columns["shard"] = [f"s{n % 2}" for n in range(len(scores))]
    options: dict[str, Any] = {"top_count": count, "per": "group" if per else None}
    with TemporaryDirectory() as folder:
        one = write_table(Path(folder) / "one", {"all": columns})
        cut(one, out=Path(folder) / "k1", **options)
        rows = list(range(len(scores)))
        order.shuffle(rows)
        pieces = [rows[at : at + 5] for at in range(0, len(rows), 5)]
        shards = {
            f"{order.randrange(10**6)}-{number}": {
                n: [v[i] for i in piece] for n, v in columns.items()
            }
            for number, piece in enumerate(pieces)
        }
        cut(write_table(Path(folder) / "many", shards), out=Path(folder) / "k2", **options)
        first, second = (
            read_decisions(Path(folder) / k).sort("key", "shard") for k in ("k1", "k2")
        )
    assert first.drop("reason").equals(second.drop("reason"))
    kept = first.filter("keep")
    valid = [
        (g, s) for g, s in zip(columns["group"], scores, strict=True) if s is not None and s == s
    ]
    best = []
    for group in {g if per else "" for g, _ in valid}:
        mine = sorted((s for g, s in valid if not per or g == group), reverse=True)
        best += mine[:count]
    assert sorted(kept["score"].to_list()) == sorted(best)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    scores = two_shards(tmp_path / "scores")
    cut(scores, out=tmp_path / "k1", top_fraction=0.5)
    cut(scores, out=tmp_path / "k2", top_fraction=0.5)
    for name, path in table.files(tmp_path / "k1").items():
        assert path.read_bytes() == table.files(tmp_path / "k2")[name].read_bytes()


def test_large_files_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = [float(n % 7) for n in range(200)]
    folder = write_table(
        tmp_path / "s", {"a": rows_of("a", scores), "b": rows_of("b", scores[:30])}
    )
    cut(folder, out=tmp_path / "k1", top_fraction=0.4)
    monkeypatch.setattr(inputs, "CHUNK", 9)
    monkeypatch.setattr("mmsieve.cut.decided.CHUNK", 9)
    cut(folder, out=tmp_path / "k2", top_fraction=0.4)
    assert read_decisions(tmp_path / "k1").equals(read_decisions(tmp_path / "k2"))


def clip_table(folder: Path, name: str = "clip_score") -> Path:
    shards = {}
    for shard, values in {"a": [0.1, 0.2, 0.3, 0.4], "b/c": [0.5, 0.6, NAN]}.items():
        rows = rows_of(shard, [None] * len(values), **{name: np.array(values, np.float32)})
        del rows["quality_score"]
        shards[shard] = rows
    return write_table(folder, shards, kind="clip")


def test_tables_of_the_same_shards(tmp_path: Path) -> None:
    scores, clip = two_shards(tmp_path / "scores"), clip_table(tmp_path / "clip")
    cut(scores, clip, out=tmp_path / "k1", where="clip_score > 0.15 AND quality_score > 1")
    assert kept_keys(tmp_path / "k1") == {"a-k1", "a-k3", "b/c-k0"}
    cut(
        scores,
        clip,
        out=tmp_path / "k2",
        where="clip.clip_score > 0.3",
        top_count=1,
        by="clip_score",
    )
    assert kept_keys(tmp_path / "k2") == {"b/c-k1"}
    cut(scores, clip, out=tmp_path / "k3", where="scores.quality_score > 1 AND clip.status = 'ok'")
    assert kept_keys(tmp_path / "k3") == {"a-k1", "a-k3", "b/c-k0"}


def test_a_row_must_be_ok_in_all_tables(tmp_path: Path) -> None:
    first = write_table(tmp_path / "x", {"a": rows_of("a", [1.0, 2.0], status=["ok", "ok"])})
    rows = rows_of("a", [1.0, 2.0], status=["ok", "model_output_invalid"])
    second = write_table(tmp_path / "y", {"a": rows})
    cut(first, second, out=tmp_path / "keep", min_score=0, by="x.quality_score")
    assert read_decisions(tmp_path / "keep")["reason"].to_list() == [None, "model_output_invalid"]


def test_rows_in_another_order_and_repeated_keys_are_matched(tmp_path: Path) -> None:
    status = ["ok", "duplicate_key", "ok"]
    first = rows_of("a", [1.0, 2.0, 3.0], key=["k", "k", "l"], status=status)
    second = rows_of(
        "a", [9.0, 7.0, 8.0], key=["l", "k", "k"], status=["ok", "ok", "duplicate_key"]
    )
    x, y = (write_table(tmp_path / n, {"a": r}) for n, r in (("x", first), ("y", second)))
    cut(x, y, out=tmp_path / "keep", top_count=3, by="y.quality_score")
    rows = read_decisions(tmp_path / "keep")
    assert rows["score"].to_list() == [7.0, 8.0, 9.0]
    assert rows["keep"].to_list() == [True, False, True]


def others_file(path: Path, uids: list[str], scores: list[float]) -> Path:
    pq.write_table(pa.table({"uid": uids, "clip_l14": pa.array(scores, pa.float64())}), path)
    return path


@pytest.mark.parametrize("part_rows", [1 << 19, 3])
def test_foreign_scores_are_joined_by_uid(
    part_rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "PART_ROWS", part_rows)
    monkeypatch.setattr(lookup, "_BUFFER", 4)
    rows = {name: rows_of(name, [1.0] * 10) for name in "abc"}
    rows["b"]["uid"][3] = None
    scores = write_table(tmp_path / "scores", rows)
    uids = [u for name in "cab" for u in rows[name]["uid"] if u is not None]
    other = others_file(tmp_path / "dc.parquet", uids[:-2], [n / 10 for n in range(len(uids) - 2)])
    report = cut(
        scores,
        other,
        out=tmp_path / "keep",
        where="clip_l14 >= 1",
        by="clip_l14",
        top_count=99,
        on="uid",
    )
    expected = dict(zip(uids[:-2], [n / 10 for n in range(len(uids) - 2)], strict=True))
    decided = read_decisions(tmp_path / "keep")
    asked = [u for name in "abc" for u in rows[name]["uid"]]
    got = decided["score"].to_list()
    assert got == [None if u not in expected else pytest.approx(expected[u]) for u in asked]
    assert decided["keep"].to_list() == [expected.get(u, 0) >= 1 for u in asked]
    assert "27 of 30 rows found in dc by uid" in report.summary()


def test_a_uid_that_comes_twice_is_refused(tmp_path: Path) -> None:
    scores = write_table(tmp_path / "scores", {"a": rows_of("a", [1.0, 2.0])})
    uid = rows_of("a", [1.0])["uid"][0]
    other = others_file(tmp_path / "dc.parquet", [uid, uid], [1, 2])
    with pytest.raises(RequestError, match="more than once"):
        cut(scores, other, out=tmp_path / "keep", min_score=1, by="clip_l14", on="uid")
    assert not (tmp_path / "keep").exists()


def test_a_foreign_table_alone_and_its_own_status(tmp_path: Path) -> None:
    """As img2dataset writes it: `status` is a word of theirs, `key` a string, no `shard`."""
    (tmp_path / "meta").mkdir()
    for name in ("00000", "00001"):
        columns = {"key": [f"{name}1", f"{name}2"], "status": ["success"] * 2, "clip": [0.1, 0.9]}
        pq.write_table(pa.table(columns), tmp_path / "meta" / f"{name}.parquet")
    cut(
        tmp_path / "meta",
        out=tmp_path / "keep",
        where="status = 'success'",
        top_fraction=0.5,
        by="clip",
    )
    rows = read_decisions(tmp_path / "keep")
    assert rows.filter("keep").select("key", "shard").rows() == [
        ("000002", "00000"),
        ("000012", "00001"),
    ]


def test_datacomp_file(tmp_path: Path) -> None:
    scores = write_table(tmp_path / "s", {n: rows_of(n, [1.0, 5.0, 3.0, 4.0]) for n in "ba"})
    out = tmp_path / "x.npy"
    report = cut(scores, out=out, top_fraction=0.5, format="datacomp")
    uids = [u for n in "ab" for u in (rows_of(n, [0] * 4)["uid"][i] for i in (1, 3))]
    pairs = [(int(u[:16], 16), int(u[16:], 16)) for u in uids]
    expected = np.array(pairs, np.dtype("u8,u8"))
    expected.sort()
    np.save(tmp_path / "y.npy", expected)
    assert out.read_bytes() == (tmp_path / "y.npy").read_bytes()
    assert report.kept == 4
    cut(scores, out=out, top_fraction=0.5, format="datacomp")  # the same again
    with pytest.raises(RequestError, match="other uids"):
        cut(scores, out=out, top_fraction=0.25, format="datacomp")
    cut(scores, out=out, top_fraction=0.25, format="datacomp", overwrite=True)
    assert len(np.load(out)) == 2


def test_datacomp_metadata_alone(tmp_path: Path) -> None:
    uids = ["f" * 32, "0" * 32, None]
    other = others_file(tmp_path / "meta.parquet", uids, [2, 1, 0])
    cut(other, out=tmp_path / "x.npy", top_count=2, by="clip_l14", format="datacomp")
    assert np.load(tmp_path / "x.npy").tolist() == [(0, 0), (2**64 - 1, 2**64 - 1)]


def test_a_kept_row_without_uid_is_no_datacomp(tmp_path: Path) -> None:
    rows = rows_of("a", [1.0, 2.0])
    rows["uid"][1] = "abc"
    with pytest.raises(RequestError, match="32 hexadecimal"):
        cut(
            write_table(tmp_path / "s", {"a": rows}),
            out=tmp_path / "x.npy",
            top_count=1,
            format="datacomp",
        )
    assert not (tmp_path / "x.npy").exists()


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
    header = table.read_header(tmp_path / "keep" / "a.parquet")
    assert header is not None
    assert not header.complete


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    scores = two_shards(tmp_path / "scores")
    report = cut(scores, out=tmp_path / "keep", top_fraction=0.5, dry_run=True)
    assert report.kept == 2
    assert "dry run" in report.summary()
    assert [p.name for p in tmp_path.iterdir()] == ["scores"]


@pytest.mark.parametrize("name", ["keep", "keep.parquet"])
def test_what_is_there_is_replaced_by_the_same_cut_only(name: str, tmp_path: Path) -> None:
    scores, out = two_shards(tmp_path / "scores"), tmp_path / name
    cut(scores, out=out, top_fraction=0.5)
    before = read_decisions(out)
    assert "made again" in cut(scores, out=out, top_fraction=0.5).summary()
    assert read_decisions(out).equals(before)
    with pytest.raises(RequestError, match="another cut"):
        cut(scores, out=out, top_fraction=0.2)
    assert read_decisions(out).equals(before)
    cut(scores, out=out, top_fraction=0.2, overwrite=True)
    assert kept_keys(out) == {"b/c-k0"}
    assert {p.name for p in tmp_path.iterdir()} == {"scores", name}


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
    with pytest.raises(RequestError, match="isn't a file of uids"):
        cut(scores, out=tmp_path / "x.npy", top_count=1, format="datacomp", overwrite=overwrite)
    assert len(table.files(other)) == 2
    assert (tmp_path / "photos" / "dog.jpg").exists()


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    scores = two_shards(tmp_path / "scores")
    left, another = f".keep.{'1' * 32}.tmp", f".keep.2.{'1' * 32}.tmp"
    (tmp_path / left / "b").mkdir(parents=True)
    (tmp_path / another).mkdir()
    cut(scores, out=tmp_path / "keep", top_fraction=0.5)
    assert {p.name for p in tmp_path.iterdir()} == {"scores", "keep", another}


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
