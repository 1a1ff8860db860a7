"""Locks of outputs: one run at a time, who holds it, and what killed runs left."""

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmsieve import leftovers, locks
from mmsieve.errors import RequestError
from mmsieve.leftovers import hidden_place, host, scratch_folder
from mmsieve.locks import writing_to


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_one_run_at_a_time_and_the_other_is_told_who(tmp_path):
    out = tmp_path / "new" / "out"
    with writing_to(out, "score"):
        with pytest.raises(RequestError) as error, writing_to(out, "filter"):
            pass
        said = str(error.value)
        assert f"--out {out}: another run is writing there (score, process {os.getpid()} on" in said
        assert said.endswith("let it end, or say --wait") and "\n" not in said
        with writing_to(tmp_path / "new" / "ou", "filter"):  # another one
            pass
    with writing_to(out, "filter"):
        out.mkdir()
    assert names(tmp_path / "new") == ["out"]


def test_nothing_is_left_where_nothing_was_written(tmp_path):
    with pytest.raises(ZeroDivisionError), writing_to(tmp_path / "a" / "b" / "out", "score"):
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_a_link_and_what_it_leads_to_are_one_output(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with (
        writing_to(tmp_path / "link", "score"),
        pytest.raises(RequestError),
        writing_to(tmp_path / "out", "score"),
    ):
        pass


def test_a_run_that_waits_begins_when_the_other_ends(tmp_path, monkeypatch):
    order, said, waits = [], [], threading.Event()

    def write(text: str) -> None:
        said.append(text)
        waits.set()

    monkeypatch.setattr(locks.sys, "stderr", SimpleNamespace(write=write))

    def second() -> None:
        with writing_to(tmp_path / "out", "filter", wait=True):
            order.append("second")

    thread = threading.Thread(target=second)
    with writing_to(tmp_path / "out", "score"):
        thread.start()
        assert waits.wait(30)
        order.append("first")
    thread.join()
    assert order == ["first", "second"] and names(tmp_path) == []
    assert len(said) == 1 and "waiting for the run that writes there (score, process" in said[0]


def test_parts_of_one_request_are_free_of_each_other(tmp_path):
    out, request = tmp_path / "out", {"model": "a"}
    with (
        writing_to(out, "score", part="0/2", request=request),
        writing_to(out, "score", part="1/2", request=request),
    ):
        for part, other, message in (
            ("1/2", request, r"score --part 1/2, process"),
            ("2/3", {"model": "b"}, "made with another model"),
            (None, request, "another run is writing there"),
        ):
            with pytest.raises(RequestError, match=message):  # noqa: SIM117
                with writing_to(out, "score", part=part, request=other):
                    pass
    with writing_to(out, "score", part="2/3", request={"model": "b"}):
        pass
    with writing_to(out, "score"), pytest.raises(RequestError, match=r"\(score, process"):  # noqa: SIM117
        with writing_to(out, "score", part="0/2", request=request):
            pass
    assert names(tmp_path) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from mmsieve.locks import writing_to
from mmsieve.outputs import staged
out = Path(sys.argv[1])
with writing_to(out, "score", part=sys.argv[2] or None):
    out.mkdir()
    (out / "whole").touch()
    with staged(out / "a.parquet") as staging, staged(out) as folder:
        staging.touch()
        folder.mkdir()
        out.rename(folder.with_suffix(".old"))
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_dead_run_holds_nothing_and_what_it_left_is_removed(tmp_path):
    out = tmp_path / "out"
    subprocess.run([sys.executable, "-c", KILLED, str(out), ""], check=False)
    assert len(names(tmp_path)) == 4 and not out.exists()
    with writing_to(out, "score"):
        assert names(out) == ["whole"]  # what it had taken away to replace it is back
    assert names(tmp_path) == ["out"]


def test_a_part_leaves_what_others_may_need(tmp_path, dead):
    out = tmp_path / "out"
    (out / "deep").mkdir(parents=True)
    living = hidden_place(out / "deep" / "a.parquet")
    mine, old = f".b.{host()}-{dead}-00000000.tmp", f".c.{'0' * 32}.tmp"
    elsewhere, others = f".d.00000000-{dead}-00000000.tmp", ".e.tmp"
    for name in (living.name, mine, old, elsewhere, others):
        (out / "deep" / name).touch()
    with writing_to(out, "score", part="0/2"):
        assert set(names(out / "deep")) == {living.name, old, elsewhere, others}
    with writing_to(out, "score"):  # alone here, so what isn't alive is nobody's
        assert set(names(out / "deep")) == {living.name, others}


def test_leftovers_of_other_outputs_stay(tmp_path, dead):
    others = [f".{name}.{host()}-{dead}-00000000.tmp" for name in ("out.b", "ou", "xout")]
    for name in (*others, f".out.{host()}-{dead}-00000000.tmp", f".out.{'0' * 32}.tmp"):
        (tmp_path / name).touch()
    with writing_to(tmp_path / "out", "score"):
        pass
    assert names(tmp_path) == sorted(others)


def test_the_lock_of_a_mount_is_inside(tmp_path, monkeypatch):
    out = tmp_path / "mount"
    out.mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path == out)
    with writing_to(out, "score"):
        assert names(tmp_path) == ["mount"] and ".mmsieve.lock" in names(out)
        about = json.loads((out / ".mmsieve.lock.json").read_text())
        assert about["verb"] == "score" and about["process"] == os.getpid()
    assert names(out) == []


def test_a_file_system_without_locks_is_used_all_the_same(tmp_path, monkeypatch, capsys):
    why = OSError(errno.ENOLCK, "No locks available")

    def refuse(*given: object, **options: object) -> None:
        raise why

    monkeypatch.setattr(locks.FileLock, "acquire", refuse)
    with writing_to(tmp_path / "out", "score"):
        assert "no locks here" in capsys.readouterr().err
    why.errno = errno.EIO
    with pytest.raises(RequestError, match="can't be locked"), writing_to(tmp_path / "a", "score"):
        pass


def test_temporary_folders_of_killed_runs_are_removed(tmp_path, monkeypatch, dead):
    monkeypatch.setattr(leftovers.tempfile, "tempdir", str(tmp_path))
    kept = [f"mmsieve-{host()}-{os.getpid()}-x", f"mmsieve-00000000-{dead}-x", "mmsieve-x", "x"]
    for name in (*kept, f"mmsieve-{host()}-{dead}-x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shard.tar").touch()
    leftovers.remove_scratch_of_dead.cache_clear()
    with writing_to(tmp_path / "out", "score"):
        assert set(kept) == {name for name in names(tmp_path) if "mmsieve" in name or name == "x"}
    with scratch_folder() as folder:
        assert set(names(tmp_path)) == {*kept, folder.name}
        (folder / "shard.tar").touch()
    assert names(tmp_path) == sorted(kept)
