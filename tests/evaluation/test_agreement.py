"""evaluate with two tables: how far they agree, on tables as score writes them."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import cohen_kappa_score

import mmsieve
from mmsieve import AgreementOptions, CutOptions, RequestError
from tests.helpers.tables import kept_keys, rows_of, write_table


def compare(one: Path, other: Path, out: Path, **options) -> tuple[mmsieve.EvaluateReport, dict]:
    report = mmsieve.evaluate(str(one), str(other), out=out, agreement=AgreementOptions(**options))
    return report, json.loads((out / "metrics.json").read_text("utf-8"))


def _shards(seed: int, levels: bool = True) -> dict:
    """Three shards of 40 rows, scores with many ties."""
    random = np.random.default_rng(seed)
    shards = {}
    for shard in ("x/00000", "x/00001", "y"):
        scores = random.integers(0, 13, 40) / 4
        extra = {"quality_level": np.rint(scores).clip(0, 3).astype(np.int8)} if levels else {}
        shards[shard] = rows_of(shard, scores.tolist(), **extra)
    return shards


def _column(shards: dict, name: str) -> np.ndarray:
    return np.concatenate([np.array(rows[name]) for rows in shards.values()])


@pytest.fixture
def two(tmp_path) -> tuple[Path, Path, dict, dict]:
    one, other = _shards(1), _shards(2)
    return (write_table(tmp_path / "one", one), write_table(tmp_path / "other", other), one, other)


def test_the_numbers_are_those_of_scipy_and_scikit_learn(two, tmp_path):
    report, written = compare(two[0], two[1], tmp_path / "out")
    scores = [_column(shards, "quality_score") for shards in two[2:]]
    levels = [_column(shards, "quality_level") for shards in two[2:]]
    assert written["count"] == 120
    assert written["spearman"] == pytest.approx(spearmanr(*scores).statistic)
    assert written["pearson"] == pytest.approx(pearsonr(*scores)[0])
    assert written["same_level"] == pytest.approx((levels[0] == levels[1]).mean())
    kappa = cohen_kappa_score(*levels, weights="quadratic", labels=[0, 1, 2, 3])
    assert written["kappa"] == pytest.approx(kappa)
    assert f"{kappa:.4f}" in report.summary()
    assert report.summary().splitlines()[-1].startswith("120 samples compared in ")


def test_the_overlap_is_that_of_what_filter_keeps(two, tmp_path):
    _, written = compare(two[0], two[1], tmp_path / "out")
    for top, overlap in written["top"].items():
        kept = []
        for table in two[:2]:
            out = tmp_path / f"{table.name}{top}.parquet"
            cut = CutOptions(top_fraction=float(top))
            mmsieve.filter(str(table), out=out, cut=cut, quiet=True)
            kept.append(kept_keys(out))
        assert overlap == pytest.approx(len(kept[0] & kept[1]) / len(kept[0] | kept[1]))


def test_ties_are_those_that_filter_meets(two, tmp_path):
    report, written = compare(two[0], two[1], tmp_path / "out")
    for table in two[:2]:
        found = written["ties"][table.name]
        for top, tied in found["at_top"].items():
            cut = CutOptions(top_fraction=float(top))
            met = mmsieve.filter(
                str(table), out=tmp_path / "cut.parquet", cut=cut, overwrite=True, quiet=True
            )
            assert (met.ties.tied, met.ties.distinct) == (tied, found["distinct"])
        assert any(found["at_top"].values())
    assert f"one: different scores: {written['ties']['one']['distinct']} of 120" in report.summary()


def test_every_row_is_accounted_for(two, tmp_path):
    one, other = _shards(1), _shards(2)
    one["x/00000"]["status"][3] = "image_missing"
    one["x/00000"]["quality_score"][3] = None
    other["x/00000"]["status"][7] = "duplicate_key"
    other["x/00000"]["quality_score"][8] = float("nan")
    other["y"] = {name: values[:-5] for name, values in other["y"].items()}
    del one["x/00001"]
    one["z"] = rows_of("z", [1.0, 2.0], quality_level=np.array([1, 2], np.int8))
    paths = [write_table(tmp_path / name, rows) for name, rows in (("a", one), ("b", other))]
    report, written = compare(*paths, tmp_path / "out")
    assert written["count"] == 72
    assert written["tables"] == {
        "a": {"path": str(paths[0]), "rows": 82, "not_ok": 3, "only_here": 7},
        "b": {"path": str(paths[1]), "rows": 115, "not_ok": 3, "only_here": 40},
    }
    assert "only here" in report.summary()


def test_a_table_without_levels_has_no_agreement_of_levels(two, tmp_path):
    plain = write_table(tmp_path / "plain", _shards(2, levels=False))
    _, written = compare(two[0], plain, tmp_path / "out")
    _, whole = compare(two[0], two[1], tmp_path / "whole")
    assert written["same_level"] is written["kappa"] is None
    assert written["spearman"] == whole["spearman"]


def test_anyones_tables_are_joined_by_key_or_uid(two, tmp_path):
    foreign = pl.DataFrame(
        {name: _column(two[3], name) for name in ("key", "uid", "quality_score")}
    ).sample(fraction=1, shuffle=True, seed=0)
    foreign.rename({"quality_score": "clip"}).write_parquet(tmp_path / "f.parquet")
    ours = pl.concat([pl.DataFrame(rows) for rows in two[2].values()]).with_columns(
        clip=pl.col("quality_score")
    )
    ours.write_parquet(tmp_path / "ours.parquet")
    _, whole = compare(two[0], two[1], tmp_path / "whole")
    files = tmp_path / "ours.parquet", tmp_path / "f.parquet"
    for on in ("key", "uid", None):
        _, written = compare(*files, tmp_path / "out", by="clip", on=on)
        assert written["spearman"] == pytest.approx(whole["spearman"])
        assert written["count"] == 120


def test_a_table_agrees_with_itself(two, tmp_path):
    _, written = compare(two[0], two[0], tmp_path / "out")
    assert list(written["tables"]) == ["one", "one2"]
    for name in ("spearman", "pearson", "same_level", "kappa"):
        assert written[name] == pytest.approx(1)
    assert set(written["top"].values()) == {1}


def test_constant_scores_have_no_correlation(tmp_path):
    shards = {"a": rows_of("a", [2.0] * 5, quality_level=np.full(5, 2, np.int8))}
    table = write_table(tmp_path / "t", shards)
    _, written = compare(table, table, tmp_path / "out")
    assert written["spearman"] is written["pearson"] is written["kappa"] is None
    assert written["same_level"] == 1
    assert written["top"]["0.1"] is None  # a tenth of five rows is none


def test_what_cannot_be_compared_is_refused(two, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(RequestError, match="1 TABLE given"):
        mmsieve.evaluate(str(two[0]), out=out)
    with pytest.raises(RequestError, match="no column clip"):
        compare(two[0], two[1], out, by="clip")
    with pytest.raises(RequestError, match="column key holds string"):
        compare(two[0], two[1], out, by="key")
    elsewhere = write_table(tmp_path / "e", {"q": rows_of("q", [1.0, 2.0])})
    with pytest.raises(RequestError, match="no sample in common"):
        compare(two[0], elsewhere, out)
    twice = pl.DataFrame({"key": ["k", "k"], "quality_score": [1.0, 2.0]})
    twice.write_parquet(tmp_path / "twice.parquet")
    with pytest.raises(RequestError, match="only once"):
        compare(tmp_path / "twice.parquet", tmp_path / "twice.parquet", out)
    assert not out.exists()


def test_a_dry_run_compares_nothing(two, tmp_path):
    run = mmsieve.EvaluateOptions(dry_run=True)
    report = mmsieve.evaluate(str(two[0]), str(two[1]), out=tmp_path / "out", run=run)
    assert "would compare 120 rows" in report.summary()
    assert not (tmp_path / "out").exists()
