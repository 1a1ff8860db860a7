"""A stage of training: the stock Trainer over one objective and one data set, with adapters."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from peft import LoraConfig, LoraModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from mmsieve.devices import quiet as quiet_loading
from mmsieve.errors import RequestError
from mmsieve.evaluation.metrics import measure
from mmsieve.progress import Advance, show_progress
from mmsieve.training.options import processes
from mmsieve.training.recipe import ClassifierStage, Lora, SftStage, Steps
from mmsieve.validated import OBJECT, read_json_file

_LOG_STEPS = 50
BestBy: TypeAlias = Literal["accuracy", "loss"]
Log: TypeAlias = list[dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What one Trainer run needs to know."""

    name: str
    objective: nn.Module
    data: Dataset[Any]
    """A step's worth of items per index, or one item where `lengths` are given."""
    collate: Callable[[list[Any]], dict[str, Tensor]]
    optimisation: Steps
    lengths: list[int] | None = None
    """Tokens of each item: items of like length go together, in another order every epoch."""
    held_out: Dataset[Any] | None = None
    """A text or an example per index: the saved state that does best on them is taken."""
    best_by: BestBy = "accuracy"
    tower: tuple[nn.Parameter, ...] = ()
    """Parameters whose learning rate is the `tower_rate` part of that of the others."""
    seed: int = 0
    trackers: tuple[str, ...] = ("tensorboard",)
    """Where the Trainer's log goes, besides training.json."""
    workers: int = 0


def run_stage(stage: Stage, folder: Path, quiet: bool) -> tuple[Log, dict[str, Tensor]]:
    """Train in place, from the last state in `folder` on; returns the log and the whole state."""
    trainer = _Trainer(stage, folder)
    state = _last_state(folder)
    before = 0 if state is None else _step(state)
    hidden = quiet or not processes().is_main_process
    with (
        quiet_loading(),
        show_progress(stage.name, trainer.args.max_steps, hidden, "steps", before) as advance,
    ):
        trainer.add_callback(_ProgressCallback(advance, before))
        trainer.train(resume_from_checkpoint=None if state is None else str(state))
    # What FSDP or DeepSpeed have spread over the processes comes together here.
    whole = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    return list(trainer.state.log_history), whole


def check_batches(wanted: Steps, count: int) -> int:
    """Steps of `count` processes between two updates; raises RequestError."""
    seen = wanted.batch * count
    total = wanted.total_batch or seen
    if total % seen:
        raise RequestError(
            f"total_batch {total} is no multiple of batch {wanted.batch} x {count} processes: "
            "change one of them in the recipe"
        )
    return total // seen


def _arguments(stage: Stage, folder: Path) -> TrainingArguments:
    wanted, count = stage.optimisation, processes().num_processes
    accumulated = check_batches(wanted, count)
    per_step = 1 if stage.lengths is None else wanted.batch
    passes = 1 if stage.lengths is None else wanted.epochs
    micro = -(-len(stage.data) // per_step)  # type: ignore[arg-type]
    steps = max(1, -(-micro // (accumulated * count))) * passes
    warmup = wanted.warmup if wanted.warmup >= 1 else wanted.warmup * steps
    save_steps = min(wanted.save_steps, steps)
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=per_step,
        per_device_eval_batch_size=4 * wanted.batch,
        gradient_accumulation_steps=accumulated,
        learning_rate=wanted.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=min(int(warmup), steps // 10),
        max_grad_norm=wanted.clip,
        bf16=wanted.precision == "bfloat16",
        use_cpu=not torch.cuda.is_available(),  # or several processes would not find each other
        logging_steps=min(_LOG_STEPS, save_steps),
        save_steps=save_steps,
        save_total_limit=2,
        eval_strategy="no" if stage.held_out is None else "steps",
        eval_steps=save_steps,
        load_best_model_at_end=stage.held_out is not None,
        metric_for_best_model=stage.best_by,
        greater_is_better=stage.best_by == "accuracy",
        prediction_loss_only=stage.best_by == "loss",
        seed=stage.seed,
        report_to=list(stage.trackers),
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=stage.workers,
        dataloader_persistent_workers=stage.workers > 0,
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        label_names=["labels"],
    )


class _Trainer(Trainer):  # type: ignore[misc]
    """The stock Trainer; it logs the parts of the loss, and puts groups of like length together."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self._stage = stage
        super().__init__(
            model=stage.objective,
            args=_arguments(stage, folder),
            train_dataset=stage.data,
            eval_dataset=stage.held_out,
            data_collator=stage.collate,
            compute_metrics=_metrics if stage.best_by == "accuracy" else None,
        )
        self.remove_callback(PrinterCallback)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW on all that learns; made when the Trainer asks, as FSDP wants it."""
        stage, wanted = self._stage, self._stage.optimisation
        tower = {id(parameter) for parameter in stage.tower}
        others = [p for p in stage.objective.parameters() if p.requires_grad and id(p) not in tower]
        groups: list[dict[str, Any]] = [{"params": others}]
        if stage.tower:
            assert isinstance(wanted, ClassifierStage | SftStage)
            rate = wanted.learning_rate * wanted.tower_rate
            groups.append({"params": list(stage.tower), "lr": rate})
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            groups,
            lr=wanted.learning_rate,
            betas=(0.9, wanted.beta2),
            weight_decay=wanted.weight_decay,
            fused=True,
        )
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self._stage.lengths is None:
            return super()._get_train_sampler(train_dataset)
        seen = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return _ByLength(self._stage.lengths, seen * self.args.world_size, self._stage.seed)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        parts: Any = self._stage.objective.parts if "loss" in logs else {}
        super().log({**logs, **parts}, start_time)


class _ByLength(Sampler[int]):
    """Groups of like length near each other; an epoch's order follows from its number alone."""

    def __init__(self, lengths: list[int], batch: int, seed: int) -> None:
        self._lengths, self._batch, self._seed, self._epoch = lengths, batch, seed, 0

    def __len__(self) -> int:
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer before each epoch, also of a training that goes on."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        seed = int(np.random.default_rng((self._seed, 6, self._epoch)).integers(2**62))
        generator = torch.Generator().manual_seed(seed)
        return iter(get_length_grouped_indices(self._lengths, self._batch, generator=generator))


def _metrics(found: Any) -> dict[str, float]:
    """What the best state is chosen by, as `evaluate` measures it."""
    measured = measure(found.predictions.astype(float), found.label_ids.astype(int))
    return {name: getattr(measured, name) for name in ("accuracy", "f1", "mse")}


def _last_state(folder: Path) -> Path | None:
    """The last state that is whole: the Trainer writes trainer_state.json after all else."""
    for place in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
        try:
            read_json_file(place / "trainer_state.json", OBJECT, "")
        except (FileNotFoundError, RequestError):  # killed while it was written
            continue
        return place
    return None


def _step(state: Path) -> int:
    return int(state.name.rpartition("-")[2])


class _ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """Shows the Trainer's steps as every verb shows its progress."""

    def __init__(self, advance: Advance, before: int) -> None:
        self._advance, self._done = advance, before

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._advance(1, state.global_step - self._done)
        self._done = state.global_step


# What makes large backbones fit: low-rank adapters (LoRA, arXiv 2106.09685), checkpointing


def add_adapters(language: Any, lora: Lora) -> None:
    """Adapters on every linear layer of a stock language model; of it nothing else learns."""
    language.embed_tokens.requires_grad_(False)
    language.norm.requires_grad_(False)
    modules = language.layers.named_modules()
    linear = {name.rpartition(".")[2] for name, one in modules if isinstance(one, nn.Linear)}
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=sorted(linear)
    )
    LoraModel(language.layers, config, "default")


def merge_adapters(layers: nn.Module) -> None:
    """Add the adapters' products to the weights and take them out; without adapters, nothing."""
    for parent in list(layers.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLayer):
                merged: Any = child
                merged.merge()
                setattr(parent, name, merged.get_base_layer())


def checkpoint_activations(language: Any) -> None:
    """From now on compute a language model's activations twice instead of keeping them."""
    name = "activation_checkpointing_enable"  # its older name warns where both are there
    enable = getattr(language, name, None) or language.gradient_checkpointing_enable
    enable({"use_reentrant": False})
