"""score: every sample a row, the same numbers in any company, resume, trial runs, bad requests."""

import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

import mmsieve
from mmsieve import ReadOptions, RequestError, RunOptions, ScoringOptions
from mmsieve.cli import main
from mmsieve.methods.rules import Rules
from mmsieve.tables import read_header, table_files
from tests.helpers.paths import RECORDED_DATA

RECORDED = RECORDED_DATA / "unifilter" / "inputs"


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Two shards of captions and one of documents, as recorded."""
    for number, name in enumerate(("captions", "captions", "obelics/main")):
        target = tmp_path / "in" / f"{number:08d}.tar"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(RECORDED / name / "00000000.tar", target)
    return tmp_path / "in"


def score(source: Path, out: Path, checkpoint: str, **run) -> mmsieve.RunReport:
    options = {"workers": 0, "quiet": True} | run
    return mmsieve.score(str(source), model=checkpoint, out=out, run=RunOptions(**options))


def rows(out: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in table_files(out).values()])


def test_every_sample_is_a_row_and_statuses_add_up(tmp_path, checkpoint) -> None:
    report = score(RECORDED / "captions_edge", tmp_path / "out", checkpoint)
    table = rows(tmp_path / "out")
    assert not report.failed
    assert report.rows == table.height == sum(report.statuses.values())
    assert set(table["status"]) == {"ok", "image_undecodable", "text_missing", "text_undecodable"}
    assert table.filter(pl.col("status") == "ok")["quality_score"].null_count() == 0
    assert table.filter(pl.col("status") != "ok")["error"].null_count() == 0


@pytest.mark.parametrize(("workers", "batch_tokens"), [(1, None), (4, 300), (0, 100_000)])
def test_workers_and_batches_change_no_score(
    tmp_path, checkpoint, sources, workers, batch_tokens
) -> None:
    score(sources, tmp_path / "a", checkpoint)
    score(sources, tmp_path / "b", checkpoint, workers=workers, batch_tokens=batch_tokens)
    a, b = rows(tmp_path / "a"), rows(tmp_path / "b")
    assert a["key"].equals(b["key"])
    assert (a["quality_score"] - b["quality_score"]).abs().max() < 1e-5


def test_a_rerun_does_nothing_and_says_so(tmp_path, checkpoint, sources) -> None:
    out = tmp_path / "out"
    score(sources, out, checkpoint)
    before = {path: path.stat().st_mtime_ns for path in table_files(out).values()}
    report = score(sources, out, checkpoint)
    assert report.shards == 0
    assert "resumed: 3 shards were done before" in report.summary()
    assert before == {path: path.stat().st_mtime_ns for path in table_files(out).values()}


def test_a_missing_table_file_alone_is_made_again(tmp_path, checkpoint, sources) -> None:
    out = tmp_path / "out"
    score(sources, out, checkpoint)
    lost = table_files(out)["00000001"]
    whole = lost.read_bytes()
    lost.unlink()
    assert score(sources, out, checkpoint).shards == 1
    assert lost.read_bytes() == whole


def test_other_options_are_refused_until_overwrite(tmp_path, checkpoint, sources) -> None:
    out = tmp_path / "out"
    score(sources, out, checkpoint)

    def padded(**run) -> mmsieve.RunReport:
        return mmsieve.score(
            str(sources),
            model=checkpoint,
            out=out,
            scoring=ScoringOptions(image_fit="pad"),
            run=RunOptions(workers=0, quiet=True, **run),
        )

    with pytest.raises(RequestError, match="another image_fit; choose another --out"):
        padded()
    assert padded(overwrite=True).shards == 3
    assert padded().shards == 0


def test_a_table_with_other_columns_is_refused_in_one_line(tmp_path, sources, capsys, monkeypatch):
    words = ["score", str(sources), "--model", "rules", "--out", str(tmp_path / "out"), "--quiet"]
    for code in (0, 0):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == code
    assert "resumed: 3 shards" in capsys.readouterr().out
    monkeypatch.setattr(Rules, "schema", pa.schema([*Rules.schema, ("more", pa.int32())]))
    with pytest.raises(SystemExit) as ended:
        main(words)
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.count("\n") == 1
    assert "was made with another schema; choose another --out, or --overwrite" in error


def test_a_trial_run_is_never_taken_for_a_whole_one(tmp_path, checkpoint, sources) -> None:
    out = tmp_path / "out"
    assert score(sources, out, checkpoint, limit=15).rows == 15
    assert score(sources, out, checkpoint, limit=15).shards == 0
    assert [read_header(path).complete for path in table_files(out).values()] == [True, False]
    assert score(sources, out, checkpoint).rows == 12 + 6
    assert all(read_header(path).complete for path in table_files(out).values())


def test_parts_share_one_table(tmp_path, checkpoint, sources) -> None:
    for part in ("0/2", "1/2"):
        score(sources, tmp_path / "parts", checkpoint, part=part)
    score(sources, tmp_path / "whole", checkpoint)
    parts, whole = table_files(tmp_path / "parts"), table_files(tmp_path / "whole")
    assert parts.keys() == whole.keys()
    assert all(parts[name].read_bytes() == whole[name].read_bytes() for name in whole)


def test_a_cut_shard_keeps_its_rows_is_named_and_done_again(tmp_path, checkpoint) -> None:
    whole = (RECORDED / "captions" / "00000000.tar").read_bytes()
    shard = tmp_path / "in" / "a.tar"
    shard.parent.mkdir()
    shard.write_bytes(whole[: len(whole) // 2])
    report = score(shard.parent, tmp_path / "out", checkpoint)
    header = read_header(table_files(tmp_path / "out")["a"])
    assert report.failed["a"].startswith("incomplete: ")
    assert 0 < report.rows == header.rows < 12
    assert not header.complete
    shard.write_bytes(whole)
    report = score(shard.parent, tmp_path / "out", checkpoint)
    assert (report.failed, report.rows) == ({}, 12)


def test_a_broken_shard_is_named_and_the_others_are_done(tmp_path, checkpoint, sources) -> None:
    (sources / "00000003.tar").write_bytes(b"")
    (sources / "00000004.tar").write_bytes(b"no tar at all" * 100)
    report = score(sources, tmp_path / "out", checkpoint)
    assert report.failed.keys() == {"00000003", "00000004"}
    assert report.rows == 12 + 12 + 6
    assert "00000003" not in table_files(tmp_path / "out")


def test_a_dry_run_writes_nothing(tmp_path, checkpoint, sources) -> None:
    report = score(sources, tmp_path / "out", checkpoint, dry_run=True)
    assert "to do 00000002" in report.summary()
    assert not (tmp_path / "out").exists()


def test_metadata_can_be_kept(tmp_path, checkpoint) -> None:
    score(RECORDED / "captions", tmp_path / "out", checkpoint, keep_metadata=True)
    assert rows(tmp_path / "out")["metadata"].null_count() == 0


REQUESTS = {
    "no such model": (["--model", "nowhere"], "no model 'nowhere'"),
    "no such source": (["nothing.tar"], "no such file"),
    "unwritable output": (["--out", "/dev/null/x"], "is a file"),
    "part out of range": (["--part", "2/2"], "--part 2/2"),
    "no samples": (["--limit", "0"], "--limit 0"),
    "workers": (["--workers", "-1"], "--workers -1"),
    "another layout": (["--layout", "documents"], "not documents: "),
    "another engine's flag": (["--ray-address", "auto"], "--engine ray"),
    "unknown flag": (["--modle", "x"], "--modle"),
    "no GPU": (["--device", "cuda:99"], "cuda:99"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_wrong_request_is_one_line_and_writes_nothing(tmp_path, checkpoint, name, capsys) -> None:
    words, message = REQUESTS[name]
    source = [] if name == "no such source" else [str(RECORDED / "captions")]
    given = ["score", *source, "--out", str(tmp_path / "out"), "--model", checkpoint]
    for flag in words[::2] if words[0].startswith("--") else []:
        if flag in given:
            at = given.index(flag)
            del given[at : at + 2]
    with pytest.raises(SystemExit) as stop:
        main([*given, *words])
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert not (tmp_path / "out").exists()


def test_the_command_scores_and_exits_with_1_where_a_shard_failed(tmp_path, checkpoint, sources):
    (sources / "bad.tar").write_bytes(b"")
    command = [sys.executable, "-m", "mmsieve", "score", str(sources), "--model", checkpoint]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "shard bad: empty file" in done.stderr
    assert done.stdout.splitlines()[-1].startswith("30 rows of 4 shards (26 ok, 4 text_missing)")


def test_importing_the_package_is_light() -> None:
    code = "import sys, mmsieve; print({'torch', 'ray', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_all_public_names_resolve() -> None:
    assert all(getattr(mmsieve, name) is not None for name in mmsieve.__all__)


def test_reading_options_reach_the_reader(tmp_path, checkpoint) -> None:
    with pytest.raises(RequestError, match="documents"):
        mmsieve.score(
            str(RECORDED / "captions"),
            model=checkpoint,
            out=tmp_path / "out",
            read=ReadOptions(layout="documents"),
        )
