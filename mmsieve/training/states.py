"""Saved states of a stage: the last whole one, and the weights in one that lies in parts.

DDP saves one file of weights, FSDP and DeepSpeed a part for each process. Those of FSDP are read on
any number of processes, those of DeepSpeed after a conversion (universal checkpoints).
"""

import io
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from mmsieve.errors import RequestError
from mmsieve.training.options import processes
from mmsieve.validated import OBJECT, read_json_file

_PARTS = {"DEEPSPEED": ("DeepSpeed", "global_step*"), "FSDP": ("FSDP", "pytorch_model_fsdp*")}
"""How accelerate and others call what spreads a model, and the folder in a state that shows it."""


def last_state(folder: Path, kind: str) -> Path | None:
    """The last state in a folder that is whole: the Trainer writes trainer_state.json at last.

    `kind` is how the training is spread now, in accelerate's words; RequestError: the states were
    saved in another way, and can't be gone on from.
    """
    for place in sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True):
        try:
            read_json_file(place / "trainer_state.json", OBJECT, "")
        except (FileNotFoundError, RequestError):  # killed while it was written
            continue
        _check_kind(place, kind)
        return place
    return None


def step_of(state: Path) -> int:
    """Updates before a state."""
    return int(state.name.rpartition("-")[2])


def _check_kind(state: Path, kind: str) -> None:
    saved = [name for name, parts in _PARTS.values() if any(state.glob(parts))]
    now = [_PARTS[kind][0]] if kind in _PARTS else []
    if saved != now:
        was, here = (found[0] if found else "one process or DDP" for found in (saved, now))
        raise RequestError(
            f"{state.parent}: its states were saved under {was}, this is {here}: go on with the "
            "accelerate config of before, or start again with --overwrite"
        )


def gather_deepspeed(state: Path) -> dict[str, Tensor]:
    """Name -> float32 weights and buffers of a state that DeepSpeed saved, on the CPU."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with _silence():
        found: dict[str, Tensor] = get_fp32_state_dict_from_zero_checkpoint(str(state))
    return found


def fit_deepspeed(state: Path, trainer: Any) -> None:
    """Let DeepSpeed go on from a state of another number of processes: it is converted first.

    `trainer` is the stock one, which has not trained yet.
    """
    (folder,) = (place for place in state.glob("global_step*") if place.name.count("_") == 1)
    saved = len({*folder.glob("*zero_pp_rank_*_optim_states.pt")})
    if saved == processes().num_processes:
        return
    with processes().main_process_first():
        if processes().is_main_process:
            _convert(folder)
    plugin = trainer.accelerator.state.deepspeed_plugin
    plugin.deepspeed_config["checkpoint"] = {"load_universal": True}
    trainer.add_callback(_MendConverted())


class _MendConverted(TrainerCallback):  # type: ignore[misc]
    """Mends what DeepSpeed 0.19 makes of a converted state, before the first step.

    All groups get the learning rate of the first one, and a single counter of steps between them.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        adam, scheduler = kwargs["optimizer"].optimizer.optimizer, kwargs["lr_scheduler"]
        rates = zip(scheduler.base_lrs, scheduler.get_last_lr(), strict=True)
        for group, (initial, now) in zip(adam.param_groups, rates, strict=True):
            group["initial_lr"], group["lr"] = initial, now
        for one in adam.state.values():
            one["step"] = torch.as_tensor(one["step"]).clone()


def _convert(folder: Path) -> None:
    from deepspeed.checkpoint import ds_to_universal

    wanted = {
        "input_folder": str(folder),
        "output_folder": f"{folder}_universal",
        "num_extract_workers": 1,
        "num_merge_workers": 1,
        "keep_temp_folder": False,
        "strict": True,
        "inject_missing_state": True,
    }
    with _silence():
        ds_to_universal.main(Namespace(**wanted))


@contextmanager
def _silence() -> Iterator[None]:
    """DeepSpeed's tools print as they go; what they raise is told as ever."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
