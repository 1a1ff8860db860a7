"""Makes AITQE checkpoints for tests, from the recorded one."""

from pathlib import Path
from typing import Any

import polars as pl
import torch

import mmsieve
from mmsieve import EnhanceOptions, RunOptions, RunReport, ScoringOptions
from mmsieve.methods.aitqe.checkpoint import open_enhancer
from mmsieve.methods.aitqe.model import load_enhancer, save_enhancer
from mmsieve.tables import table_files
from tests.helpers.paths import RECORDED_DATA

RELEASED = RECORDED_DATA / "aitqe" / "aitqe-tiny-b"


def save_own(folder: Path, seed: int = 0, **own: Any) -> Path:
    """A checkpoint as mmsieve makes them, its language model's head drawn anew."""
    like = open_enhancer(RELEASED)
    model = load_enhancer(like)
    torch.manual_seed(seed)
    with torch.no_grad():
        torch.nn.init.normal_(model.lm_head.weight, std=0.5)
    save_enhancer(model.half(), folder, like, own)
    return folder


def enhance(
    source: Path, out: Path, model: Path | str, scoring: ScoringOptions | None = None, **options
) -> RunReport:
    """Enhance in this process; `options` are those of the enhancer and of the run."""
    asked = {name: options.pop(name) for name in _ASKED if name in options}
    return mmsieve.enhance(
        str(source),
        model=str(model),
        out=out,
        enhancing=EnhanceOptions(**asked),
        scoring=scoring or ScoringOptions(device="cpu"),
        run=RunOptions(**({"workers": 0, "quiet": True} | options)),
    )


_ASKED = (
    "rewrite_below",
    "explain",
    "max_new_tokens",
    "max_edit",
    "accept_if_better",
    "like",
    "timeout",
    "concurrency",
    "like",
    "backend",
)


def rows(out: Path) -> pl.DataFrame:
    """The table, in the order of its files."""
    return pl.concat([pl.read_parquet(path) for path in table_files(out).values()])
