"""training.json: what a folder was trained for, so that only the same command goes on in it."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from mmsieve.errors import RequestError
from mmsieve.table import write_atomically

_NAME = "training.json"

Claim = dict[str, Any]
"""Recipe, stage, and fingerprints of what else the result depends on."""


def check_claim(
    out: Path, claim: Claim, overwrite: bool = False
) -> Literal["new", "begun", "done"]:
    """How far this training got in a folder; raises RequestError where something else is in it.

    With `overwrite` an earlier training is removed, and only that.
    """
    if not out.is_dir() or not any(out.iterdir()):
        return "new"
    if not (out / _NAME).is_file():
        raise RequestError(f"--out {out}: not empty, and not made by train; choose another folder")
    if overwrite:
        shutil.rmtree(out)
        return "new"
    made = json.loads((out / _NAME).read_text("utf-8"))
    made.pop("logs")
    if made != claim:
        raise RequestError(
            f"--out {out}: made with another recipe or other data; choose another --out, or "
            "--overwrite to start again"
        )
    return "done" if (out / "config.json").is_file() else "begun"


def write_claim(out: Path, claim: Claim, logs: dict[str, Any]) -> None:
    """Note the claim and, at the end, each stage's log."""
    text = json.dumps({**claim, "logs": logs}, indent=1)
    write_atomically(out / _NAME, lambda path: path.write_text(text + "\n") and None)
