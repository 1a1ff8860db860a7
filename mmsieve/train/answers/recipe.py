"""Recipes of models that answer: raters of instruction samples, enhancers of captions."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from mmsieve.train.recipe import BaseRecipe, Lora, Part, Scenes, Steps


class Carry(Part):
    """From a bundled classifier that reads pictures (`mmsieve.train.answers.carried`)."""

    model: str = "unifilter-tiny"
    vocabulary: int = Field(1024, gt=300)
    """Tokens at most; they are learnt from the texts of rendered scenes."""


class Backbone(Part):
    """From a language model and a vision tower, hub ids or folders, with a new projector."""

    language_model: str
    vision_tower: str


class AnswerStage(Steps):
    """Supervised fine-tuning: the next token of the answers, and of nothing else."""

    tower_rate: float = Field(1.0, ge=0)
    """Learning rate of the tower, as a part of the others'; 0: it stays as it is."""
    lora: Lora | None = None
    """Adapters on the language model in place of training it; the projector learns as it is."""
    rendered: Scenes | None = None
    """What is seen where no file is given."""


class RaterRecipe(BaseRecipe):
    """How a rater comes about (mmSSR, arXiv 2503.13383)."""

    start: Carry | str
    """A string: a rater or any LLaVA-OneVision-style model to go on from, a folder or hub id."""
    answers: tuple[Literal["ratings", "styles"], ...] = ("ratings", "styles")
    """A scorer gives ratings, a styler styles, one model may do both."""
    capabilities: Mapping[str, str] = Field({})
    """Name -> keyword of capabilities beside the published 14, as records name them."""
    rater: AnswerStage


class EnhancerRecipe(BaseRecipe):
    """How an enhancer comes about (AITQE, arXiv 2410.16166)."""

    start: Carry | Backbone | str
    """A string: an enhancer to go on from, a folder or hub id."""
    enhancer: AnswerStage
    negatives: bool = True
    """Learn from captions that were written to be bad, too."""
    rewriting: bool = True
    """Learn to rewrite; without, to judge alone."""
