"""A stage of training: the stock Trainer over one objective and one data set, with adapters."""

import copy
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
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer_pt_utils import get_length_grouped_indices

from mmsieve.devices import quiet as quiet_loading
from mmsieve.errors import RequestError
from mmsieve.evaluation.metrics import measure
from mmsieve.progress import Advance, show_progress
from mmsieve.training.options import devices, processes
from mmsieve.training.recipe import ClassifierStage, Lora, SftStage, Steps
from mmsieve.training.records import Mixture
from mmsieve.training.states import fit_deepspeed, gather_deepspeed, last_state, step_of

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
    mixture: Mixture | None = None
    """Which items come in an epoch; by default each once."""
    held_out: Dataset[Any] | None = None
    """A text or an example per index: the saved state that does best on them is taken."""
    best_by: BestBy = "accuracy"
    tower: nn.Module | None = None
    """Its learning rate is the `tower_rate` part of that of the others. Not its parameters: what
    shards a model replaces them."""
    seed: int = 0
    trackers: tuple[str, ...] = ("tensorboard",)
    """Where the Trainer's log goes, besides training.json."""
    workers: int = 0


def run_stage(stage: Stage, folder: Path, quiet: bool) -> tuple[Log, Any]:
    """Train from the last state in `folder` on; returns the log and the trained objective.

    The objective is whole, and on the CPU, in the first process, which saves it; in the others it
    is None. What was trained may lie in parts on all of them, so nothing is loaded into it.
    """
    is_first = processes().is_main_process
    whole = hollow_copy(stage.objective) if is_first else None
    trainer = _Trainer(stage, folder)
    last = last_state(folder, trainer.accelerator.distributed_type.value)
    before = 0 if last is None else step_of(last)
    if last is not None and trainer.is_deepspeed_enabled:
        fit_deepspeed(last, trainer)
    hidden = quiet or not processes().is_main_process
    with (
        quiet_loading(),
        show_progress(stage.name, trainer.args.max_steps, hidden, "steps", before) as advance,
    ):
        trainer.add_callback(_ProgressCallback(advance, before))
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
        state = trainer.gather(is_first)
    unset_hf_deepspeed_config()  # or the next model to be loaded would be spread, too
    if whole is not None:
        whole.load_state_dict({name: _on_cpu(one) for name, one in state.items()}, assign=True)
    return list(trainer.state.log_history), whole


def _on_cpu(tensor: Tensor) -> Tensor:
    """The tensor without what else lies in the same storage: FSDP gathers with padding."""
    there = tensor.cpu()
    return there if there.untyped_storage().nbytes() == there.nbytes else there.clone()


def hollow_copy(module: nn.Module) -> nn.Module:
    """The same modules with parameters and buffers that take no memory, to be loaded into."""
    memo: dict[int, Any] = {id(one): one.to("meta") for one in module.buffers()}
    for one in module.parameters():
        memo[id(one)] = nn.Parameter(one.detach().to("meta"), requires_grad=one.requires_grad)
    return copy.deepcopy(module, memo)


def default_workers() -> int:
    """Processes that prepare data: as published beside a GPU; a CPU is busy itself."""
    return 4 if torch.cuda.is_available() else 0


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
    size = len(stage.data) if stage.mixture is None else len(stage.mixture)  # type: ignore[arg-type]
    micro = -(-size // per_step)
    steps = max(1, -(-micro // (accumulated * count))) * passes
    warmup = wanted.warmup if wanted.warmup >= 1 else wanted.warmup * steps
    save_steps = min(wanted.save_steps, steps)
    epoch = save_steps if stage.lengths is None else steps // passes
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
        use_cpu=devices().get("cpu", False),
        ddp_backend=devices().get("backend"),
        logging_steps=min(_LOG_STEPS, save_steps),
        save_steps=save_steps,
        save_total_limit=2,
        eval_strategy="no" if stage.held_out is None else "steps",
        eval_steps=min(wanted.look_steps or epoch, steps),
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
        self.add_callback(_SaveLooks())

    def gather(self, is_first: bool) -> dict[str, Tensor]:
        """The weights and buffers of the best state, or of the last one; asked in every process.

        `is_first`: in the process that needs them; what the others get may be anything.
        """
        best = self.state.best_model_checkpoint
        if self.is_deepspeed_enabled:  # an engine that has trained can't go back to a state
            last = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            return gather_deepspeed(Path(best or last)) if is_first else {}
        if best is not None:
            self._load_best_model()
        found: dict[str, Tensor] = self.accelerator.get_state_dict(self.model_wrapped)
        return found

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The weights for a saved state; FSDP and DeepSpeed save them in parts, another way.

        Each has one name: safetensors refuses the second one of tied weights.
        """
        if self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
        elif not self.is_deepspeed_enabled:
            state = self.model.state_dict()
            named = {(one.data_ptr(), one.shape): name for name, one in reversed(state.items())}
            self._save(output_dir, {name: state[name] for name in sorted(named.values())})

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW on all that learns; made when the Trainer asks, as FSDP wants it."""
        stage, wanted = self._stage, self._stage.optimisation
        apart = [] if stage.tower is None else _learning(stage.tower)
        tower = {id(parameter) for parameter in apart}
        others = [p for p in _learning(stage.objective) if id(p) not in tower]
        groups: list[dict[str, Any]] = [{"params": others}]
        if apart:
            assert isinstance(wanted, ClassifierStage | SftStage)
            rate = wanted.learning_rate * wanted.tower_rate
            groups.append({"params": apart, "lr": rate})
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            groups,
            lr=wanted.learning_rate,
            betas=(0.9, wanted.beta2),
            weight_decay=wanted.weight_decay,
            fused=True,
        )
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        stage = self._stage
        if stage.lengths is None:
            return super()._get_train_sampler(train_dataset)
        seen = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return _ByLength(stage.lengths, seen * self.args.world_size, stage.seed, stage.mixture)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        parts: Any = self._stage.objective.parts if "loss" in logs else {}
        super().log({**logs, **parts}, start_time)


def _learning(module: nn.Module) -> list[nn.Parameter]:
    return [one for one in module.parameters() if one.requires_grad]


class _ByLength(Sampler[int]):
    """Items of like length near each other; an epoch's items and order follow from its number."""

    def __init__(self, lengths: list[int], batch: int, seed: int, mixture: Mixture | None) -> None:
        self._lengths, self._batch, self._seed, self._epoch = lengths, batch, seed, 0
        self._mixture = mixture or Mixture((len(lengths),), (1.0,))

    def __len__(self) -> int:
        return len(self._mixture)

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer before each epoch, also of a training that goes on."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        items = self._mixture.items(self._seed, self._epoch)
        seed = int(np.random.default_rng((self._seed, 6, self._epoch)).integers(2**62))
        generator = torch.Generator().manual_seed(seed)
        lengths = [self._lengths[item] for item in items]
        order = get_length_grouped_indices(lengths, self._batch, generator=generator)
        return iter([items[place] for place in order])


def _metrics(found: Any) -> dict[str, float]:
    """What the best state is chosen by, as `evaluate` measures it."""
    measured = measure(found.predictions.astype(float), found.label_ids.astype(int))
    return {name: getattr(measured, name) for name in ("accuracy", "f1", "mse")}


class _SaveLooks(TrainerCallback):  # type: ignore[misc]
    """Saves a state with every look at the held-out data: the best one has to be there."""

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save = True


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


def merge_adapters(module: nn.Module) -> None:
    """Add the adapters' products to the weights and take them out; without adapters, nothing."""
    for parent in list(module.modules()):
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
