"""A training in a folder: a start, then stages, each kept when it is whole: a rerun goes on.

`train projector`: start, lesson (random towers), projector. `train classifier`: the same start and
lesson, or the result of `train projector`, then the classifier.
"""

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from mmsieve.images import ImageSpec
from mmsieve.methods.aitqe import model as aitqe_model
from mmsieve.methods.aitqe.checkpoint import open_enhancer
from mmsieve.methods.load import load_unifilter
from mmsieve.methods.mmssr import model as mmssr_model
from mmsieve.methods.mmssr.checkpoint import open_onevision
from mmsieve.methods.unifilter.annotator import UniFilter
from mmsieve.methods.unifilter.model import QualityClassifier, load_classifier, save_classifier
from mmsieve.synthetic.training import CLASSES, RenderedCells, collate_cells, write_start
from mmsieve.synthetic.transfer import write_enhancer_start, write_rater_start
from mmsieve.training.data import collate
from mmsieve.training.feed import Feed, FeedOptions, open_answers, open_feed
from mmsieve.training.initial import output_embedding
from mmsieve.training.objectives import (
    AnswerObjective,
    CaptionObjective,
    Encode,
    LessonObjective,
    QualityObjective,
)
from mmsieve.training.options import Claim, DataFiles, processes, write_claim
from mmsieve.training.recipe import (
    AnswerStage,
    BaseRecipe,
    EnhancerRecipe,
    Optimisation,
    Pretrained,
    RaterRecipe,
    Recipe,
)
from mmsieve.training.sft import (
    AssessmentExamples,
    Examples,
    RatingExamples,
    collate_examples,
    known_capabilities,
)
from mmsieve.training.trainer import (
    Stage,
    add_adapters,
    checkpoint_activations,
    merge_adapters,
    run_stage,
)

# A training in a folder: a start, then stages, each kept when it is whole: a rerun goes on

_LOG = "log.json"


@dataclass(frozen=True, kw_only=True)
class Training(ABC):
    """What to train, and where: `out` ends up as a checkpoint in the published layout.

    `training.json` beside it has the claim and each stage's log. Until then `out/stages` holds what
    has been reached.
    """

    goal: str
    """The last stage."""
    recipe: BaseRecipe
    out: Path
    claim: Claim
    start_from: Path | None = None
    """A checkpoint instead of the recipe's start."""
    files: DataFiles | None = None
    """Instead of rendered data."""
    workers: int = 0
    trackers: tuple[str, ...] = ("tensorboard",)
    quiet: bool = False

    @property
    @abstractmethod
    def steps(self) -> dict[str, Callable[[Path], list[str]]]:
        """Stage -> what carries it out into a folder, and returns notes; in order."""

    @abstractmethod
    def write_final(self, last: Path, folder: Path) -> None:
        """Write the last stage's checkpoint to a folder in the wanted number format."""

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
        return self.out / "stages"

    def before(self, goal: str) -> Path:
        """The checkpoint that a stage starts from; seeds what the stage draws at random."""
        torch.manual_seed(self.recipe.seed)
        names = list(self.steps)
        place = names.index(goal)
        found = self.stages / names[place - 1] if place else self.start_from
        assert found is not None
        return found

    def train(self, stage: Stage, folder: Path, save: Callable[[Path], None]) -> None:
        """Run a stage; `save` writes the model, which then holds what was learnt."""
        log, state = run_stage(stage, self.stages / f"{stage.name}-states", self.quiet)
        if not processes().is_main_process:
            return

        def write(place: Path) -> None:
            stage.objective.cpu().load_state_dict(state)
            save(place)
            (place / _LOG).write_text(json.dumps(log))

        write_whole(folder, write)

    def _publish(self) -> None:
        """The last stage's checkpoint to `out`, config.json last."""
        made = self.stages / "half"
        self.write_final(self.stages / self.goal, made)
        logs = {
            name: json.loads(file.read_text("utf-8"))
            for name in self.steps
            if (file := self.stages / name / _LOG).is_file()
        }
        write_claim(self.out, self.claim, logs)
        for file in sorted(made.iterdir(), key=lambda file: file.name == "config.json"):
            file.replace(self.out / file.name)
        shutil.rmtree(self.stages)


def write_whole(place: Path, make: Callable[[Path], None]) -> None:
    """A folder that is there is whole: it gets its name when all is in it."""
    temporary = place.with_name(f".{place.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    make(temporary)
    temporary.replace(place)


# The stages of a classifier's training

Goal = Literal["projector", "classifier"]


@dataclass(frozen=True, kw_only=True)
class ClassifierTraining(Training):
    """Of a classifier, or of its projector alone."""

    goal: Goal
    recipe: Recipe

    @cached_property
    def steps(self) -> dict[str, Callable[[Path], list[str]]]:
        """Stage -> what carries it out."""
        steps: dict[str, Callable[[Path], list[str]]] = {}
        if self.start_from is None:
            steps["start"] = self._start
            if self.recipe.lesson is not None:
                steps["lesson"] = self._lesson
        return steps | {self.goal: getattr(self, f"_{self.goal}")}

    def write_final(self, last: Path, folder: Path) -> None:
        """The classifier of the last stage, in the recipe's number format."""
        annotator = load_unifilter(str(last))
        model = load_classifier(annotator.checkpoint)
        model = model.to(getattr(torch, self.recipe.weights))
        save_classifier(model, folder, annotator.checkpoint, annotator.checkpoint.own)

    def _start(self, folder: Path) -> list[str]:
        if processes().is_main_process:
            write_whole(folder, lambda place: write_start(place, self.recipe))
        return []

    def _lesson(self, folder: Path) -> list[str]:
        wanted = self.recipe.lesson
        assert wanted is not None and wanted.rendered is not None
        annotator, model = self._open("lesson")
        size = annotator.checkpoint.image.size
        stage = Stage(
            name="lesson",
            objective=LessonObjective(model, annotator.checkpoint.image, CLASSES),
            data=RenderedCells(wanted.rendered, wanted.batch, self.recipe.seed, size),
            collate=collate_cells,
            optimisation=wanted,
            seed=self.recipe.seed,
        )
        self._train(stage, folder, annotator, model)
        return []

    def _projector(self, folder: Path) -> list[str]:
        wanted = self.recipe.projector
        assert wanted is not None
        annotator, model = self._open("projector")
        table = model.model.embed_tokens.weight
        if isinstance(self.recipe.start, Pretrained) and not annotator.checkpoint.ties_embeddings:
            table = output_embedding(self.recipe.start).float()
        objective = CaptionObjective(model, annotator.checkpoint.image, table)
        feed = self._feed(annotator, wanted)
        stage = self._stage("projector", objective, annotator, wanted, feed)
        self._train(stage, folder, annotator, model)
        return list(feed.notes)

    def _classifier(self, folder: Path) -> list[str]:
        wanted = self.recipe.classifier
        annotator, model = self._open("classifier")
        model.set_labels(self.recipe.start.labels)
        objective = QualityObjective(model, annotator.checkpoint.image, wanted)
        if wanted.lora is not None:
            add_adapters(model.model, wanted.lora)
        feed = self._feed(annotator, wanted)
        stage = self._stage("classifier", objective, annotator, wanted, feed)
        self._train(stage, folder, annotator, model)
        return list(feed.notes)

    def _feed(self, annotator: UniFilter, wanted: Optimisation) -> Feed:
        options = FeedOptions(
            out=self.out, seed=self.recipe.seed, workers=self.workers, quiet=self.quiet
        )
        return open_feed(annotator.preparer(), wanted, self.files, options)

    def _stage(
        self, name: Goal, objective: Any, annotator: UniFilter, wanted: Optimisation, feed: Feed
    ) -> Stage:
        """A stage on texts over images."""
        rate = getattr(wanted, "tower_rate", 0.0)
        tower = objective.classifier.model.vision_tower.parameters()
        return Stage(
            name=name,
            objective=objective,
            data=feed.data,
            lengths=feed.lengths,
            held_out=feed.held_out if name == "classifier" else None,
            collate=partial(collate, image_tokens=annotator.checkpoint.image_tokens),
            optimisation=wanted,
            slow=tuple(tower) if rate else (),
            slow_rate=rate,
            seed=self.recipe.seed,
            trackers=self.trackers,
            workers=self.workers,
        )

    def _open(self, goal: str) -> tuple[UniFilter, QualityClassifier]:
        """The checkpoint that a stage starts from, ready to be trained further."""
        annotator = load_unifilter(str(self.before(goal)))
        return annotator, load_classifier(annotator.checkpoint).requires_grad_(True)

    def _train(
        self, stage: Stage, folder: Path, annotator: UniFilter, model: QualityClassifier
    ) -> None:
        if stage.optimisation.gradient_checkpointing:
            checkpoint_activations(model.model)

        def save(place: Path) -> None:
            merge_adapters(model.model.layers)
            save_classifier(model, place, annotator.checkpoint, annotator.checkpoint.own)

        self.train(stage, folder, save)


# The stages of a rater's or an enhancer's training: a start where there is none, then answers


@dataclass(frozen=True)
class Opened:
    """A checkpoint, ready to be trained further."""

    model: Any
    """The stock model."""
    encode: Encode
    image: ImageSpec
    examples: Examples
    save: Callable[[Path], None]


@dataclass(frozen=True, kw_only=True)
class AnswerTraining(Training):
    """Of a model that answers."""

    @property
    @abstractmethod
    def wanted(self) -> AnswerStage:
        """The stage on answers."""

    @abstractmethod
    def write_start(self, folder: Path) -> None:
        """Write the checkpoint that the recipe starts from."""

    @abstractmethod
    def open(self, folder: Path, dtype: str = "float32") -> Opened:
        """A checkpoint in the published layout."""

    @cached_property
    def steps(self) -> dict[str, Callable[[Path], list[str]]]:
        """Stage -> what carries it out."""
        start = {} if self.start_from is not None else {"start": self._start}
        return {**start, self.goal: self._answers}

    def write_final(self, last: Path, folder: Path) -> None:
        """The model of the last stage, in the recipe's number format."""
        self.open(last, self.recipe.weights).save(folder)

    def _start(self, folder: Path) -> list[str]:
        if processes().is_main_process:
            write_whole(folder, self.write_start)
        return []

    def _answers(self, folder: Path) -> list[str]:
        opened, wanted = self.open(self.before(self.goal)), self.wanted
        language = opened.model.model.language_model
        tower = opened.model.model.vision_tower
        opened.model.train().requires_grad_(True)
        _freeze_unused(opened.model)
        if not wanted.tower_rate:
            tower.requires_grad_(False)
        if wanted.lora is not None:
            add_adapters(language, wanted.lora)
            opened.model.lm_head.requires_grad_(False)
        if wanted.gradient_checkpointing:
            checkpoint_activations(language)
        options = FeedOptions(
            out=self.out, seed=self.recipe.seed, workers=self.workers, quiet=self.quiet
        )
        feed = open_answers(opened.examples, wanted, self.files, options)
        slow = tuple(p for p in tower.parameters() if p.requires_grad)
        stage = Stage(
            name=self.goal,
            objective=AnswerObjective(opened.model, opened.encode, opened.image),
            data=feed.data,
            lengths=feed.lengths,
            held_out=feed.held_out,
            best_by="loss",
            collate=collate_examples,
            optimisation=wanted,
            slow=slow if wanted.tower_rate != 1 else (),
            slow_rate=wanted.tower_rate,
            seed=self.recipe.seed,
            trackers=self.trackers,
            workers=self.workers,
        )

        def save(place: Path) -> None:
            merge_adapters(language.layers)
            opened.save(place)

        self.train(stage, folder, save)
        return list(feed.notes)


@dataclass(frozen=True, kw_only=True)
class RaterTraining(AnswerTraining):
    """Of a scorer, a styler, or both in one."""

    goal: str = "rater"
    recipe: RaterRecipe

    @property
    def wanted(self) -> AnswerStage:
        """The stage on ratings and styles."""
        return self.recipe.rater

    def write_start(self, folder: Path) -> None:
        """A rater that knows pictures and captions, and no answers yet."""
        write_rater_start(folder, self.recipe)

    def open(self, folder: Path, dtype: str = "float32") -> Opened:
        """A LLaVA-OneVision-style folder."""
        checkpoint = open_onevision(folder)
        model = mmssr_model.load_rater(checkpoint, dtype)
        rates = "ratings" in self.recipe.answers
        own = {
            "clean_format": True,
            "capabilities": known_capabilities(self.recipe) if rates else {},
            "styles": "styles" in self.recipe.answers,
        }
        return Opened(
            model=model,
            encode=lambda pixels: mmssr_model.encode_images(model, pixels),
            image=checkpoint.image,
            examples=RatingExamples.of(checkpoint, self.recipe),
            save=lambda place: mmssr_model.save_rater(model, place, checkpoint, own),
        )


@dataclass(frozen=True, kw_only=True)
class EnhancerTraining(AnswerTraining):
    """Of a model that judges and rewrites captions."""

    goal: str = "enhancer"
    recipe: EnhancerRecipe

    @property
    def wanted(self) -> AnswerStage:
        """The stage on assessments."""
        return self.recipe.enhancer

    def write_start(self, folder: Path) -> None:
        """An enhancer that knows pictures and captions, and no answers yet."""
        write_enhancer_start(folder, self.recipe)

    def open(self, folder: Path, dtype: str = "float32") -> Opened:
        """A folder in AITQE's layout."""
        checkpoint = open_enhancer(folder)
        model = aitqe_model.load_enhancer(checkpoint, dtype)
        own = {"plain_text": True, "max_text_tokens": 1024} | (checkpoint.own or {})
        return Opened(
            model=model,
            encode=lambda pixels: aitqe_model.encode_images(model, pixels),
            image=checkpoint.tower.image,
            examples=AssessmentExamples.of(checkpoint, self.recipe),
            save=lambda place: aitqe_model.save_enhancer(model, place, checkpoint, own),
        )


def _freeze_unused(model: Any) -> None:
    """What no loss reaches: the tower beyond the layer that is used, and a bias without a place."""
    tower = getattr(model.model.vision_tower, "vision_model", model.model.vision_tower)
    unused: list[nn.Module] = [tower.encoder.layers[-1], tower.post_layernorm]
    if getattr(tower, "head", None) is not None:
        unused.append(tower.head)
    for module in unused:
        module.requires_grad_(False)
    bias: torch.nn.Parameter = model.model.multi_modal_projector.linear_2.bias
    if not bias.any():
        bias.requires_grad_(False)
