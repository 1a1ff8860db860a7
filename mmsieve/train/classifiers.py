"""The stages of a classifier's training.

`train projector`: start, lesson (random towers), projector. `train classifier`: the same start and
lesson, or the result of `train projector`, then the classifier.
"""

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
from mmsieve.train.data import collate
from mmsieve.train.feed import Feed, FeedOptions, open_feed
from mmsieve.train.lora import add_adapters, checkpoint_activations, merge_adapters
from mmsieve.train.objectives import CaptionObjective, LessonObjective, QualityObjective
from mmsieve.train.pretrained import output_embedding
from mmsieve.train.processes import processes
from mmsieve.train.recipe import Optimisation, Pretrained, Recipe
from mmsieve.train.stages import Stage
from mmsieve.train.start import write_start
from mmsieve.train.training import Training, write_whole

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
