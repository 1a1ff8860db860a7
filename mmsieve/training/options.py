"""Options of a training, what its folder was made for, and the processes it runs on.

They are started by `torchrun` or `accelerate launch`, which also choose between DDP, FSDP and
DeepSpeed; alone, a training is its own first process.
"""

import json
import math
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from cyclopts import Group, Parameter

from mmsieve.errors import RequestError
from mmsieve.leftovers import remove
from mmsieve.options import COMMON, NotNegative, OutputOptions
from mmsieve.options import RUN as RUN_GROUP
from mmsieve.outputs import (
    check_local,
    contents,
    is_same_request,
    make_folder,
    read_record,
    write_text,
)


@dataclass(frozen=True)
class TrainingFile:
    """A file of records, and the folder that their image paths are relative to."""

    file: Path
    images: Path
    weight: float = 1.0
    """How often its records come in an epoch."""


@dataclass(frozen=True)
class DataFiles:
    """What a stage learns from."""

    data: tuple[TrainingFile, ...]
    val: tuple[TrainingFile, ...] = ()
    """Held-out records; without them some images of `data` are held out."""


Paths: TypeAlias = Annotated[Path | list[Path] | None, Parameter(negative="")]
"""None, one or several, as a repeatable option gives them."""


def as_tuple(given: Any) -> tuple[Any, ...]:
    """What was given for a repeatable option."""
    return () if given is None else tuple(given) if isinstance(given, list | tuple) else (given,)


RECIPE = Group("Recipe", sort_key=1)
_DATA = Parameter(group=Group("Data", sort_key=2))
_MODEL = Parameter(group=Group("Parts of the model", sort_key=3))


@Parameter(name="*", group=RECIPE)
@dataclass(frozen=True, kw_only=True)
class TrainOptions(OutputOptions):
    """What a training reads, and how it runs."""

    data: Annotated[Paths, _DATA] = None
    """Training file, where the recipe's rendered data is not meant: a JSON list as generate writes
    it, or the folder that generate made; for projector LLaVA's captions. May be repeated: all of
    them are learnt together."""
    images: Annotated[Paths, _DATA] = None
    """Folder that the image paths of --data are relative to, one for each --data; by default each
    file's own."""
    data_weight: Annotated[float | list[float] | None, Parameter(negative=""), _DATA] = None
    """How often the records of a --data come in an epoch, one number for each: 2 is twice, 0.5
    every other epoch."""
    val: Annotated[Paths, _DATA] = None
    """Training file to choose the best state by, or the folder that generate made; by default 2%
    of --data, split by image. May be repeated."""
    pretrain: Annotated[Paths, _DATA] = None
    """LLaVA's captions that a new projector learns from first, in a stage of its own (classifier,
    enhancer). May be repeated."""
    pretrain_images: Annotated[Paths, _DATA] = None
    """Folder that the image paths of --pretrain are relative to, one for each; by default each
    file's own."""
    language_model: Annotated[str | None, _MODEL] = None
    """Another language model than the recipe's: a folder or a hub id."""
    vision_tower: Annotated[str | None, _MODEL] = None
    """Another vision tower than the recipe's: a folder or a hub id."""
    projector: Annotated[str | None, _MODEL] = None
    """Another projector than the recipe's: aapool_mlp (pooled, as released), or one embedding per
    patch by linear, mlp2x_gelu (mlpNx_gelu: N layers) or identity."""
    seed: NotNegative | None = None
    """Another seed than the recipe's, for weights, order and scenes."""
    smoke: bool = False
    """A trial of seconds: every stage, next to no training, a useless checkpoint."""
    workers: Annotated[NotNegative | None, Parameter(group=COMMON)] = None
    """Processes that prepare data, of each process that computes (0: the main one does it); by
    default 4 beside a GPU, else 0."""
    wandb: Annotated[bool, Parameter(group=RUN_GROUP)] = False
    """Log to Weights & Biases too (TensorBoard files are always written)."""

    def check(self, is_rendered: bool) -> None:
        """Raise RequestError where files or packages are missing, or asked for in vain.

        `is_rendered` is whether the recipe draws its data where there is no file.
        """
        packages = ["accelerate", "tensorboard", "peft", "sklearn"]
        if uses_deepspeed():
            packages.append("deepspeed")
        for package in [*packages, "wandb"] if self.wandb else packages:
            if find_spec(package) is None:
                extra = _EXTRAS.get(package, "'mmsieve[train]'")
                raise RequestError(f"training needs {package}: pip install {extra}")
        if not as_tuple(self.data):
            for name in ("images", "val", "data_weight"):
                if as_tuple(getattr(self, name)):
                    flag = name.replace("_", "-")
                    raise RequestError(f"--{flag} goes with --data FILE")
            if not is_rendered:
                raise RequestError("this recipe needs --data FILE (and --images DIR)")
        _ = self.files, self.pretrain_files

    @property
    def files(self) -> DataFiles | None:
        """The files to learn from; None where the recipe draws its data. Raises RequestError."""
        if not as_tuple(self.data):
            return None
        data = _files("data", self.data, "train.json")
        images = as_tuple(self.images)
        weights = as_tuple(self.data_weight) or (1.0,) * len(data)
        for flag, given in (("images", images), ("data-weight", weights)):
            if given and len(given) != len(data):
                raise RequestError(f"--{flag}: {len(given)} for {len(data)} --data: one for each")
        if not all(0 < weight < math.inf for weight in weights):
            raise RequestError("--data-weight: must be above 0; leave out a file of weight 0")
        val = _files("val", self.val, "val.json")
        if images and val and len({*images}) > 1 and len(val) != len(data):
            raise RequestError(f"--val: {len(val)} for {len(data)} --images: one for each")
        return DataFiles(_placed(data, images, weights), _placed(val, images))

    @property
    def pretrain_files(self) -> DataFiles | None:
        """The captions that a new projector learns from; raises RequestError."""
        files = _files("pretrain", self.pretrain, "train.json")
        images = as_tuple(self.pretrain_images)
        if images and not files:
            raise RequestError("--pretrain-images goes with --pretrain FILE")
        if images and len(images) != len(files):
            raise RequestError(
                f"--pretrain-images: {len(images)} for {len(files)} --pretrain: one for each"
            )
        return DataFiles(_placed(files, images)) if files else None

    @property
    def trackers(self) -> tuple[str, ...]:
        """Where the log goes."""
        return ("tensorboard", "wandb") if self.wandb else ("tensorboard",)


_EXTRAS = {"wandb": "wandb", "deepspeed": "'mmsieve[deepspeed]'"}


def _files(flag: str, given: Any, inside: str) -> list[Path]:
    """Training files by name, or by the folder that has them under the name `inside`."""
    found = [path / inside if Path(path).is_dir() else Path(path) for path in as_tuple(given)]
    for file in found:
        if not file.is_file():
            check_local(file, f"--{flag}")
            raise RequestError(f"--{flag} {file}: no such file")
    return found


def _placed(
    files: Sequence[Path], images: Sequence[Path], weights: Sequence[float] = ()
) -> tuple[TrainingFile, ...]:
    """Files with their folders of images: one for each, the one for all, or each file's own."""
    for folder in images:
        if not folder.is_dir():
            raise RequestError(f"--images {folder}: no such folder")
    folders = images if len(images) == len(files) else list(images[:1]) * len(files)
    folders = folders or [file.parent for file in files]
    weights = weights or [1.0] * len(files)
    return tuple(map(TrainingFile, files, folders, weights))


# training.json: what a folder was trained for, so that only the same command goes on in it

RUN = "training.json"
STAGES, STATES, LOG = "stages", "-states", "log.json"
"""Until the training is done: the folder of what has been reached; in it the end of the name of a
stage's saved states, and the file of what a finished stage logged."""

RunConfig = dict[str, Any]
"""Recipe, stage, and fingerprints of what else the result depends on."""


def check_run_config(
    out: Path, config: RunConfig, overwrite: bool = False
) -> Literal["new", "begun", "done"]:
    """How far this training got in a folder; with `overwrite`, it is new where it was trained in.

    Raises RequestError where something else is in it.
    """
    made = read_record(out, RUN, "train")
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
        if path.name != RUN:
            remove(path)


def write_run_config(out: Path, config: RunConfig, logs: dict[str, Any]) -> None:
    """Note the run config and, at the end, each stage's log."""
    write_text(out / RUN, json.dumps({**config, "logs": logs}, indent=1) + "\n")


# The processes of one training: what only the first does, and where all wait for each other


def processes() -> Any:
    """This process among those of the training: accelerate's PartialState, one per process."""
    from accelerate import PartialState

    # The others wait while the first checks a file of any size.
    return PartialState(**devices(), timeout=timedelta(days=1))


def devices() -> dict[str, Any]:
    """Where this process computes, and how it talks to the others, in accelerate's words.

    Without a GPU that has to be said, or several processes would not find each other.
    """
    import torch

    if torch.cuda.is_available():
        return {}
    # DeepSpeed counts a CPU as one more device: accelerate turns it off where `cpu` is asked for.
    return {"backend": "gloo"} if uses_deepspeed() else {"cpu": True}


def uses_deepspeed() -> bool:
    """Whether `accelerate launch` was told to train with DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def is_first() -> bool:
    """Whether this process writes and speaks; known without importing torch."""
    return os.environ.get("RANK", "0") == "0"


def first_goes_first() -> AbstractContextManager[Any]:
    """Lets the first process do a thing before the others do it."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    return nullcontext() if alone else processes().main_process_first()
