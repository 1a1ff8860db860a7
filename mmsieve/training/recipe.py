"""Recipes: what a training starts from, what each stage sees, for how long; found by name.

A recipe of one's own is a Python file that sets RECIPE, and SMOKE: the same in seconds, to see that
all of it runs. Those of the package are `BundledRecipe`s.
"""

import runpy
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmsieve.errors import RequestError, nearest
from mmsieve.methods.load import find_model
from mmsieve.methods.recognise import PublishedFolder, open_published
from mmsieve.methods.unifilter.checkpoint import PROJECTOR_KINDS, PROJECTORS
from mmsieve.registry import registered
from mmsieve.validated import say_invalid


class Part(BaseModel):
    """Values that are checked when they are given, and never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _is_none(value: object) -> bool:
    """Of what recipes did not have once: a training that was begun without it goes on."""
    return value is None


class _Start(Part):
    """What every classifier is made with, whatever its weights come from."""

    image_tokens: int | None = Field(None, gt=0)
    """Embeddings that an image takes, a square number; None: one per patch."""
    projector: str | None = Field(None, pattern=f"^({PROJECTORS.pattern})$", exclude_if=_is_none)
    """Kind of the projector, as published: aapool_mlp pools to `image_tokens`, linear, identity and
    mlpNx_gelu keep one per patch. None: aapool_mlp, or mlp2x_gelu where that is one per patch."""
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
    """Steps between two saved states."""
    look_steps: int | None = Field(None, gt=0, exclude_if=_is_none)
    """Steps between two looks at the held-out data, each of which saves a state; None: an epoch of
    a file, as published, `save_steps` of drawn data."""


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

    command: ClassVar[str]
    """The verb that it is for."""

    name: str
    seed: int = 1
    """Of random weights, of the order of data, and of scenes."""
    weights: Literal["float16", "bfloat16", "float32"] = "float16"
    """Number format of the saved checkpoint."""
    start: Part | str
    """What the first stage starts from."""

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

    command: ClassVar[str] = "train classifier"
    start: Architecture | Pretrained
    lesson: Optimisation | None = None
    """The pretext task of a tower with random weights: what is where in drawn scenes."""
    projector: Optimisation | None = None
    """Stage 1: the projector alone, by the captioning loss."""
    classifier: ClassifierStage
    """Stage 2."""


# Recipes of what is fine-tuned on prompts and completions: raters and enhancers


class WeightTransfer(Part):
    """From a bundled classifier that reads pictures: its weights, transferred."""

    model: str = "unifilter-tiny"
    vocabulary: int = Field(1024, gt=300)
    """Tokens at most; they are learnt from the texts of rendered scenes."""


class Backbone(Part):
    """From a language model and a vision tower, hub ids or folders, with a new projector."""

    language_model: str
    vision_tower: str


class SftStage(Steps):
    """Supervised fine-tuning: the next token of the completions, and of nothing else."""

    tower_rate: float = Field(1.0, ge=0)
    """Learning rate of the tower, as a part of the others'; 0: it stays as it is."""
    lora: Lora | None = None
    """Adapters on the language model in place of training it; the projector learns as it is."""
    rendered: Scenes | None = None
    """What is seen where no file is given."""


class RaterRecipe(BaseRecipe):
    """How a rater comes about (mmSSR, arXiv 2503.13383)."""

    command: ClassVar[str] = "train rater"
    start: WeightTransfer | str
    """A string: a rater or any LLaVA-OneVision-style model to go on from, a folder or hub id."""
    answers: tuple[Literal["ratings", "styles"], ...] = ("ratings", "styles")
    """A scorer gives ratings, a styler styles, one model may do both."""
    capabilities: Mapping[str, str] = Field({})
    """Name -> keyword of capabilities beside the published 14, as records name them."""
    rater: SftStage


class EnhancerRecipe(BaseRecipe):
    """How an enhancer comes about (AITQE, arXiv 2410.16166)."""

    command: ClassVar[str] = "train enhancer"
    start: WeightTransfer | Backbone | str
    """A string: an enhancer to go on from, a folder or hub id."""
    projector: Steps | None = Field(None, exclude_if=_is_none)
    """Alignment, before: a new projector alone, by the language loss on captions."""
    enhancer: SftStage
    negatives: bool = True
    """Learn from captions that were written to be bad, too."""
    rewriting: bool = True
    """Learn to rewrite; without, to judge alone."""


AnyStage: TypeAlias = Optimisation | SftStage


def stage_of(recipe: BaseRecipe, goal: str) -> AnyStage | None:
    """The stage that `train GOAL` ends with; None where the recipe has none."""
    stage: AnyStage | None = getattr(recipe, goal, None)
    return stage


def has_new_projector(recipe: BaseRecipe) -> bool:
    """Whether a recipe starts from pretrained parts with a random projector between them."""
    return isinstance(recipe.start, Pretrained | Backbone)


# Recipes by name: the bundled ones, and Python files of one's own


@dataclass(frozen=True, kw_only=True)
class BundledRecipe:
    """A recipe of the package, the same in seconds, and what to know before running it."""

    recipe: BaseRecipe
    smoke: BaseRecipe
    about: str
    """What comes about, and the command, the hardware, the time, the expected numbers."""


def bundled_recipes() -> dict[str, BundledRecipe]:
    """Name -> recipe of the package: of each method, and those that are registered."""
    from mmsieve.training.recipes import aitqe, mmssr, unifilter

    found = [*unifilter.RECIPES, *aitqe.RECIPES, *mmssr.RECIPES]
    for module in registered("recipes").values():
        found += import_module(module).RECIPES
    return {one.recipe.name: one for one in sorted(found, key=lambda one: one.recipe.name)}


R = TypeVar("R", bound=BaseRecipe)


def load_recipe(recipe: str, kind: type[R], smoke: bool = False) -> R:
    """A bundled recipe of a kind by name, or that of a .py file, which is run; RequestError."""
    bundled = bundled_recipes()
    name = "SMOKE" if smoke else "RECIPE"
    if recipe in bundled:
        found: Any = bundled[recipe].smoke if smoke else bundled[recipe].recipe
    elif recipe.endswith(".py") and Path(recipe).is_file():
        found = _run_file(recipe).get(name)
    else:
        meant = nearest(recipe, bundled)
        said = f" (did you mean {meant}?)" if meant else ""
        known = ", ".join(bundled)
        raise RequestError(f"no recipe {recipe!r}{said}: give a .py file, or one of {known}")
    if isinstance(found, kind):
        return found
    if isinstance(found, BaseRecipe):
        raise RequestError(f"{recipe} is a recipe of `{found.command}`, not of `{kind.command}`")
    where = kind.__module__
    raise RequestError(f"{recipe}: it sets no {name} = {kind.__name__}(...) ({where})")


def _run_file(recipe: str) -> dict[str, Any]:
    try:
        return runpy.run_path(recipe)
    except ValidationError as error:
        raise RequestError(f"{recipe}: {say_invalid(error)}") from error
    except Exception as error:  # whatever a user's file raises makes the request wrong
        hint = "; recipes import from mmsieve.training" if "mmsieve.train'" in str(error) else ""
        raise RequestError(f"{recipe}: {type(error).__name__}: {error}{hint}") from error


def with_backbone(
    recipe: R,
    language_model: str | None = None,
    vision_tower: str | None = None,
    projector: str | None = None,
) -> R:
    """The recipe with another language model, vision tower or projector; raises RequestError."""
    wanted = {"language_model": language_model, "vision_tower": vision_tower}
    given = {name: value for name, value in wanted.items() if value is not None}
    if projector is not None:
        if not PROJECTORS.fullmatch(projector):
            raise RequestError(f"--projector {projector}: is not one of {PROJECTOR_KINDS}")
        if not isinstance(recipe.start, Pretrained):
            raise RequestError(
                f"--projector: recipe {recipe.name} makes no new one of several kinds; choose one "
                "of UniFilter on a pretrained language model"
            )
        given["projector"] = projector
    if given and not isinstance(recipe.start, Pretrained | Backbone):
        flag = f"--{next(iter(given)).replace('_', '-')}"
        raise RequestError(
            f"{flag}: recipe {recipe.name} starts from no language model; choose another one"
        )
    return recipe.changed(start=given) if given else recipe


def find_start(recipe: BaseRecipe, start_from: Path | str | None) -> PublishedFolder | None:
    """The checkpoint to go on from, if there is one; raises RequestError for another method's."""
    name = recipe.start if start_from is None else str(start_from)
    if not isinstance(name, str):
        return None
    if isinstance(recipe, RaterRecipe):
        return open_published(find_model(name, "rate"), "mmssr")
    if isinstance(recipe, EnhancerRecipe):
        return open_published(find_model(name, "enhance"), "aitqe")
    return open_published(find_model(name), "unifilter")


def check_start(recipe: BaseRecipe) -> None:
    """Raise RequestError where what a recipe starts from is not there, or not of a known kind."""
    if isinstance(recipe.start, Pretrained | Backbone):
        from mmsieve.training.initial import check_backbone

        check_backbone(recipe.start)


def check_projector(recipe: BaseRecipe, goal: str, start: PublishedFolder | None) -> None:
    """Raise RequestError where a projector is asked for that can't be had, or can't learn."""
    wanted = getattr(recipe.start, "projector", None)
    found = wanted if start is None else start.config.get("mm_projector_type")
    if goal == "projector" and found == "identity":
        raise RequestError("projector identity has nothing to learn: train classifier at once")
    if wanted is not None and found != wanted:
        raise RequestError(
            f"--projector {wanted}: {start and start.folder} has {found!r}; leave one of them out"
        )
