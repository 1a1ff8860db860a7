"""Export: resume, and what can't be exported."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mmsieve.errors import RequestError
from mmsieve.exporting import exporter
from tests.helpers.exports import decide, kept_keys, make_two_tars, members, read_wds, run
from tests.helpers.shards import captions, read, write_tar
from tests.helpers.tables import score_sources


@pytest.fixture
def two_tars(tmp_path: Path) -> Path:
    return make_two_tars(tmp_path / "src")


def test_a_tar_that_is_cut_off(two_tars: Path, tmp_path: Path) -> None:
    path = two_tars / "00000.tar"
    path.write_bytes(path.read_bytes()[:20000])
    keep = decide(two_tars, out=tmp_path / "keep", fraction=1.0)
    report = run(two_tars, decisions=keep, out=tmp_path / "out")
    assert list(report.failed) == ["00000"]
    assert "unexpected end" in report.failed["00000"]
    copied = members(tmp_path / "out" / "00000.tar")
    assert copied == captions(30)[: len(copied)]
    assert len(copied) >= 3
    assert len(read_wds(tmp_path / "out" / "sub" / "00001.tar")) == 20
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert list(manifest["failed"]) == ["00000"]
    again = run(two_tars, decisions=keep, out=tmp_path / "out")
    assert list(again.failed) == ["00000"]  # done again, and failed again
    assert "resumed: 1 " in again.summary()


def test_numbered_tars_are_made_again_when_a_shard_is_back(two_tars: Path, tmp_path: Path) -> None:
    keep = decide(two_tars, out=tmp_path / "keep", fraction=1.0)
    run(two_tars, decisions=keep, out=tmp_path / "whole", shard_size=7)
    path = two_tars / "00000.tar"
    data = path.read_bytes()
    path.write_bytes(b"")
    report = run(two_tars, decisions=keep, out=tmp_path / "out", shard_size=7)
    assert list(report.failed) == ["00000"]
    path.write_bytes(data)
    assert not run(two_tars, decisions=keep, out=tmp_path / "out", shard_size=7).failed
    tars = sorted(file.name for file in (tmp_path / "whole").glob("*.tar"))
    assert tars == sorted(file.name for file in (tmp_path / "out").glob("*.tar"))
    for name in (*tars, "manifest.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_killed_export_goes_on(
    two_tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = decide(two_tars, out=tmp_path / "keep")
    run(two_tars, decisions=keep, out=tmp_path / "whole")
    write, written = exporter.write_tar, []

    def dies_in_the_second(folder: Path, name: str, *rest: Any) -> Any:
        written.append(name)
        if len(written) == 2:
            raise KeyboardInterrupt
        return write(folder, name, *rest)

    monkeypatch.setattr(exporter, "write_tar", dies_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(two_tars, decisions=keep, out=tmp_path / "out", workers=1)
    assert not (tmp_path / "out" / "manifest.json").exists()
    report = run(two_tars, decisions=keep, out=tmp_path / "out", workers=1)
    assert "resumed: 1 " in report.summary()
    assert written == ["00000.tar", "sub/00001.tar", "sub/00001.tar"]
    for name in ("00000.tar", "sub/00001.tar", "manifest.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    run(two_tars, decisions=keep, out=tmp_path / "out")
    assert len(written) == 3
    (tmp_path / "out" / "00000.tar").unlink()
    run(two_tars, decisions=keep, out=tmp_path / "out")
    assert written[3:] == ["00000.tar"]


def test_a_journal_line_half_written(two_tars: Path, tmp_path: Path) -> None:
    keep, out = decide(two_tars, out=tmp_path / "keep"), tmp_path / "out"
    run(two_tars, decisions=keep, out=out)
    journal = out / ".export.jsonl"
    journal.write_bytes(journal.read_bytes()[:-30])
    report = run(two_tars, decisions=keep, out=out)
    assert "resumed: 1 " in report.summary()
    assert "resumed: 2 " in run(two_tars, decisions=keep, out=out).summary()


def test_other_decisions_need_overwrite(two_tars: Path, tmp_path: Path) -> None:
    keep, out = decide(two_tars, out=tmp_path / "keep"), tmp_path / "out"
    run(two_tars, decisions=keep, out=out)
    few = decide(two_tars, out=tmp_path / "few", fraction=0.02)
    before = (out / "00000.tar").read_bytes()
    with pytest.raises(RequestError, match="--overwrite"):
        run(two_tars, decisions=few, out=out)
    assert (out / "00000.tar").read_bytes() == before
    report = run(two_tars, decisions=few, out=out, overwrite=True)
    assert report.samples == 1
    assert len(list(out.rglob("*.tar"))) == 1  # none for a shard that keeps nothing
    assert "resumed: 2 " in run(two_tars, decisions=few, out=out).summary()


def test_trial_run(two_tars: Path, tmp_path: Path) -> None:
    keep, out = decide(two_tars, out=tmp_path / "keep"), tmp_path / "out"
    report = run(two_tars, decisions=keep, out=out, limit=4)
    assert report.samples == 4
    assert json.loads((out / "manifest.json").read_text())["limit"] == 4
    assert [s.key for s in read(out / "00000.tar").samples] == kept_keys(keep)[:4]
    with pytest.raises(RequestError, match="--overwrite"):
        run(two_tars, decisions=keep, out=out)
    assert run(two_tars, decisions=keep, out=out, overwrite=True).samples == 25


def test_dry_run_writes_nothing(two_tars: Path, tmp_path: Path) -> None:
    keep, out = decide(two_tars, out=tmp_path / "keep"), tmp_path / "out"
    count = len(kept_keys(keep, "00000"))
    report = run(two_tars, decisions=keep, out=out, dry_run=True)
    assert f"to do 00000: {count} samples" in report.summary()
    assert not out.exists()


def test_sources_that_do_not_fit_the_decisions(two_tars: Path, tmp_path: Path) -> None:
    keep, out = decide(two_tars, out=tmp_path / "keep"), tmp_path / "out"
    write_tar(two_tars / "new.tar", captions(1))
    with pytest.raises(RequestError, match="none for 1 of 3 shards, the first is new"):
        run(two_tars, decisions=keep, out=out)
    assert not out.exists()
    (two_tars / "new.tar").unlink()
    (two_tars / "sub" / "00001.tar").unlink()
    report = run(two_tars / "00000.tar", decisions=keep, out=out)
    assert "isn't among the SOURCEs" in report.failed["sub/00001"]
    assert len(read_wds(out / "00000.tar")) == len(kept_keys(keep, "00000"))
    write_tar(two_tars / "00000.tar", captions(9))
    report = run(two_tars, decisions=keep, out=tmp_path / "out2")
    assert "score it again" in report.failed["00000"]


def test_kept_samples_that_are_not_there(two_tars: Path, tmp_path: Path) -> None:
    rows = {"key": ["0000", "nope", "nor this"], "shard": "00000", "keep": True}
    more = pl.DataFrame({"key": ["0001"], "shard": "sub/00001", "keep": False})
    pl.concat([pl.DataFrame(rows), more]).write_parquet(tmp_path / "keep.parquet")
    report = run(two_tars, decisions=tmp_path / "keep.parquet", out=tmp_path / "out")
    assert report.failed == {"00000": "not in it: 2 kept samples, first 'nope'"}
    assert [s.key for s in read(tmp_path / "out" / "00000.tar").samples] == ["0000"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard_size": 0}, "--shard-size 0: must be at least 1"),
        ({"limit": -1}, "--limit -1: must be at least 1"),
        ({"workers": 0}, "--workers 0: must be at least 1"),
        ({"images": Path("nope")}, "--images"),
        ({"decisions": Path("nope")}, "no decisions there"),
    ],
)
def test_wrong_requests(
    options: dict[str, Any], message: str, two_tars: Path, tmp_path: Path
) -> None:
    keep = decide(two_tars, out=tmp_path / "keep")
    with pytest.raises(RequestError, match=message):
        run(two_tars, **{"decisions": keep, "out": tmp_path / "out", **options})
    assert not (tmp_path / "out").exists()


def test_places_where_nothing_may_be_written(two_tars: Path, tmp_path: Path) -> None:
    keep = decide(two_tars, out=tmp_path / "keep")
    for out in (two_tars, two_tars / "out"):
        with pytest.raises(RequestError, match="is in the SOURCE"):
            run(two_tars, decisions=keep, out=out)
    tars = two_tars / "00000.tar", two_tars / "sub" / "00001.tar"
    before = [path.read_bytes() for path in tars]
    for overwrite in (False, True):
        with pytest.raises(RequestError, match="nothing of this command"):
            run(*tars, decisions=keep, out=two_tars, overwrite=overwrite)
    assert [path.read_bytes() for path in tars] == before
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RequestError, match="--out"):
        run(two_tars, decisions=keep, out=tmp_path / "file")


def test_what_is_no_decision(two_tars: Path, tmp_path: Path) -> None:
    scores = score_sources(two_tars, out=tmp_path / "scores")
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.parquet").write_bytes(b"x")
    for path, message in (
        (scores, "no column keep"),
        (tmp_path / "empty", "no decisions there"),
        (tmp_path / "x.parquet", "can't be read"),
    ):
        with pytest.raises(RequestError, match=message):
            run(two_tars, decisions=path, out=tmp_path / "out")
