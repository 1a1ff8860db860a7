"""Outputs: whole or not there, never in the place of something else, and known by their request."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from mmsieve import outputs
from mmsieve.errors import RequestError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.parquet"
    outputs.write_text(path, "whole")

    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        assert temporary not in tmp_path.glob("*.parquet") and temporary.name.startswith(".")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        outputs.write_atomically(path, fail)
    assert path.read_text() == "whole" and names(tmp_path) == ["a.parquet"]


def _write_slowly(path: Path) -> None:
    def write_half(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        time.sleep(60)

    outputs.write_atomically(path, write_half)


def test_what_a_killed_run_left_is_removed(tmp_path):
    path = tmp_path / "a[1].parquet"
    process = multiprocessing.get_context("spawn").Process(target=_write_slowly, args=[path])
    process.start()
    deadline = time.monotonic() + 20
    while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert len(list(tmp_path.iterdir())) == 1 and not list(tmp_path.glob("*.parquet"))
    outputs.write_text(path, "whole")
    assert names(tmp_path) == ["a[1].parquet"]


def test_leftovers_of_other_files_stay(tmp_path):
    others = [".a.parquet.b.parquet.%s.tmp" % ("0" * 32), ".b.parquet.%s.tmp" % ("0" * 32)]
    for name in (*others, ".a.parquet.%s.tmp" % ("0" * 32)):
        (tmp_path / name).write_bytes(b"")
    outputs.remove_leftovers(tmp_path / "a.parquet")
    assert names(tmp_path) == sorted(others)


def test_a_folder_takes_the_place_of_a_folder_and_a_file_never_does(tmp_path):
    out = tmp_path / "out"
    for name in ("old", "new"):
        with outputs.staged(out) as staging:
            staging.mkdir()
            (staging / name).touch()
    assert names(out) == ["new"] and names(tmp_path) == ["out"]
    with pytest.raises(OSError):
        outputs.write_text(out, "a file")
    assert names(out) == ["new"] and names(tmp_path) == ["out"]


def test_folders_that_can_not_hold_an_output(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    outputs.check_folder(tmp_path / "new" / "deep")
    assert names(tmp_path) == ["file"]
    for folder in ("file", "file/below", "s3://bucket/a"):
        with pytest.raises(RequestError, match="--out"):
            outputs.check_folder(Path(folder) if ":" in folder else tmp_path / folder)
    with pytest.raises(RequestError, match="can't be made"):
        outputs.make_folder(tmp_path / "file" / "below")


def test_another_request_is_named_by_what_differs():
    made = {"seed": 1, "count": 2, "old": 3}
    assert outputs.is_same_request(Path("out"), made, dict(made))
    assert not outputs.is_same_request(Path("out"), made, {}, overwrite=True)
    with pytest.raises(RequestError) as error:
        outputs.is_same_request(Path("out"), made, {"seed": 1, "count": 3})
    assert str(error.value) == (
        "out was made with another count, old; choose another --out, or --overwrite to start again"
    )


def test_a_record_says_what_a_folder_is(tmp_path):
    def read(*unfinished: str) -> object:
        return outputs.read_record(tmp_path / "out", "made.json", "generate", unfinished)

    assert read() is None
    (tmp_path / "out").mkdir()
    assert read() is None
    (tmp_path / "out" / "images").mkdir()
    assert read("images") is None
    with pytest.raises(RequestError, match="not empty, and not made by generate; choose another"):
        read()
    for wrong in ("{", "[]", "\udcff"):
        (tmp_path / "out" / "made.json").write_bytes(wrong.encode(errors="surrogateescape"))
        with pytest.raises(RequestError, match="choose another --out"):
            read("images")
    outputs.write_text(tmp_path / "out" / "made.json", '{"seed": 1}')
    assert read() == {"seed": 1}


def test_only_what_is_named_is_removed(tmp_path):
    for name in ("mine.txt", "made.json"):
        (tmp_path / name).touch()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").touch()
    outputs.remove_own(tmp_path, ["made.json", "images", "never-made"])
    assert names(tmp_path) == ["mine.txt"]


def test_files_of_another_kind_stay(tmp_path):
    page, folder = tmp_path / "page.html", tmp_path / "folder"
    folder.mkdir()
    outputs.check_file(page, "a report", lambda path: False, overwrite=False)
    page.touch()
    outputs.check_file(page, "a report", lambda path: True)
    outputs.check_file(page, "a report", lambda path: False, overwrite=True)
    with pytest.raises(RequestError, match=r"not a report; choose another --out, or --overwrite$"):
        outputs.check_file(page, "a report", lambda path: False, overwrite=False)
    with pytest.raises(RequestError, match=r"not a report; choose another --out$"):
        outputs.check_file(page, "a report", lambda path: False)
    with pytest.raises(RequestError, match="is a folder"):
        outputs.check_file(folder, "a report", lambda path: True)
    outputs.check_empty(folder)
    with pytest.raises(RequestError, match="not empty; choose another --out"):
        outputs.check_empty(tmp_path)


def test_a_journal_gives_back_what_was_added_and_passes_over_half_a_line(tmp_path):
    path = tmp_path / "journal.jsonl"
    assert list(outputs.read_lines(path, json.loads)) == []
    outputs.append_line(path, {"unit": "a\u2028b"})
    with path.open("ab") as file:
        file.write(b'{"unit": "cut')
    outputs.append_line(path, {"unit": "\u00e9"})
    assert list(outputs.read_lines(path, json.loads)) == [{"unit": "a\u2028b"}, {"unit": "\u00e9"}]
