"""Options of a training, what its folder was made for, and the processes it runs on.

They are started by `torchrun` or `accelerate launch`, which also choose between DDP, FSDP and
DeepSpeed; alone, a training is its own first process.
"""

import json
import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from cyclopts import Parameter

from mmsieve.errors import RequestError
from mmsieve.leftovers import remove
from mmsieve.options import NotNegative, OutputOptions, Workers
from mmsieve.outputs import contents, is_same_request, make_folder, read_record, write_text


@dataclass(frozen=True)
class DataFiles:
    """Training files, their images below one folder."""

    data: Path
    images: Path
    val: Path | None = None
    """Held-out records; without it some images of `data` are held out."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TrainOptions(OutputOptions):
    """What a training reads, and how it runs."""

    data: Path | None = None
    """Training file, where the recipe's rendered data is not meant: a JSON list as generate writes
    it; for projector LLaVA's captions."""
    images: Path | None = None
    """Folder that the image paths of --data are relative to; by default the file's own."""
    val: Path | None = None
    """Training file to choose the best state by; by default 2% of --data, split by image."""
    language_model: str | None = None
    """Another language model than the recipe's: a folder or a hub id."""
    vision_tower: str | None = None
    """Another vision tower than the recipe's: a folder or a hub id."""
    projector: str | None = None
    """Another projector than the recipe's: aapool_mlp (pooled, as released), or one embedding per
    patch by linear, mlp2x_gelu (mlpNx_gelu: N layers) or identity."""
    seed: NotNegative | None = None
    """Another seed than the recipe's, for weights, order and scenes."""
    smoke: bool = False
    """A trial of seconds: every stage, next to no training, a useless checkpoint."""
    workers: Workers = 0
    wandb: bool = False
    """Log to Weights & Biases too (TensorBoard files are always written)."""

    def check(self, is_rendered: bool) -> None:
        """Raise RequestError where files or packages are missing, or asked for in vain.

        `is_rendered` is whether the recipe draws its data where there is no file.
        """
        packages = ["accelerate", "tensorboard", "peft", "sklearn"]
        for package in [*packages, "wandb"] if self.wandb else packages:
            if find_spec(package) is None:
                extra = "wandb" if package == "wandb" else "'mmsieve[train]'"
                raise RequestError(f"training needs {package}: pip install {extra}")
        if self.data is None:
            for name in ("images", "val"):
                if getattr(self, name) is not None:
                    raise RequestError(f"--{name} goes with --data FILE")
            if not is_rendered:
                raise RequestError("this recipe needs --data FILE (and --images DIR)")
            return
        for name in ("data", "val"):
            file = getattr(self, name)
            if file is not None and not file.is_file():
                raise RequestError(f"--{name} {file}: no such file")
        if self.images is not None and not self.images.is_dir():
            raise RequestError(f"--images {self.images}: no such folder")

    @property
    def files(self) -> DataFiles | None:
        """The files to learn from; None where the recipe draws its data."""
        if self.data is None:
            return None
        return DataFiles(self.data, self.images or self.data.parent, self.val)

    @property
    def trackers(self) -> tuple[str, ...]:
        """Where the log goes."""
        return ("tensorboard", "wandb") if self.wandb else ("tensorboard",)


# training.json: what a folder was trained for, so that only the same command goes on in it

_NAME = "training.json"
STAGES = "stages"
"""Folder of what has been reached, until the training is done."""

RunConfig = dict[str, Any]
"""Recipe, stage, and fingerprints of what else the result depends on."""


def check_run_config(
    out: Path, config: RunConfig, overwrite: bool = False
) -> Literal["new", "begun", "done"]:
    """How far this training got in a folder; with `overwrite`, it is new where it was trained in.

    Raises RequestError where something else is in it.
    """
    made = read_record(out, _NAME, "train")
    if made is None or overwrite:
        return "new"
    made.pop("logs", None)
    is_same_request(out, made, config)
    return "done" if (out / "config.json").is_file() else "begun"


def begin_training(out: Path, config: RunConfig) -> None:
    """Say what is going to be trained in a folder, and remove an earlier training.

    Killed at any moment, it leaves a folder that says what is in it.
    """
    make_folder(out)
    for name in ("config.json", STAGES):
        remove(out / name)
    write_run_config(out, config, {})
    for path in contents(out):
        if path.name != _NAME:
            remove(path)


def write_run_config(out: Path, config: RunConfig, logs: dict[str, Any]) -> None:
    """Note the run config and, at the end, each stage's log."""
    write_text(out / _NAME, json.dumps({**config, "logs": logs}, indent=1) + "\n")


# The processes of one training: what only the first does, and where all wait for each other


def processes() -> Any:
    """This process among those of the training: accelerate's PartialState, one per process."""
    import torch
    from accelerate import PartialState

    # The others wait while the first checks a file of any size.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=1))


def is_first() -> bool:
    """Whether this process writes and speaks; known without importing torch."""
    return os.environ.get("RANK", "0") == "0"


def first_goes_first() -> AbstractContextManager[Any]:
    """Lets the first process do a thing before the others do it."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    return nullcontext() if alone else processes().main_process_first()
