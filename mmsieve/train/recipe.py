"""Recipes: what to train, on what, for how long; a TOML file with a comment on top."""

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmsieve.errors import RequestError

_BUNDLED = files("mmsieve.train") / "recipes"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Architecture(_Part):
    """A classifier from nothing: a SigLIP tower, a pooled projector, a Qwen3 language model."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    intermediate: int = 384
    vocabulary: int = 1024
    image_size: int = 72
    patch_size: int = 24
    max_text_tokens: int = 1024


class Optimisation(_Part):
    """AdamW, a warm-up, then a cosine to zero."""

    groups: int = Field(gt=0)
    """Groups (an image with its texts, or a document's images with theirs) seen in all."""
    batch: int = Field(gt=0)
    """Groups of captions in a step; documents are longer and come fewer at a time."""
    learning_rate: float = Field(gt=0)
    warmup_steps: int = 100
    weight_decay: float = 0.02
    clip: float = 1.0
    precision: Literal["float32", "bfloat16"] = "float32"
    save_steps: int = 500
    families: dict[str, float] = {"core": 1.0}
    """Kinds of rendered scenes, and how often each comes."""


class JointStage(Optimisation):
    """Level, captioning and wrong words together."""

    tower_rate: float = 0.3
    """Learning rate of the tower, as a part of the others'."""
    captioning: float = 1.0
    """Weight of the language loss on texts of level 3."""
    wrong_words: float = 1.0
    """Weight of the loss of telling each stated fact's right from wrong."""
    document_share: float = Field(0.25, ge=0, le=1)
    """Steps that see documents."""
    blank_images: bool = False
    """Show blank images: a control of what the texts alone give away."""


class Recipe(_Part):
    """A classifier from rendered scenes."""

    name: str
    seed: int = 1
    """Of the weights and of the scenes."""
    architecture: Architecture = Architecture()
    tower: Optimisation
    joint: JointStage

    def plan(self) -> str:
        """What would be trained, in words."""
        return (
            f"the tower on {self.tower.groups:,} scenes, then all of it on texts over "
            f"{self.joint.groups:,} groups of scenes"
        )


def load_recipe(recipe: str, smoke: bool = False, seed: int | None = None) -> Recipe:
    """A bundled recipe by name, or the TOML file at a path; raises RequestError.

    `base` in a file names a bundled recipe that it changes. Its `[smoke.*]` tables say what a trial
    of seconds changes; `smoke` applies them. A `seed` other than the recipe's gives other weights
    and other scenes.
    """
    values = _read(recipe)
    trial = values.pop("smoke", {})
    values = _merged(values, trial if smoke else {})
    values |= {} if seed is None else {"seed": seed}
    try:
        return Recipe(**values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RequestError(f"{recipe}: {where}: {first['msg']}") from error


def _read(recipe: str) -> dict[str, Any]:
    """The values of a recipe, on top of those of its base."""
    bundled = {Path(entry.name).stem: entry for entry in _BUNDLED.iterdir() if entry.is_file()}
    path = Path(recipe)
    if path.suffix == ".toml" and path.is_file():
        text = path.read_text("utf-8")
    elif recipe in bundled:
        text = bundled[recipe].read_text("utf-8")
    else:
        names = ", ".join(sorted(bundled))
        raise RequestError(f"no recipe {recipe!r}: give a .toml file, or one of {names}")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RequestError(f"{recipe}: {error}") from error
    base = values.pop("base", None)
    return values if base is None else _merged(_read(str(base)), values)


def _merged(values: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for name, value in more.items():
        old = merged.get(name)
        merged[name] = _merged(old, value) if isinstance(old, dict) else value
    return merged
