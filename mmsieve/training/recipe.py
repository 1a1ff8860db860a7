"""Recipes: what to start from, what each stage of a training sees, for how long; found by name.

A recipe is a Python file with a docstring on top (what, command, hardware, time, expected numbers)
that sets RECIPE, and SMOKE: the same in seconds, to see that all of it runs.
"""

import runpy
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmsieve.errors import RequestError
from mmsieve.methods.load import find_model

# Recipes of classifiers: what to start from, and what each stage of a training sees, for how
# long


class Part(BaseModel):
    """Values that are checked when they are given, and never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Start(Part):
    """What every classifier is made with, whatever its weights come from."""

    image_tokens: int | None = Field(None, gt=0)
    """Embeddings that an image takes, a square number; None: one per patch."""
    image_fit: Literal["stretch", "pad"] = "stretch"
    """How an image becomes a square, in training and, as the checkpoint says, in scoring."""
    max_text_tokens: int = Field(1024, gt=0)
    """Where a text is cut, an image counting one."""
    max_sequence: int = Field(4096, gt=0)
    """Where a sequence is cut once images have become their embeddings."""
    labels: int = Field(1, ge=1)
    """Outputs of the head. 1: the level, by squared error; more: a level each, by cross-entropy."""


class Architecture(_Start):
    """From nothing: a SigLIP tower, a pooled projector, a Qwen3 language model, random weights."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    intermediate: int = 384
    vocabulary: int = 1024
    image_size: int = 72
    patch_size: int = 24


class Pretrained(_Start):
    """From a pretrained language model and a vision tower: hub ids or folders, stock layout."""

    language_model: str
    vision_tower: str
    image_tokens: int | None = Field(144, gt=0)
    image_fit: Literal["stretch", "pad"] = "pad"
    max_text_tokens: int = Field(8192, gt=0)
    max_sequence: int = Field(8192, gt=0)


class Scenes(Part):
    """Training data that is drawn while it is used, and never twice."""

    groups: int = Field(gt=0)
    """Groups (an image with its texts, a document's images with theirs, an instruction sample)
    seen in all."""
    families: dict[str, float] = {"core": 1.0}
    """Kinds of scenes, and how often each comes."""
    blank_images: bool = False
    """Show blank images: a control of what the texts alone give away."""


class Rendered(Scenes):
    """Scenes with texts at the four levels."""

    document_share: float = Field(0.25, ge=0, le=1)
    """Steps that see documents."""
    aspect: float = Field(1.0, ge=1, le=4)
    """Width of a picture over its height."""
    held_out: int = Field(0, ge=0)
    """Groups of captions, and as many of documents, that the best state is chosen by; 0: the last
    state is taken."""


class Lora(Part):
    """Low-rank adapters on the language model's linear layers, merged into it at the end."""

    rank: int = Field(16, gt=0)
    alpha: int = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)


class Steps(Part):
    """AdamW, a warm-up, then a cosine to zero."""

    batch: int = Field(gt=0)
    """Groups in a step of one process; rendered documents come fewer at a time."""
    total_batch: int | None = Field(None, gt=0)
    """Groups between two updates, over all processes; None: what the processes see at once."""
    learning_rate: float = Field(gt=0)
    epochs: int = Field(1, gt=0)
    """Passes over the records of a file; rendered data has `groups` instead."""
    warmup: float = Field(100, ge=0)
    """Steps, or below 1 the part of all steps; at most a tenth of them."""
    weight_decay: float = 0.02
    beta2: float = 0.98
    clip: float = 1.0
    precision: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    """Compute the language model's activations twice instead of keeping them."""
    save_steps: int = Field(500, gt=0)
    """Steps between two saved states, and between two looks at the held-out data."""


class Optimisation(Steps):
    """Steps on texts at the four levels."""

    rendered: Rendered | None = None
    """What is seen where no file is given."""


class ClassifierStage(Optimisation):
    """Projector, language model and head learn the level."""

    tower_rate: float = Field(0.0, ge=0)
    """Learning rate of the tower, as a part of the others'; 0: it stays as it is, as published."""
    captioning: float = Field(0.0, ge=0)
    """Weight of the language loss on texts of level 3."""
    wrong_words: float = Field(0.0, ge=0)
    """Weight of the loss of telling each stated fact's right from wrong, where they are known."""
    lora: Lora | None = None


class BaseRecipe(Part):
    """What every recipe has."""

    name: str
    seed: int = 1
    """Of random weights, of the order of data, and of scenes."""
    weights: Literal["float16", "bfloat16", "float32"] = "float16"
    """Number format of the saved checkpoint."""

    def changed(self, **values: Any) -> Self:
        """A copy with other values; a dict changes values of the part of that name."""
        now = {name: getattr(self, name) for name in type(self).model_fields}
        for name, value in values.items():
            part = now[name]
            merged = isinstance(value, dict) and isinstance(part, Part)
            now[name] = type(part)(**{**dict(part), **value}) if merged else value
        return type(self)(**now)


class Recipe(BaseRecipe):
    """How a classifier comes about."""

    start: Architecture | Pretrained
    lesson: Optimisation | None = None
    """What a tower with random weights is taught first: the scenes' attributes."""
    projector: Optimisation | None = None
    """Stage 1: the projector alone, by the captioning loss."""
    classifier: ClassifierStage
    """Stage 2."""


# Recipes of models that answer: raters of instruction samples, enhancers of captions


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


# Recipes by name: the bundled ones, and Python files of one's own

_BUNDLED = tuple(
    files(package) / "recipes" for package in ("mmsieve.training", "mmsieve.synthetic")
)


def bundled_recipes() -> dict[str, Path]:
    """Name -> file of the recipes in the package."""
    found = {}
    for entry in (entry for folder in _BUNDLED for entry in folder.iterdir()):
        if entry.name.endswith(".py") and not entry.name.startswith("_"):
            path = Path(str(entry))
            found[_name(path)] = path
    return dict(sorted(found.items()))


def _name(path: Path) -> str:
    """The first word of a recipe's docstring; reading it runs nothing."""
    return path.read_text("utf-8").removeprefix('"""').partition(":")[0]


R = TypeVar("R", bound=BaseRecipe)


def load_recipe(recipe: str, kind: type[R], smoke: bool = False) -> R:
    """A bundled recipe by name, or that of a .py file, which is run; raises RequestError.

    `kind` is what has to come about.
    """
    bundled = bundled_recipes()
    path = bundled.get(recipe, Path(recipe))
    if path.suffix != ".py" or not path.is_file():
        raise RequestError(f"no recipe {recipe!r}: give a .py file, or one of {', '.join(bundled)}")
    try:
        values = runpy.run_path(str(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RequestError(f"{recipe}: {where}: {first['msg']}") from error
    except Exception as error:  # whatever a user's file raises makes the request wrong
        raise RequestError(f"{recipe}: {type(error).__name__}: {error}") from error
    name = "SMOKE" if smoke else "RECIPE"
    found = values.get(name)
    if isinstance(found, BaseRecipe) and not isinstance(found, kind):
        raise RequestError(f"{recipe} is a {type(found).__name__}: this wants a {kind.__name__}")
    if not isinstance(found, kind):
        where = kind.__module__
        raise RequestError(f"{recipe}: it sets no {name} = {kind.__name__}(...) ({where})")
    return found


def with_backbone(
    recipe: R, language_model: str | None = None, vision_tower: str | None = None
) -> R:
    """The recipe with another language model or vision tower; raises RequestError."""
    asked = {"language_model": language_model, "vision_tower": vision_tower}
    given = {name: value for name, value in asked.items() if value is not None}
    start = getattr(recipe, "start", None)
    if given and not isinstance(start, Pretrained | Backbone):
        flag = f"--{next(iter(given)).replace('_', '-')}"
        raise RequestError(
            f"{flag}: recipe {recipe.name} starts from no language model; choose another one"
        )
    return recipe.changed(start=given) if given else recipe


def find_start(goal: str, recipe: BaseRecipe, start_from: Path | str | None) -> Path | None:
    """The folder of the checkpoint to go on from, if there is one; raises RequestError."""
    start = getattr(recipe, "start", None)
    name = start_from if start_from is not None else start if isinstance(start, str) else None
    if name is None or goal in ("projector", "classifier"):
        return None if name is None else Path(name)
    return find_model(str(name), "rate" if goal == "rater" else "enhance")


def check_start(recipe: BaseRecipe) -> None:
    """Raise RequestError where what a recipe starts from is not there, or not of a known kind."""
    start = getattr(recipe, "start", None)
    if isinstance(start, Pretrained | Backbone):
        from mmsieve.training.initial import check_backbone

        check_backbone(start.language_model, start.vision_tower)
