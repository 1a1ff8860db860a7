"""A training in a folder: an initial checkpoint, then stages, each kept when it is whole.

`train projector`: initial checkpoint, pretext task (random towers), projector. `train classifier`:
initial checkpoint or the result of `train projector`, then the classifier. `train rater` and `train
enhancer`: initial checkpoint, then supervised fine-tuning. With files to pretrain on, classifier
and enhancer have the projector's stage before. The same command goes on after the last whole stage,
and in a stage from its last saved state.
"""

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from mmsieve.images import ImageSpec
from mmsieve.methods.aitqe import model as aitqe_model
from mmsieve.methods.aitqe.checkpoint import open_enhancer
from mmsieve.methods.load import load_unifilter
from mmsieve.methods.mmssr import model as mmssr_model
from mmsieve.methods.mmssr.checkpoint import open_onevision
from mmsieve.methods.unifilter.model import load_classifier, save_classifier
from mmsieve.outputs import sync, sync_folder
from mmsieve.training import objectives, trainer
from mmsieve.training.data import (
    CaptionedInputs,
    ClassifierInputs,
    EnhancerInputs,
    RaterInputs,
    collate_examples,
    collate_groups,
    drawn_training,
    known_capabilities,
)
from mmsieve.training.initial import output_embedding, write_initial
from mmsieve.training.options import (
    LOG,
    STAGES,
    STATES,
    DataFiles,
    RunConfig,
    processes,
    write_run_config,
)
from mmsieve.training.recipe import (
    BaseRecipe,
    EnhancerRecipe,
    Pretrained,
    RaterRecipe,
    Recipe,
    SftStage,
    Steps,
    stage_of,
)
from mmsieve.training.records import RecordInputs, open_files
from mmsieve.validated import JsonObject, read_json_file

_LOGGED = TypeAdapter(list[JsonObject])
Make: TypeAlias = Callable[[Path], list[str]]
"""Carries out a stage into a folder; returns what a user should know."""


@dataclass(frozen=True, kw_only=True)
class TrainableModel:
    """A checkpoint that is opened to be trained further."""

    model: Any
    language: Any
    """The stock language model in it."""
    image: ImageSpec
    encode: objectives.Encode
    """The tower and the projector."""
    inputs: RecordInputs[Any]
    collate: Callable[[list[Any]], dict[str, Tensor]]
    save: Callable[[Any, Path], None]
    """Writes a model that was made from this one, by further training, to a folder."""
    ties_embeddings: bool = True
    """Whether the language model's output embedding is its input embedding."""


@dataclass(frozen=True, kw_only=True)
class Training(ABC):
    """What to train, and where: `out` ends up as a checkpoint in the published layout.

    `training.json` beside it has each stage's log. Until then `out/stages` holds what is reached.
    """

    goal: str
    recipe: BaseRecipe
    out: Path
    config: RunConfig
    start_from: Path | None = None
    """A checkpoint instead of the recipe's start."""
    files: DataFiles | None = None
    """Instead of drawn data."""
    pretrain: DataFiles | None = None
    """Captions that a new projector learns from, in a stage before the goal's."""
    workers: int | None = None
    """Processes that prepare data; None: `default_workers`."""
    trackers: tuple[str, ...] = ("tensorboard",)
    quiet: bool = False

    @property
    @abstractmethod
    def steps(self) -> dict[str, Make]:
        """Stage -> what carries it out; in order, the goal last."""

    @abstractmethod
    def open(self, folder: Path, dtype: str = "float32") -> TrainableModel:
        """A checkpoint in the published layout."""

    def run(self) -> list[str]:
        """Train what is not trained yet; returns what a user should know."""
        if processes().is_main_process:
            self.stages.mkdir(parents=True, exist_ok=True)
        notes: list[str] = []
        for name, make in self.steps.items():
            place = self.stages / name
            done = place.is_dir()
            processes().wait_for_everyone()
            if done:
                notes.append(f"resumed: stage {name} was done before")
            else:
                notes += make(place)
                processes().wait_for_everyone()
        if processes().is_main_process:
            self._publish()
        processes().wait_for_everyone()
        return notes

    @property
    def stages(self) -> Path:
        """Folder of the stages."""
        return self.out / STAGES

    def write_start(self, folder: Path) -> list[str]:
        """The first stage, where there is no checkpoint to start from."""
        if processes().is_main_process:
            with whole_folder(folder) as place:
                write_initial(place, self.recipe)
        return []

    def before(self, stage: str) -> Path:
        """The checkpoint that a stage starts from; seeds what the stage draws at random."""
        torch.manual_seed(self.recipe.seed)
        names = list(self.steps)
        place = names.index(stage)
        found = self.stages / names[place - 1] if place else self.start_from
        assert found is not None
        return found

    def fit(
        self,
        opened: TrainableModel,
        objective: nn.Module,
        wanted: Steps,
        folder: Path,
        *,
        best_by: trainer.BestBy | None = None,
        tower: nn.Module | None = None,
    ) -> list[str]:
        """Train a stage, on files or on drawn data; without `best_by` the last state."""
        seed, inputs, name = self.recipe.seed, opened.inputs, folder.name
        workers = trainer.default_workers() if self.workers is None else self.workers
        is_last = name == self.goal
        files = self.files if is_last else self.pretrain
        if files is None:
            data = drawn_training().draw(inputs, wanted, seed)
        else:
            prefix = "" if is_last else f"{name}-"
            how: dict[str, Any] = {"workers": workers, "quiet": self.quiet, "name": prefix}
            data = open_files(files, inputs, self.out, seed, **how)
        stage = trainer.Stage(
            name=name,
            objective=objective,
            data=data.data,
            lengths=data.lengths,
            mixture=data.mixture,
            held_out=None if best_by is None else data.held_out,
            best_by=best_by or "accuracy",
            collate=opened.collate,
            optimisation=wanted,
            tower=tower,
            seed=seed,
            trackers=self.trackers,
            workers=workers,
        )
        self.train(stage, folder, opened)
        return list(data.notes)

    def train(self, stage: trainer.Stage, folder: Path, opened: TrainableModel) -> None:
        """Run a stage, and write the model that comes about."""
        if stage.optimisation.gradient_checkpointing:
            trainer.checkpoint_activations(opened.language)
        log, trained = trainer.run_stage(stage, self.stages / f"{stage.name}{STATES}", self.quiet)
        if trained is None:  # the first process has it
            return
        trainer.merge_adapters(trained)
        with whole_folder(folder) as place:
            opened.save(trained.model, place)
            (place / LOG).write_text(json.dumps(log))

    def _publish(self) -> None:
        """The last stage's checkpoint to `out`, config.json last."""
        made = self.stages / "half"
        reached = self.open(self.stages / self.goal, self.recipe.weights)
        reached.save(reached.model, made)
        logs = {
            name: read_json_file(file, _LOGGED, f"remove {file.parent} to train that stage again")
            for name in self.steps
            if (file := self.stages / name / LOG).is_file()
        }
        sync(made)
        write_run_config(self.out, self.config, logs)
        for file in sorted(made.iterdir(), key=lambda file: file.name == "config.json"):
            sync_folder(self.out)
            file.replace(self.out / file.name)
        shutil.rmtree(self.stages)


@contextmanager
def whole_folder(place: Path) -> Iterator[Path]:
    """A folder that is there is whole: it gets its name when all is in it."""
    temporary = place.with_name(f".{place.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    sync(temporary)
    temporary.replace(place)
    sync_folder(place.parent)


@dataclass(frozen=True, kw_only=True)
class ClassifierTraining(Training):
    """Of a classifier, or of its projector alone."""

    goal: str = "classifier"
    recipe: Recipe

    @property
    def steps(self) -> dict[str, Make]:
        """Initial checkpoint and pretext task, unless there is one to start from; then the goal.

        With files to pretrain on, the projector before the classifier.
        """
        steps: dict[str, Make] = {}
        if self.start_from is None:
            steps["start"] = self.write_start
            if self.recipe.lesson is not None:
                steps["lesson"] = self.train_pretext
        if self.pretrain is not None or self.goal == "projector":
            steps["projector"] = self.train_projector
        if self.goal == "classifier":
            steps["classifier"] = self.train_classifier
        return steps

    def open(self, folder: Path, dtype: str = "float32") -> TrainableModel:
        """A folder in UniFilter's layout."""
        annotator = load_unifilter(str(folder))
        checkpoint = annotator.checkpoint
        model = load_classifier(checkpoint, dtype).requires_grad_(True)
        return TrainableModel(
            model=model,
            language=model.model,
            image=checkpoint.image,
            encode=model.encode_images,
            inputs=ClassifierInputs(annotator.preparer()),
            collate=partial(collate_groups, image_tokens=checkpoint.image_tokens),
            save=lambda model, place: save_classifier(model, place, checkpoint, checkpoint.own),
            ties_embeddings=checkpoint.ties_embeddings,
        )

    def train_pretext(self, folder: Path) -> list[str]:
        """The tower's pretext task, on drawn pictures."""
        wanted = self.recipe.lesson
        assert wanted is not None
        opened = self.open(self.before("lesson"))
        opened.model.requires_grad_(False)
        self._learn_tower(opened)
        task = drawn_training().draw_pretext(wanted, self.recipe.seed, opened.image.size)
        stage = trainer.Stage(
            name="lesson",
            objective=objectives.PretextObjective(opened.model, opened.image, task.classes),
            data=task,
            collate=task.collate,
            optimisation=wanted,
            seed=self.recipe.seed,
        )
        self.train(stage, folder, opened)
        return []

    def _learn_tower(self, opened: TrainableModel) -> nn.Module:
        """The tower, which learns as far as it is used."""
        tower: nn.Module = opened.model.model.vision_tower.requires_grad_(True)
        (stock,) = tower.get_submodule("vision_tower").children()
        freeze_tower_end(stock, opened.model.config.select_layer)
        return tower

    def train_projector(self, folder: Path) -> list[str]:
        """Stage 1: the projector learns from captions."""
        wanted, start = self.recipe.projector, self.recipe.start
        assert wanted is not None
        opened = self.open(self.before("projector"))
        table = opened.language.embed_tokens.weight
        if isinstance(start, Pretrained) and not opened.ties_embeddings:
            table = output_embedding(start).float()
        objective = objectives.CaptionObjective(opened.model, opened.image, table)
        return self.fit(opened, objective, wanted, folder)

    def train_classifier(self, folder: Path) -> list[str]:
        """Stage 2: the model learns the level."""
        wanted = self.recipe.classifier
        opened = self.open(self.before("classifier"))
        opened.model.set_labels(self.recipe.start.labels)
        objective = objectives.QualityObjective(opened.model, opened.image, wanted)
        if wanted.lora is not None:
            trainer.add_adapters(opened.language, wanted.lora)
        tower = self._learn_tower(opened) if wanted.tower_rate else None
        return self.fit(opened, objective, wanted, folder, best_by="accuracy", tower=tower)


@dataclass(frozen=True, kw_only=True)
class SftTraining(Training):
    """Supervised fine-tuning of a model that generates text about images."""

    @property
    def steps(self) -> dict[str, Make]:
        """Initial checkpoint, unless there is one to start from; then the goal."""
        start: dict[str, Make] = {} if self.start_from is not None else {"start": self.write_start}
        return {**start, self.goal: self.fine_tune}

    def fine_tune(self, folder: Path) -> list[str]:
        """The one stage: prompts and completions."""
        wanted = stage_of(self.recipe, self.goal)
        assert isinstance(wanted, SftStage)
        opened = self.open(self.before(self.goal))
        model = opened.model.train().requires_grad_(True)
        tower = model.model.vision_tower
        _freeze_unused(model)
        if not wanted.tower_rate:
            tower.requires_grad_(False)
        if wanted.lora is not None:
            trainer.add_adapters(opened.language, wanted.lora)
            model.lm_head.requires_grad_(False)
        objective = objectives.SftObjective(model, opened.encode, opened.image)
        apart = None if wanted.tower_rate in (0, 1) else tower
        return self.fit(opened, objective, wanted, folder, best_by="loss", tower=apart)


def _freeze_unused(model: Any) -> None:
    """What no loss reaches: the end of the tower, and a bias without a place."""
    freeze_tower_end(model.model.vision_tower, -2)
    bias: nn.Parameter = model.model.multi_modal_projector.linear_2.bias
    if not bias.any():
        bias.requires_grad_(False)


def freeze_tower_end(tower: Any, select_layer: int) -> None:
    """Keep a stock tower beyond the layer that is used, as `encode_patches` counts them, as it is.

    No loss reaches it: what spreads a model over processes would wait for its gradients.
    """
    stock = getattr(tower, "vision_model", tower)
    layers = stock.encoder.layers
    used = select_layer if select_layer >= 0 else len(layers) + 1 + select_layer
    for module in (*layers[used:], stock.post_layernorm, getattr(stock, "head", None)):
        if module is not None:
            module.requires_grad_(False)


@dataclass(frozen=True, kw_only=True)
class RaterTraining(SftTraining):
    """Of a scorer, a styler, or both in one."""

    goal: str = "rater"
    recipe: RaterRecipe

    def open(self, folder: Path, dtype: str = "float32") -> TrainableModel:
        """A LLaVA-OneVision-style folder."""
        checkpoint = open_onevision(folder)
        model = mmssr_model.load_rater(checkpoint, dtype)
        rates = "ratings" in self.recipe.answers
        own = {
            "clean_format": True,
            "capabilities": known_capabilities(self.recipe) if rates else {},
            "styles": "styles" in self.recipe.answers,
        }
        return TrainableModel(
            model=model,
            language=model.model.language_model,
            image=checkpoint.image,
            encode=partial(mmssr_model.encode_images, model),
            inputs=RaterInputs.of(checkpoint, self.recipe),
            collate=collate_examples,
            save=lambda model, place: mmssr_model.save_rater(model, place, checkpoint, own),
        )


@dataclass(frozen=True, kw_only=True)
class EnhancerTraining(SftTraining):
    """Of a model that judges and rewrites captions."""

    goal: str = "enhancer"
    recipe: EnhancerRecipe

    @property
    def steps(self) -> dict[str, Make]:
        """As of any fine-tuning; with files to pretrain on, the projector before the goal."""
        *before, goal = super().steps.items()
        projector = [] if self.pretrain is None else [("projector", self.align)]
        return dict([*before, *projector, goal])

    def align(self, folder: Path) -> list[str]:
        """Stage 1: the projector alone learns from captions."""
        wanted = self.recipe.projector
        assert wanted is not None
        opened = self.open(self.before("projector"))
        model = opened.model.train().requires_grad_(False)
        model.model.multi_modal_projector.requires_grad_(True)
        _freeze_unused(model)
        objective = objectives.SftObjective(model, opened.encode, opened.image)
        assert isinstance(opened.inputs, EnhancerInputs)
        captions = replace(opened, inputs=CaptionedInputs(opened.inputs.preparer))
        return self.fit(captions, objective, wanted, folder)

    def open(self, folder: Path, dtype: str = "float32") -> TrainableModel:
        """A folder in AITQE's layout."""
        checkpoint = open_enhancer(folder)
        model = aitqe_model.load_enhancer(checkpoint, dtype)
        own = {"plain_text": True, "max_text_tokens": 1024} | (checkpoint.own or {})
        return TrainableModel(
            model=model,
            language=model.model.language_model,
            image=checkpoint.tower.image,
            encode=partial(aitqe_model.encode_images, model),
            inputs=EnhancerInputs.of(checkpoint, self.recipe),
            collate=collate_examples,
            save=lambda model, place: aitqe_model.save_enhancer(model, place, checkpoint, own),
        )


TRAININGS: dict[str, type[Training]] = {
    "projector": ClassifierTraining,
    "classifier": ClassifierTraining,
    "rater": RaterTraining,
    "enhancer": EnhancerTraining,
}
