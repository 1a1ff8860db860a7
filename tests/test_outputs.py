"""Outputs: whole or not there, never in the place of something else, and known by their request."""

import errno
import json
import os
from pathlib import Path

import duckdb
import pytest
from safetensors import SafetensorError

from mmsieve import outputs
from mmsieve.errors import RequestError
from mmsieve.methods.base import fitting
from mmsieve.outputs import is_full


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


def write_folder(out: Path, *files: str) -> None:
    with outputs.staged(out) as staging:
        for name in files:
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_text(name)


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path, is_there):
    (tmp_path / "disk").mkdir()
    for name, kind in (("folder", Path.mkdir), ("file.txt", Path.touch)):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
        if is_there:
            kind(tmp_path / "disk" / name)
    for _ in range(2):
        write_folder(tmp_path / "folder", "a/b.txt")
        outputs.write_text(tmp_path / "file.txt", "whole")
    assert (tmp_path / "folder").is_symlink() and (tmp_path / "file.txt").is_symlink()
    assert (tmp_path / "disk" / "folder" / "a" / "b.txt").read_text() == "a/b.txt"
    assert (tmp_path / "disk" / "file.txt").read_text() == "whole"
    assert names(tmp_path / "disk") == ["file.txt", "folder"]


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EXDEV])
@pytest.mark.parametrize("is_seen", [True, False], ids=["seen", "bind"])
def test_a_mount_stays_and_what_is_in_it_is_replaced(tmp_path, monkeypatch, number, is_seen):
    out = tmp_path / "mount"
    out.mkdir()
    for name in ("old", "a"):
        (out / name).write_text("old")
    rename, replace = Path.rename, Path.replace

    def rename_none(path: Path, target: Path) -> Path:
        if path == out:
            raise OSError(number, "a mount")
        return rename(path, target)

    def replace_inside(path: Path, target: Path) -> Path:
        if number == errno.EXDEV and (path.parent == out) != (target.parent == out):
            raise OSError(number, "another file system")
        return replace(path, target)

    monkeypatch.setattr(Path, "rename", rename_none)
    monkeypatch.setattr(Path, "replace", replace_inside)
    monkeypatch.setattr(Path, "is_mount", lambda path: is_seen and path == out)
    inode = out.stat().st_ino
    write_folder(out, "a", "b/c")
    assert out.stat().st_ino == inode and names(out) == ["a", "b"] and names(tmp_path) == ["mount"]
    assert (out / "a").read_text() == "a" and (out / "b" / "c").read_text() == "b/c"


def test_files_and_the_names_they_get_are_on_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(
        os, "fsync", lambda file: synced.append(Path(f"/proc/self/fd/{file}").readlink())
    )
    write_folder(tmp_path / "out", *(f"{n}/{n}.parquet" for n in range(20)))
    files = [path.name for path in synced]
    assert {f"{n}.parquet" for n in range(20)} | {str(n) for n in range(20)} <= set(files)
    assert synced[-1] == tmp_path


def test_folders_that_can_not_hold_an_output(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    outputs.check_folder(tmp_path / "new" / "deep")
    assert names(tmp_path) == ["file"]
    for folder in ("file", "file/below", "s3://bucket/a", "n" * 256, "d/" * 2100):
        with pytest.raises(RequestError, match="--out"):
            outputs.check_folder(Path(folder) if ":" in folder else tmp_path / folder)
    with pytest.raises(RequestError, match="can't be made"):
        outputs.make_folder(tmp_path / "file" / "below")


def test_long_names_are_written_and_too_long_ones_are_refused(tmp_path):
    most = "\u00e9" * 127 + "n"
    outputs.check_names(tmp_path / "new", [most, f"a/{most}"])
    outputs.write_text(tmp_path / most, "whole")
    assert names(tmp_path) == [most]
    for name in (most + "n", f"a/{most}n", "a/" * 2100):
        with pytest.raises(RequestError, match="rename it"):
            outputs.check_names(tmp_path / "new", [name])


def test_a_full_disk_is_known_from_errors_of_libraries_too():
    said = "Error while serializing: I/O error: No space left on device (os error 28)"
    full = SafetensorError(said)
    assert is_full(full) and is_full(OSError(errno.EDQUOT, "quota"))
    assert is_full(duckdb.IOException('IO Error: Could not write file "x": File too large'))
    assert not is_full(SafetensorError("header too large"))
    with pytest.raises(SafetensorError, match="os error 28"), fitting("model"):
        raise full


def test_what_a_journal_names_is_in_its_folder(tmp_path):
    out = tmp_path / "out"
    (out / "a").mkdir(parents=True)
    (out / "away").symlink_to(tmp_path)
    outputs.check_below(out, ["a/b.tar", "new/c.tar", "d.tar", "..e/.f"])
    for name in ("../x", "a/../../x", str(tmp_path / "x"), "away/x", "..", ".", "", "x\0y"):
        with pytest.raises(RequestError, match="nothing is touched"):
            outputs.check_below(out, ["a/b.tar", name])


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
    out = tmp_path / "out"

    def read() -> object:
        return outputs.read_record(out, "made.json", "generate")

    assert read() is None
    out.mkdir()
    (out / f".made.json.{'0' * 32}.tmp").touch()  # a killed run was about to write it
    assert read() is None
    (out / "images").mkdir()
    with pytest.raises(RequestError, match="not empty, and not made by generate; choose another"):
        read()
    for wrong in ("{", "[]", "\udcff"):
        (out / "made.json").write_bytes(wrong.encode(errors="surrogateescape"))
        with pytest.raises(RequestError, match="choose another --out"):
            read()
    outputs.write_text(out / "made.json", '{"seed": 1}')
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


def test_a_journal_gives_back_what_was_added_and_passes_over_half_a_line(tmp_path):
    path = tmp_path / "journal.jsonl"
    assert list(outputs.read_lines(path, json.loads)) == []
    outputs.append_line(path, {"unit": "a\u2028b"})
    with path.open("ab") as file:
        file.write(b'{"unit": "cut')
    outputs.append_line(path, {"unit": "\u00e9"})
    assert list(outputs.read_lines(path, json.loads)) == [{"unit": "a\u2028b"}, {"unit": "\u00e9"}]


def test_a_system_without_limits_of_names_is_not_asked_for_them(tmp_path, monkeypatch):
    monkeypatch.delattr("os.pathconf", raising=False)
    outputs.check_names(tmp_path, ["x" * 5000])
