"""A row is a place in a file: tables are told by their file's content, wherever it lies."""

import os
import shutil
from pathlib import Path

import polars as pl
import pytest

from mmsieve.cli import main
from mmsieve.tables import read_header, table_files
from tests.helpers.shards import caption, captions, tar_bytes, write_tar


@pytest.fixture
def run(capsys):
    """Runs the command; gives its exit code and all that it printed."""

    def run(*words: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main([*map(str, words), "--quiet"])
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out + said.err

    return run


@pytest.fixture
def score(run, tmp_path):
    def score(*sources: Path, out: Path = tmp_path / "s") -> tuple[int, str]:
        return run("score", *sources, "--model", "rules", "--out", out, "--workers", 0)

    return score


@pytest.fixture
def days(tmp_path) -> list[Path]:
    """Two folders that hold a tar of the same name and size."""
    folders = [tmp_path / "day1", tmp_path / "day2"]
    for folder in folders:
        write_tar(folder / "00000.tar", caption("a", f"A text of {folder.name}, long enough."))
    assert len({(folder / "00000.tar").stat().st_size for folder in folders}) == 1
    return folders


def test_another_file_of_the_same_name_is_not_taken_for_done(score, days):
    assert score(days[0])[0] == 0
    code, said = score(days[1])
    assert code == 2
    assert "00000 is the table of" in said and "name both together" in said


def test_more_folders_continue_a_table_whose_paths_stay(score, days, tmp_path):
    score(days[0])
    code, said = score(*days)
    assert code == 0 and "resumed: 1 shard" in said and "1 row of 1 shard" in said
    assert list(table_files(tmp_path / "s")) == ["00000", "day2/00000"]
    assert "resumed: 2 shards" in score(*days)[1]


def test_an_edited_file_is_done_again_and_a_copied_one_is_not(score, days, tmp_path):
    path = days[0] / "00000.tar"
    score(days[0])
    path.write_bytes(path.read_bytes().replace(b"A text of", b"a TEXT of"))
    assert "1 row of 1 shard" in score(days[0])[1]
    os.utime(path, (1, 1))
    assert "resumed: 1 shard" in score(days[0])[1]
    shutil.copytree(days[0], tmp_path / "copy")
    assert "resumed: 1 shard" in score(tmp_path / "copy")[1]
    assert list(table_files(tmp_path / "s")) == ["00000"]


def test_equal_files_are_two_shards(score, tmp_path):
    for name in ("a", "b"):
        write_tar(tmp_path / "in" / f"{name}.tar", captions(2))
    score(tmp_path / "in" / "a.tar")
    assert "2 rows of 1 shard" in score(tmp_path / "in")[1]
    assert sorted(table_files(tmp_path / "s")) == ["a", "b"]


def test_a_table_of_another_model_is_refused_wherever_it_is(run, score, days, tmp_path):
    score(days[0])
    words = ("score", days[1], "--model", "unifilter-tiny", "--out", tmp_path / "s")
    code, said = run(*words)
    assert code == 2 and "was made with another" in said


def test_rows_say_their_place_and_headers_their_file(score, days, tmp_path):
    write_tar(days[0] / "00000.tar", captions(5))
    score(days[0])
    path = tmp_path / "s" / "00000.parquet"
    assert pl.read_parquet(path)["place"].to_list() == list(range(5))
    assert read_header(path).source.address == str(days[0] / "00000.tar")


def test_export_finds_moved_files_and_refuses_edited_ones(run, score, days, tmp_path):
    score(*days)
    assert run("filter", tmp_path / "s", "--where", "true = true", "--out", tmp_path / "k")[0] == 2
    keep = ("filter", tmp_path / "s", "--where", "shard != ''", "--out", tmp_path / "keep")
    assert run(*keep)[0] == 0
    moved = [folder.rename(tmp_path / f"{folder.name}-moved") for folder in days]
    code, said = run("export", *moved, "--decisions", tmp_path / "keep", "--out", tmp_path / "e")
    assert code == 0, said
    for folder in ("day1", "day2"):
        exported = (tmp_path / "e" / folder / "00000.tar").read_bytes()
        assert f"A text of {folder}".encode() in exported
    for folder, old in zip(moved, days, strict=True):
        folder.rename(old)
    edited = days[0] / "00000.tar"
    edited.write_bytes(edited.read_bytes().replace(b"A text of", b"a TEXT of"))
    code, said = run("export", *days, "--decisions", tmp_path / "keep", "--out", tmp_path / "f")
    assert code == 1 and "day1/00000: is another one now than when it was scored" in said


def test_a_table_among_its_sources_is_refused(score, days):
    code, said = score(days[0], out=days[0] / "scores")
    assert code == 2 and "is in the SOURCE" in said


def test_a_trial_is_exported_only_when_asked(run, days, tmp_path):
    write_tar(days[0] / "00000.tar", captions(5))
    words = ("score", days[0], "--model", "rules", "--out", tmp_path / "s", "--limit", 2)
    assert run(*words)[0] == 0
    run("filter", tmp_path / "s", "--where", "shard != ''", "--out", tmp_path / "keep")
    export = ("export", days[0], "--decisions", tmp_path / "keep", "--out", tmp_path / "e")
    code, said = run(*export)
    assert code == 2 and "--allow-trial" in said
    assert run(*export, "--allow-trial")[0] == 0


def test_a_run_without_one_ok_row_is_no_success(run, tmp_path):
    broken = [("0.jpg", b"no picture"), ("0.txt", b"A text."), ("0.json", b"{}")]
    write_tar(tmp_path / "in" / "a.tar", broken)
    words = ("score", tmp_path / "in", "--model", "rules", "--out", tmp_path / "s")
    code, said = run(*words, "--workers", 0)
    assert code == 1
    assert "1 image_undecodable, such as '0': no known image format" in said


def test_a_fault_of_all_first_samples_stops_before_a_model_is_loaded(run, tmp_path):
    members = [("0.jpg", b"x"), ("0.json", b"{}"), ("1.jpg", b"x"), ("1.json", b"{}")]
    (tmp_path / "a.tar").write_bytes(tar_bytes(members))
    words = ("score", tmp_path / "a.tar", "--model", "unifilter-tiny", "--out", tmp_path / "s")
    code, said = run(*words)
    assert code == 2
    assert "all of 2 are text_missing" in said and "--text-column" in said
    assert not list(tmp_path.glob("s/*.parquet"))


def test_parts_of_equal_files_leave_none_out(run, tmp_path):
    for name in ("a", "b", "c"):
        write_tar(tmp_path / "in" / f"{name}.tar", captions(2))
    words = ("score", tmp_path / "in", "--model", "rules", "--out", tmp_path / "s")
    for part in ("0/2", "1/2", "1/2"):
        assert run(*words, "--part", part)[0] == 0
    assert sorted(table_files(tmp_path / "s")) == ["a", "b", "c"]


def test_a_folder_of_somebody_else_is_no_place_for_a_table(score, days, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "notes.txt").write_text("mine")
    code, said = score(days[0])
    assert code == 2 and "holds notes.txt, and nothing of this command's" in said
    (tmp_path / "s" / "notes.txt").unlink()
    assert score(days[0])[0] == 0
    (tmp_path / "s" / "run.log").write_text("beside a table, what people keep there is theirs")
    assert score(days[0])[0] == 0
