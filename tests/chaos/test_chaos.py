"""`make chaos` and `make chaos-short`: each test is a process that kills or doubles one command.

MMSIEVE_CHAOS=short kills before fewer of the changes where they are many and alike, and doubles
fewer runs.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.scenarios import SCENARIOS

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

SHORT = os.environ.get("MMSIEVE_CHAOS") == "short"
ALIKE = {"evaluate-model": 3, "train": 9}
"""Scenario -> of how many changes one is taken in the short form."""
MOST = ("score", "filter", "export", "generate")
"""Meet a hundred faults, the others 25."""
PAIRS = {
    "score": 30,
    "score-parts": 10,
    "filter": 40,
    "select": 30,
    "export": 40,
    "generate": 40,
    "train": 10,
}


def run(*words: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", *map(str, words)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=3000,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sys.stdout.write(done.stdout)


ALONE = [name for name, each in SCENARIOS.items() if not each.together]


@pytest.mark.parametrize("name", [n for n in ALONE if not SCENARIOS[n].devices])
def test_after_a_kill_or_a_fault_the_same_command_ends_as_if_undisturbed(name):
    """Kills before any change of files; signals, full disks, changed sources, clocks, storage."""
    count = 100 if name in MOST else 25
    every = ALIKE.get(name, 1) if SHORT else 1
    run("both", name, "--every", every, "--faults", 4 if SHORT else count)


def test_a_device_s_process_that_is_killed_costs_nothing():
    run("faults", "score-devices", "--faults", 1 if SHORT else 25)


@pytest.mark.parametrize("name", PAIRS)
def test_of_two_runs_at_once_none_that_ends_well_leaves_a_wrong_result(name):
    run("pairs", name, "--count", max(1, PAIRS[name] // 10) if SHORT else PAIRS[name])
