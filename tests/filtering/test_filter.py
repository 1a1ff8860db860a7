import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsieve import tables
from mmsieve.cli import main
from tests.helpers.filters import NAN, cut, two_shards
from tests.helpers.tables import kept_keys, read_decisions, rows_of, write_table


def test_top_fraction_rounds_down_and_gives_reasons(tmp_path: Path) -> None:
    report = cut(two_shards(tmp_path / "scores"), out=tmp_path / "keep", top_fraction=0.5)
    assert (report.rows, report.kept) == (7, 2)
    rows = read_decisions(tmp_path / "keep")
    assert rows.columns == ["key", "shard", "keep", "reason", "score", "place"]
    assert rows.drop("place").rows() == [
        ("a-k0", "a", False, "below_cut", pytest.approx(0.1)),
        ("a-k1", "a", True, None, 2.0),
        ("a-k2", "a", False, "no_score", None),
        ("a-k3", "a", False, "below_cut", 1.5),
        ("b/c-k0", "b/c", True, None, 2.5),
        ("b/c-k1", "b/c", False, "no_score", None),
        ("b/c-k2", "b/c", False, "below_cut", 0.5),
    ]
    header = tables.read_header(tmp_path / "keep" / "b" / "c.parquet")
    assert header is not None
    assert (header.kind, header.shard, header.rows) == ("decisions", "b/c", 3)
    assert header.fingerprint["top_fraction"] == "0.5"
    told_apart = {"distinct": "5", "tied": "0", "tied_kept": "0"}
    counts = {"scored": "5", "wanted": "2", "lowest": "2.0", "kept": "1"}
    assert header.notes == counts | told_apart | {"about": "quality"}
    assert report.summary().splitlines() == [
        "lowest score kept: 2",
        "not kept: 3 below_cut, 2 no_score",
        f"2 of 7 rows kept in {report.seconds:.1f} s: {tmp_path / 'keep'}",
    ]


def test_ties_at_the_cut_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = [3.0, 2.5, 2.5, 2.5, 2.5, 1.0, None, 0.5]
    table = write_table(tmp_path / "scores", {"a": rows_of("a", scores, kind=[*"xxxxxxyy"])})
    for options, tied, kept in (
        ("--top-count 3", 4, 2),
        ("--top-count 1", 0, 0),
        ("--top-count 5", 0, 0),
        ("--top-count 6", 0, 0),
        ("--top-fraction 0.29", 4, 1),
        ("--top-count 1 --per kind", 0, 0),
        ("--top-count 2 --per kind", 4, 1),
    ):
        out = tmp_path / "keep.parquet"
        with pytest.raises(SystemExit) as ended:
            main(["filter", str(table), "--out", str(out), "--overwrite", *options.split()])
        said = capsys.readouterr().out
        assert ended.value.code == 0
        line = f"tied at the cut: {tied} rows have the lowest score kept, of which a hash of their"
        assert (line in said) == bool(tied)
        assert f"keys kept {kept} (4 different scores in all)" in said or not tied
        header = tables.read_header(out)
        assert header is not None
        assert header.notes["tied"] == str(tied) and header.notes["tied_kept"] == str(kept)
        assert header.notes["distinct"] == "4"
        reasons = read_decisions(out)["reason"].to_list()
        assert reasons.count("tie_at_cut") == tied - kept


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
    assert "fewer than 3 scored rows in 2 groups: all" in report.summary()


SCORES = st.lists(
    st.one_of(st.sampled_from([0.0, -0.0, 1.0, 2.0, -1.0, None, NAN]), st.floats(width=32)),
    min_size=1,
    max_size=40,
)


@given(SCORES, st.integers(1, 20), st.booleans(), st.randoms(use_true_random=False))
@settings(max_examples=40)
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
    for name, path in tables.table_files(tmp_path / "k1").items():
        assert path.read_bytes() == tables.table_files(tmp_path / "k2")[name].read_bytes()


def test_large_files_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = [float(n % 7) for n in range(200)]
    folder = write_table(
        tmp_path / "s", {"a": rows_of("a", scores), "b": rows_of("b", scores[:30])}
    )
    cut(folder, out=tmp_path / "k1", top_fraction=0.4)
    monkeypatch.setattr(tables, "CHUNK", 9)
    monkeypatch.setattr("mmsieve.filtering.decide.CHUNK", 9)
    cut(folder, out=tmp_path / "k2", top_fraction=0.4)
    assert read_decisions(tmp_path / "k1").equals(read_decisions(tmp_path / "k2"))
