"""Filter: several tables, other people's scores, DataComp's file."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmsieve.errors import RequestError
from mmsieve.filtering import decide
from tests.helpers.filters import NAN, cut, others_file, two_shards
from tests.helpers.tables import kept_keys, read_decisions, rows_of, write_table


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


@pytest.mark.parametrize(("limit", "rows_at_a_time"), [("BATCH", 4), ("MOST_JOINED", 7)])
def test_foreign_scores_are_joined_by_uid(
    limit: str, rows_at_a_time: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decide, limit, rows_at_a_time)
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


def test_a_key_that_two_shards_have_is_refused(tmp_path: Path) -> None:
    """Keys restart in every shard: three foreign rows must not decide six samples."""
    rows = {name: rows_of(name, [1.0, 2.0]) | {"key": ["0", "1"]} for name in "ab"}
    scores = write_table(tmp_path / "scores", rows)
    other = pa.table({"key": ["0", "1"], "mine": [1.0, 2.0]})
    pq.write_table(other, tmp_path / "mine.parquet")
    with pytest.raises(RequestError, match=r"key [01] comes more than once in mine or scores"):
        cut(scores, tmp_path / "mine.parquet", out=tmp_path / "keep", where="mine > 1", on="key")


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
    with pytest.raises(RequestError, match="another choice of samples"):
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
