"""training.json: what a folder was trained for, so that only the same command goes on in it."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

from mmsieve.errors import RequestError
from mmsieve.table import write_atomically
from mmsieve.train.recipe import Recipe

_NAME = "training.json"


def check_claim(
    out: Path, recipe: Recipe, overwrite: bool = False
) -> Literal["new", "begun", "done"]:
    """How far this recipe got in a folder; raises RequestError where something else is in it.

    With `overwrite` an earlier training is removed, and only that.
    """
    if not out.is_dir() or not any(out.iterdir()):
        return "new"
    if not (out / _NAME).is_file():
        raise RequestError(f"--out {out}: not empty, and not made by train; choose another folder")
    if overwrite:
        shutil.rmtree(out)
        return "new"
    if json.loads((out / _NAME).read_text("utf-8"))["recipe"] != recipe.model_dump():
        raise RequestError(
            f"--out {out}: made with another recipe; choose another --out, or --overwrite to "
            "start again"
        )
    return "done" if (out / "config.json").is_file() else "begun"


def write_claim(out: Path, recipe: Recipe, logs: dict[str, Any]) -> None:
    """Note the recipe and, at the end, each stage's log."""
    text = json.dumps({"recipe": recipe.model_dump(), "logs": logs}, indent=1)
    write_atomically(out / _NAME, lambda path: path.write_text(text + "\n") and None)
