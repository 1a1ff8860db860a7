"""Exports on a Ray cluster: the files of an export on one machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.command_line import run_line
from tests.helpers.exports import decide, make_two_tars

ROOT = Path(__file__).parents[2]


def contents(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
    noted = set(files.pop(".export.jsonl").splitlines())  # in the order in which they end
    return files | {"journal": b"".join(sorted(noted))}


def export(*words: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "mmsieve", "export", *map(str, words), "--quiet"]
    return subprocess.run(
        line, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False, timeout=180
    )


@pytest.mark.slow
def test_the_same_files_come_from_a_cluster_and_go_on_there(tmp_path):
    pytest.importorskip("ray", reason="needs the extra [ray]")
    source = make_two_tars(tmp_path / "src")
    kept = decide(source, out=tmp_path / "kept")
    words = (source, "--decisions", kept, "--out")
    assert run_line("export", *words, tmp_path / "here").code == 0
    done = export(*words, tmp_path / "there", "--engine", "ray")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    (tmp_path / "there" / "00000.tar").unlink()
    again = export(*words, tmp_path / "there", "--engine", "ray")
    assert "resumed: 1 shards were exported before" in again.stdout
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def test_what_one_machine_must_do_is_refused(tmp_path):
    source = make_two_tars(tmp_path / "src")
    kept = decide(source, out=tmp_path / "kept")
    words = ("export", source, "--decisions", kept, "--engine", "ray", "--out")
    for more, said in (
        ((tmp_path / "o", "--shard-size", 4), "--shard-size: numbered tars are written one after"),
        (("hf://datasets/me/it",), "is made on this machine: leave out --engine ray"),
    ):
        ended = run_line(*words, *more)
        assert ended.code == 2 and said in ended.err
