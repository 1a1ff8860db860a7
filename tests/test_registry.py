"""The registry: what the drawn world offers is found by name, and nothing else knows it."""

import subprocess
import sys

import pytest

import mmsieve
from mmsieve.registry import find, find_teacher, registered
from mmsieve.training.data import drawn_training


def test_the_drawn_world_registers_itself():
    assert registered("teacher") == {"rendered": "mmsieve.synthetic.teacher"}
    assert registered("verb") == {"demo": "mmsieve.synthetic.demo:demo"}
    teacher = find_teacher("rendered")
    assert teacher is not None
    assert teacher is find("teacher", "rendered")
    assert drawn_training().__name__ == "mmsieve.synthetic.training"
    assert mmsieve.demo is find("verb", "demo")


def test_what_is_not_registered_is_not_found():
    assert find_teacher("openai:gpt-5") is None
    assert find("verb", "score") is None
    assert "mmsieve.synthetic.teacher" not in registered("verb").values()


@pytest.mark.parametrize(
    "module",
    ["mmsieve.cli", "mmsieve.verbs.generate", "mmsieve.verbs.select", "mmsieve.generation.run"],
)
def test_a_verb_imports_nothing_that_is_drawn(module):
    code = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    drawn = {name for name in done.stdout.split() if name.startswith("mmsieve.synthetic")}
    assert drawn <= {"mmsieve.synthetic"}  # which only registers


def test_help_shows_a_teachers_options_where_it_is_named(capsys):
    from mmsieve.cli import main

    said = []
    for words in ([], ["--teacher", "openai:m"], ["--teacher", "rendered"], ["--teacher=rendered"]):
        with pytest.raises(SystemExit):
            main(["generate", "documents", *words, "--help"])
        said.append("--shard-size" in capsys.readouterr().out)
    assert said == [False, False, True, True]
