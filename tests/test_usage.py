"""What the command line says of itself: examples that parse, switches, names nearly right."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from mmsieve.cli import app, main
from mmsieve.usage import EXAMPLES
from tests.guards.recording import RECORDED


def run(capsys, line: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(line))
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def commands(parent=app, above=()) -> dict[str, object]:
    """Every verb that does something -> its part of the command line."""
    found = {}
    for name in parent:
        if not name.startswith("-"):
            below = commands(parent[name], (*above, name))
            found |= below or {" ".join((*above, name)): parent[name]}
    return found


def test_every_verb_has_two_examples():
    assert EXAMPLES.keys() == commands().keys()
    assert {len(examples) for examples in EXAMPLES.values()} == {2}


@pytest.mark.parametrize("line", [line for lines in EXAMPLES.values() for line in lines])
def test_examples_parse(line):
    words = shlex.split(line.removeprefix('eval "$(').removesuffix(')"'))
    ends = [place for place, word in enumerate(words) if word in ("|", ">")]
    assert words[0] == "mmsieve"
    given = words[1 : min(ends, default=len(words))]
    command, bound, _ = app.parse_args(given, exit_on_error=False, print_error=False)
    assert callable(command)
    assert bound.arguments or given in (["models"], ["layouts"], ["doctor"])


def test_help_of_a_verb_is_the_same_both_ways(capsys):
    code, asked, _ = run(capsys, "help filter")
    assert code == 0
    assert asked == run(capsys, "filter --help")[1]
    assert "TABLE..." in asked
    assert "mmsieve filter scores/ --top-fraction 0.3 --out keep/" in asked


def test_help_of_an_unknown_verb_is_a_wrong_request(capsys):
    code, _, said = run(capsys, "help scor")
    assert code == 2
    assert 'Did you mean "score"?' in said


def test_verbs_come_in_the_order_of_work(capsys):
    _, said, _ = run(capsys, "--help")
    order = ["look", "score", "enhance", "rate", "report", "filter", "select", "export", "train"]
    places = [said.index(f" {verb} ") for verb in order]
    assert places == sorted(places)


BOTH = {f"--no-{one}" for one in ("plain-text", "clean-format", "one-at-a-time")} | {
    "--no-negatives",
    "--no-rewriting",
}
"""Switches that are not off by default."""


def test_a_half_that_nobody_means_parses_and_is_not_shown():
    line = "filter a --top-count 3 --out b --no-quiet --no-dry-run --no-wait --no-overwrite"
    _, bound, _ = app.parse_args(shlex.split(line), exit_on_error=False, print_error=False)
    assert bound.arguments["quiet"] is False
    for said in (RECORDED / "help").glob("*.txt"):
        halves = {word for word in said.read_text("utf-8").split() if word.startswith("--no-")}
        assert halves <= BOTH


def test_help_fits_narrow_terminals():
    # In a process of its own: a terminal's width is asked once
    done = subprocess.run(
        [sys.executable, "-m", "mmsieve", "score", "--help"],
        env=os.environ | {"COLUMNS": "40"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert max(map(len, done.stdout.splitlines())) <= 40


@pytest.mark.parametrize("flag", ["-V", "--version"])
def test_the_version(capsys, flag):
    assert run(capsys, flag)[1].strip().count(".") == 2


@pytest.mark.parametrize(
    "shell", ["fish", *(pytest.param(shell, marks=pytest.mark.long) for shell in ("bash", "zsh"))]
)
def test_completion_knows_verbs_and_options(capsys, shell):
    code, script, _ = run(capsys, f"completion {shell}")
    assert code == 0
    assert "top-fraction" in script
    halves = {f"--{word}" for word in re.findall(r"\bno-[a-z-]+", script)}
    assert halves & {"--no-plain-text", "--no-dry-run"} == {"--no-plain-text"}
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True, timeout=60)


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("score x --model unifilter-tny --out o", "did you mean unifilter-tiny, of `score`?"),
        ("score x --model mmssr-tiny-scorr --out o", "mmssr-tiny-scorer, of `rate`?"),
        ("score x --model aitqe-tiny --out o", "an enhancer (AITQE)"),
        ("enhance x --model HymanH/AITQ --out o", "did you mean HymanH/AITQE, of `enhance`?"),
        (
            "score x --model unifilter-qwen3-0.6b --out o",
            "no folder 'weizhiwang/UniFilter-Qwen3-0.6B'",
        ),
        ("train rater mmssr-tiny-scorr --out o", "did you mean mmssr-tiny-scorer?"),
        ("train rater aitqe-tiny --out o", "is a recipe of `train enhancer`, not of"),
        ("filter x --top-fracton 0.3 --out o", "Did you mean --top-fraction?"),
        ("train clasifier unifilter-tiny --out o", 'Did you mean "classifier"?'),
    ],
)
def test_what_is_nearly_right_finds_its_name(capsys, monkeypatch, tmp_path, line, meant):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mmsieve.methods.folders.hub_folder", lambda name: None)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.jpg").write_bytes(b"")
    (tmp_path / "x" / "a.txt").write_text("A text.")
    code, _, said = run(capsys, line)
    assert code == 2
    assert meant in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "verb", ["score", "enhance", "rate", "filter", "select", "export", "evaluate"]
)
def test_what_work_takes_is_in_groups_in_the_order_of_work(verb, capsys):
    _, out, _ = run(capsys, f"{verb} --help")
    titles = [line.strip("╭─╮ \n") for line in out.splitlines() if line.startswith("╭")]
    assert "Parameters" not in titles
    known = ["Model", "Input", "Images and device", "Output", "Run", "Common options"]
    there = [title for title in titles if title in known]
    assert there == sorted(there, key=known.index) and "Output" in there
