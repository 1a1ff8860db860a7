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

_ABOUT = """\
{name}: {what}.

Command:   {command}
Hardware:  {hardware}; not run by us
Time:      not measured
Expected:  {expected}
"""


def not_run(recipe: BaseRecipe, smoke: BaseRecipe, **about: str) -> BundledRecipe:
    """A recipe for hardware that we have not; `about`: what, command, hardware, expected."""
    text = _ABOUT.format_map({"name": recipe.name, "expected": "not published", **about})
    return BundledRecipe(recipe=recipe, smoke=smoke, about=text)
