"""`--help` of every verb says what it said."""

import os
import subprocess
import sys

import pytest

from .recording import check_text

pytestmark = pytest.mark.long

VERBS = [
    "",
    "score",
    "enhance",
    "rate",
    "filter",
    "select",
    "export",
    "evaluate",
    "report",
    "audit",
    "convert",
    "status",
    "models",
    "layouts",
    "doctor",
    "completion",
    "help",
    "look",
    "demo",
    "generate",
    "generate captions",
    "generate captions --teacher rendered",
    "generate documents",
    "generate assessments",
    "generate ratings",
    "train",
    "train projector",
    "train classifier",
    "train rater",
    "train enhancer",
]


_TERMINAL = ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.replace(" ", "-") or "mmsieve")
def test_the_help_is_as_recorded(verb):
    # In a process of its own: what another test did to the terminal's settings is not asked
    environment = {k: v for k, v in os.environ.items() if k not in _TERMINAL} | {"COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-m", "mmsieve", *verb.split(), "--help"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    name = "-".join(["mmsieve", *verb.split()])
    check_text(f"help/{name}.txt", "\n".join(lines).strip() + "\n")
