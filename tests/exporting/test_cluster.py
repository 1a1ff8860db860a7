"""Exports on a Ray cluster: the files of an export on one machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.clusters import stand_in
from tests.helpers.command_line import run_line
from tests.helpers.exports import decide, make_two_tars
from tests.helpers.shards import image, write_jsonl

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
@pytest.mark.long
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
    assert "resumed: 1 shard was exported before" in again.stdout
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


@pytest.fixture
def engine(monkeypatch):
    return stand_in(monkeypatch, "export")


def test_a_file_whose_workers_die_is_named_and_done_again(tmp_path, engine):
    source = make_two_tars(tmp_path / "src")
    words = (source, "--decisions", decide(source, out=tmp_path / "kept"), "--out")
    engine.problem, engine.deadly = "its worker died 3 times", "00000.tar"
    ended = run_line("export", *words, tmp_path / "o", "--engine", "ray")
    assert ended.code == 1 and "shard 00000: its worker died 3 times" in ended.err
    engine.problem = ""
    assert run_line("export", *words, tmp_path / "o", "--engine", "ray").code == 0
    assert run_line("export", *words, tmp_path / "here").code == 0
    mine, wanted = contents(tmp_path / "o"), contents(tmp_path / "here")
    mine.pop("journal"), wanted.pop("journal")
    assert mine == wanted


def test_a_file_that_is_not_seen_here_ends_the_run(tmp_path, engine):
    source = make_two_tars(tmp_path / "src")
    words = (source, "--decisions", decide(source, out=tmp_path / "kept"), "--out")
    engine.elsewhere = tmp_path / "o"
    ended = run_line("export", *words, tmp_path / "o", "--engine", "ray")
    assert ended.code == 1 and "--out must be the same folder on every node" in ended.err


def test_images_are_copied_by_nodes_too(tmp_path, engine):
    said = [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "A square."}]
    items = [{"id": f"{n}", "image": f"{n}.jpg", "conversations": said} for n in range(4)]
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(image(number))
    source = write_jsonl(tmp_path / "mix.jsonl", items)
    rating = ("--model", "mmssr-tiny-scorer", "--capabilities", "ocr", "--workers", 0, "--out")
    table, kept = tmp_path / "table", tmp_path / "kept"
    assert run_line("rate", source, "--images", tmp_path, *rating, table).code == 0
    assert run_line("filter", table, "--by", "ocr", "--top-count", 2, "--out", kept).code == 0
    words = ("export", source, "--images", tmp_path, "--with-images", "--decisions", kept)
    here = run_line(*words, "--out", tmp_path / "here")
    there = run_line(*words, "--out", tmp_path / "there", "--engine", "ray")
    assert here.code == there.code == 0, there.err
    assert "beside them: 2 image files" in there.out
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
