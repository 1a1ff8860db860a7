"""The stages of a rater's or an enhancer's training: a start where there is none, then answers."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmsieve.images import ImageSpec
from mmsieve.models import llava, rater
from mmsieve.models.enhancer import open_enhancer
from mmsieve.models.onevision import open_onevision
from mmsieve.train.answers.assessments import AssessmentExamples
from mmsieve.train.answers.data import Examples
from mmsieve.train.answers.examples import collate_examples
from mmsieve.train.answers.feed import open_answers
from mmsieve.train.answers.objective import AnswerObjective, Encode
from mmsieve.train.answers.ratings import RatingExamples, known_capabilities
from mmsieve.train.answers.recipe import AnswerStage, EnhancerRecipe, RaterRecipe
from mmsieve.train.answers.starts import write_enhancer_start, write_rater_start
from mmsieve.train.feed import FeedOptions
from mmsieve.train.lora import add_adapters, checkpoint_activations, merge_adapters
from mmsieve.train.processes import processes
from mmsieve.train.stages import Stage
from mmsieve.train.training import Training, write_whole


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
        model = rater.load_rater(checkpoint, dtype)
        rates = "ratings" in self.recipe.answers
        own = {
            "clean_format": True,
            "capabilities": known_capabilities(self.recipe) if rates else {},
            "styles": "styles" in self.recipe.answers,
        }
        return Opened(
            model=model,
            encode=lambda pixels: rater.encode_images(model, pixels),
            image=checkpoint.image,
            examples=RatingExamples.of(checkpoint, self.recipe),
            save=lambda place: rater.save_rater(model, place, checkpoint, own),
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
        model = llava.load_enhancer(checkpoint, dtype)
        own = {"plain_text": True, "max_text_tokens": 1024} | (checkpoint.own or {})
        return Opened(
            model=model,
            encode=lambda pixels: llava.encode_images(model, pixels),
            image=checkpoint.tower.image,
            examples=AssessmentExamples.of(checkpoint, self.recipe),
            save=lambda place: llava.save_enhancer(model, place, checkpoint, own),
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
