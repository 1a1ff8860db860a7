"""Where commands may write: no URL, no link replaced, nothing outside, no name too long."""

import errno
import json
import os
import threading
from contextlib import chdir

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmsieve import locks
from mmsieve.cli import main
from mmsieve.locks import writing_to
from mmsieve.training.options import begin_training
from tests.helpers.selections import ratings_of, write_ratings
from tests.helpers.shards import captions, write_tar

DRAWN = "generate captions --teacher rendered --count 4 --quiet"
RULES = "score in --model rules --workers 0 --quiet"


@pytest.fixture
def run(tmp_path, capsys):
    """Runs a command in a folder with three tars, a table and ratings; exit code and stderr."""

    def command(words: str) -> tuple[int, str]:
        capsys.readouterr()
        with chdir(tmp_path), pytest.raises(SystemExit) as done:
            main(words.split())
        return int(done.value.code or 0), capsys.readouterr().err

    for number in range(3):
        write_tar(tmp_path / "in" / f"{number}.tar", captions(2))
    assert command(f"{RULES} --out table")[0] == 0
    assert command("filter table --by num_words --min-score 0 --quiet --out decisions")[0] == 0
    rows = [{"key": f"{n}", "image_source": "a", "styles": ["b"], "ocr": n % 5} for n in range(6)]
    write_ratings(tmp_path / "ratings", ratings_of(rows, ocr=pa.int8()))
    return command


VERBS = {
    "score": RULES,
    "enhance": "enhance in --model aitqe-tiny",
    "rate": "rate in --model mmssr-tiny-scorer",
    "filter": "filter table --by num_words --min-score 0",
    "select": "select ratings --budget 2",
    "export": "export in --decisions decisions",
    "generate": DRAWN,
    "train": "train classifier unifilter-tiny --smoke",
    "convert": "convert mmssr-tiny-styler",
    "report": "report table",
    "audit": "audit table in --by num_words",
    "evaluate": "evaluate table table",
    "demo": "demo",
}
PAGES = ("report", "audit")
"""Verbs that make an HTML file."""


@pytest.mark.parametrize("verb", VERBS)
def test_an_output_that_cannot_be_reached_is_refused_in_a_line(tmp_path, run, verb):
    before = sorted(path.name for path in tmp_path.iterdir())
    for url in ("s3://bucket", "s3://bucket/out", "nosuch://bucket/out"):
        url += ".html" if verb in PAGES else ""
        code, said = run(f"{VERBS[verb]} --out {url}")
        assert code == 2 and said.count("\n") == 1 and f"--out {url[:5]}" in said, said
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("verb", ["score", "filter", "select", "export", "generate"])
def test_a_link_as_output_stays_a_link_however_often(tmp_path, run, verb):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "out")
    for more in ("", "", " --overwrite"):
        assert run(f"{VERBS[verb]} --out out{more}") == (0, "")
    assert (tmp_path / "out").is_symlink() and list((tmp_path / "disk" / "out").iterdir())
    assert {path.name for path in (tmp_path / "disk").iterdir()} == {"out", ".out.run"}


def test_a_training_that_begins_again_in_a_link_leaves_the_link(tmp_path):
    (tmp_path / "disk" / "stages").mkdir(parents=True)
    (tmp_path / "disk" / "config.json").touch()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    begin_training(tmp_path / "out", {"goal": "rater"})
    assert (tmp_path / "out").is_symlink()
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["training.json"]


def test_a_name_that_is_too_long_is_refused_before_the_work(tmp_path, run):
    name = "n" * 250
    write_tar(tmp_path / "in" / f"{name}.tar", captions(2))
    code, said = run(f"{RULES} --out new")  # NAME.parquet has 258 letters
    assert code == 2 and "255" in said and not (tmp_path / "new").exists()
    for verb, words in VERBS.items():
        if verb != "demo":
            code, said = run(f"{words} --out {'n' * 256}.html")
            assert code == 2 and said.count("\n") == 1, said


def test_a_full_disk_ends_a_run(tmp_path, run, monkeypatch):
    written = []

    def write(table, path, **options):
        written.append(path)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pq, "write_table", write)
    code, said = run(f"{RULES} --out new")
    assert code == 1 and len(written) <= 2
    assert said.count("\n") == 1 and "No space left" in said and "make room" in said


@pytest.mark.parametrize("name", ["../mine.tar", "/mine.tar", "away/mine.tar"])
def test_a_journal_can_not_have_anything_removed_outside(tmp_path, run, name):
    mine, out = tmp_path / "mine.tar", tmp_path / "out"
    mine.touch()
    out.mkdir()
    (out / "away").symlink_to(tmp_path)
    tar = {"name": name.replace("/mine", f"{tmp_path}/mine") if name[0] == "/" else name}
    tar |= {"samples": 1, "bytes": 0, "sha256": "", "sources": ["0"]}
    for unit in ("0", "another"):
        line = {"unit": unit, "identity": "x", "tars": [tar], "complete": False}
        (out / ".export.jsonl").write_text(json.dumps(line))
        for more in ("", " --overwrite"):
            code, said = run(f"{VERBS['export']} --out out{more}")
            assert code == 2 and "not below it" in said and said.count("\n") == 1
    assert mine.exists()


def test_the_second_run_is_told_who_writes_there_or_waits(tmp_path, run, monkeypatch):
    for verb, words in VERBS.items():
        if verb in ("enhance", "rate", "train", "demo"):  # as score; slow; of several commands
            continue
        out = "page.html" if verb in PAGES else "out"
        with writing_to(tmp_path / out, "score"):
            code, said = run(f"{words} --out {out}")
        assert code == 2 and f"process {os.getpid()} on" in said and said.count("\n") == 1, said
    begun, ended, said_while_waiting = threading.Event(), threading.Event(), []

    def write(text: str, stream: object) -> None:
        said_while_waiting.append(text)
        ended.set()

    monkeypatch.setattr(locks, "write", write)

    def hold() -> None:
        with writing_to(tmp_path / "out", "score"):
            begun.set()
            ended.wait(60)

    threading.Thread(target=hold).start()
    begun.wait()
    code, said = run(f"{RULES} --wait --out out")
    assert code == 0
    assert "waiting for the run that writes there (score, process" in said_while_waiting[0]


def test_a_part_of_another_request_is_refused_before_there_is_any_file(tmp_path, run):
    with writing_to(tmp_path / "out", "score", part="0/2", request={"model": "another"}):
        code, said = run(f"{RULES} --part 1/2 --out out")
        assert code == 2 and "made with another" in said
        code, said = run(f"{RULES} --out out")
        assert code == 2 and "score --part 0/2, process" in said
    assert not (tmp_path / "out").exists()
    assert run(f"{RULES} --part 1/2 --out out")[0] == 0
