"""A training in a folder: a start, then stages, each kept when it is whole so that a rerun goes on.

`train projector`: start, lesson (random towers), projector. `train classifier`: the same start and
lesson, or the result of `train projector`, then the classifier.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch

from mmsieve.methods.load import load_unifilter
from mmsieve.methods.unifilter import UniFilter
from mmsieve.models.classifier import QualityClassifier
from mmsieve.models.storage import load_classifier, save_classifier
from mmsieve.train.cells import CLASSES, RenderedCells, collate_cells
from mmsieve.train.claim import Claim, write_claim
from mmsieve.train.data import collate
from mmsieve.train.feed import DataFiles, Feed, FeedOptions, open_feed
from mmsieve.train.lora import add_adapters, merge_adapters
from mmsieve.train.objectives import CaptionObjective, LessonObjective, QualityObjective
from mmsieve.train.pretrained import output_embedding
from mmsieve.train.processes import processes
from mmsieve.train.recipe import Optimisation, Pretrained, Recipe
from mmsieve.train.stages import Stage, run_stage
from mmsieve.train.start import write_start

Goal = Literal["projector", "classifier"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """What to train, and where: `out` ends up as a checkpoint in the published layout.

    `training.json` beside it has the claim and each stage's log. Until then `out/stages` holds what
    has been reached.
    """

    goal: Goal
    recipe: Recipe
    out: Path
    claim: Claim
    start_from: Path | None = None
    """A checkpoint instead of the recipe's start."""
    files: DataFiles | None = None
    """Instead of rendered data."""
    workers: int = 0
    trackers: tuple[str, ...] = ("tensorboard",)
    quiet: bool = False

    def run(self) -> list[str]:
        """Train what is not trained yet; returns what a user should know."""
        if processes().is_main_process:
            self._stages.mkdir(parents=True, exist_ok=True)
        notes: list[str] = []
        for name, make in self._steps.items():
            place = self._stages / name
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

    @cached_property
    def _steps(self) -> dict[str, Callable[[Path], list[str]]]:
        """Stage -> what carries it out into a folder."""
        steps: dict[str, Callable[[Path], list[str]]] = {}
        if self.start_from is None:
            steps["start"] = self._start
            if self.recipe.lesson is not None:
                steps["lesson"] = self._lesson
        return steps | {self.goal: getattr(self, f"_{self.goal}")}

    @property
    def _stages(self) -> Path:
        return self.out / "stages"

    def _start(self, folder: Path) -> list[str]:
        if processes().is_main_process:
            _write_whole(folder, lambda place: write_start(place, self.recipe))
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
            add_adapters(model, wanted.lora)
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
        torch.manual_seed(self.recipe.seed)
        stages = list(self._steps)
        place = stages.index(goal)
        before = self._stages / stages[place - 1] if place else self.start_from
        annotator = load_unifilter(str(before))
        return annotator, load_classifier(annotator.checkpoint).requires_grad_(True)

    def _train(
        self, stage: Stage, folder: Path, annotator: UniFilter, model: QualityClassifier
    ) -> None:
        if stage.optimisation.gradient_checkpointing:
            language: Any = model.model
            name = "activation_checkpointing_enable"  # its older name warns where both are there
            enable = getattr(language, name, None) or language.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        log, state = run_stage(stage, self._stages / f"{stage.name}-states", self.quiet)
        if not processes().is_main_process:
            return

        def write(place: Path) -> None:
            stage.objective.cpu().load_state_dict(state)
            merge_adapters(model)
            save_classifier(model, place, annotator.checkpoint, annotator.checkpoint.own)
            (place / _LOG).write_text(json.dumps(log))

        _write_whole(folder, write)

    def _publish(self) -> None:
        """The last stage's checkpoint in the wanted format to `out`, config.json last."""
        annotator = load_unifilter(str(self._stages / self.goal))
        model = load_classifier(annotator.checkpoint)
        made = self._stages / "half"
        model = model.to(getattr(torch, self.recipe.weights))
        save_classifier(model, made, annotator.checkpoint, annotator.checkpoint.own)
        logs = {
            name: json.loads(file.read_text("utf-8"))
            for name in self._steps
            if (file := self._stages / name / _LOG).is_file()
        }
        write_claim(self.out, self.claim, logs)
        for file in sorted(made.iterdir(), key=lambda file: file.name == "config.json"):
            file.replace(self.out / file.name)
        shutil.rmtree(self._stages)


_LOG = "log.json"


def _write_whole(place: Path, make: Callable[[Path], None]) -> None:
    """A folder that is there is whole: it gets its name when all is in it."""
    temporary = place.with_name(f".{place.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    make(temporary)
    temporary.replace(place)
