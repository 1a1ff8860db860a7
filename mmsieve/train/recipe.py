"""Recipes of classifiers: what to start from, and what each stage of a training sees, for how long.

A recipe is a Python file with a docstring on top (what, command, hardware, time, expected numbers)
that sets RECIPE, and SMOKE: the same in seconds, to see that all of it runs.
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field


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
