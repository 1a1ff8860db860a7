"""A stage of training: the stock Trainer over one objective and one data set."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from mmsieve.models.quiet import quiet as quiet_loading
from mmsieve.progress import show_progress
from mmsieve.shard_job import Progress as Advance
from mmsieve.train.recipe import Optimisation

_LOG_STEPS = 50


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What one Trainer run needs to know."""

    name: str
    objective: nn.Module
    data: Dataset[Any]
    """A step's worth per index."""
    collate: Callable[[list[Any]], dict[str, Tensor]]
    optimisation: Optimisation
    slow: tuple[nn.Parameter, ...] = ()
    """Parameters that learn at `slow_rate` times the learning rate."""
    slow_rate: float = 1.0
    seed: int = 0


def run_stage(stage: Stage, folder: Path, quiet: bool) -> list[dict[str, float]]:
    """Train the objective in place; returns the log. Goes on from the last state in `folder`."""
    wanted = stage.optimisation
    steps = len(stage.data)  # type: ignore[arg-type]
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=1,
        learning_rate=wanted.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(wanted.warmup_steps, steps // 10),
        weight_decay=wanted.weight_decay,
        max_grad_norm=wanted.clip,
        bf16=wanted.precision == "bfloat16",
        logging_steps=min(_LOG_STEPS, steps),
        save_steps=wanted.save_steps,
        save_total_limit=2,
        seed=stage.seed,
        report_to=["tensorboard"],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        label_names=["labels"],
    )
    trainer = _Trainer(
        model=stage.objective,
        args=arguments,
        train_dataset=stage.data,
        data_collator=stage.collate,
        optimizers=(_optimizer(stage), None),
    )
    trainer.remove_callback(PrinterCallback)
    state = _last_state(folder)
    before = 0 if state is None else _step(state)
    with show_progress(stage.name, steps, quiet, "steps", before) as advance, quiet_loading():
        trainer.add_callback(_Steps(advance, before))
        trainer.train(resume_from_checkpoint=None if state is None else str(state))
    return list(trainer.state.log_history)


def _last_state(folder: Path) -> Path | None:
    """The last state that is whole: the Trainer writes trainer_state.json after all else."""
    for place in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
        try:
            json.loads((place / "trainer_state.json").read_text("utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):  # killed while it was written
            continue
        return place
    return None


def _step(state: Path) -> int:
    return int(state.name.rpartition("-")[2])


class _Trainer(Trainer):  # type: ignore[misc]
    """The stock Trainer; its log also has the parts that the loss is made of."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, as Trainer.log."""
        parts = getattr(self.model, "parts", {}) if "loss" in logs else {}
        super().log({**logs, **parts}, start_time)


class _Steps(TrainerCallback):  # type: ignore[misc]
    """Tells our progress of the Trainer's."""

    def __init__(self, advance: Advance, before: int) -> None:
        self._advance = advance
        self._done = before

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After each step."""
        self._advance(1, state.global_step - self._done)
        self._done = state.global_step


def _optimizer(stage: Stage) -> torch.optim.Optimizer:
    wanted = stage.optimisation
    slow = {id(parameter) for parameter in stage.slow}
    others = [p for p in stage.objective.parameters() if p.requires_grad and id(p) not in slow]
    groups: list[dict[str, Any]] = [{"params": others}]
    if stage.slow:
        rate = wanted.learning_rate * stage.slow_rate
        groups.append({"params": list(stage.slow), "lr": rate})
    return torch.optim.AdamW(
        groups,
        lr=wanted.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=wanted.weight_decay,
        fused=True,
    )
