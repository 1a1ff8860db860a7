"""The recipes in the package at the published sizes, a file per method."""

from collections.abc import Mapping
from typing import Any

from mmsieve.training.recipe import BaseRecipe, BundledRecipe

PUBLISHED: Mapping[str, Any] = {
    "warmup": 0.03,
    "weight_decay": 0,
    "beta2": 0.999,
    "precision": "bfloat16",
    "gradient_checkpointing": True,
}
"""What the published scripts of UniFilter and of mmSSR have in common."""

ZERO3 = """\
python -m mmsieve.training.accelerate zero3 > zero3.yaml
           accelerate launch --config_file zero3.yaml"""
"""How a command begins that spreads a model over the GPUs of a machine."""

_ABOUT = """\
{name}: {what}.

Command:   {command}
Hardware:  {hardware}
Time:      {time}
Expected:  {expected}
"""


def describe(
    recipe: BaseRecipe, smoke: BaseRecipe, *, more: str = "", **about: str
) -> BundledRecipe:
    """A recipe with its text: what, command, hardware, time, expected; `more` comes below."""
    known = {"name": recipe.name, "time": "not measured", "expected": "not published", **about}
    text = _ABOUT.format_map(known)
    return BundledRecipe(recipe=recipe, smoke=smoke, about=text + (more and f"\n{more}\n"))
