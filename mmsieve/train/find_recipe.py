"""Recipes by name: the bundled ones, and Python files of one's own."""

import runpy
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from mmsieve.errors import RequestError
from mmsieve.methods.load_enhancer import find_enhancer
from mmsieve.methods.load_rater import find_rater
from mmsieve.train.answers.recipe import Backbone
from mmsieve.train.recipe import BaseRecipe, Pretrained

_BUNDLED = files("mmsieve.train") / "recipes"


def bundled_recipes() -> dict[str, Path]:
    """Name -> file of the recipes in the package."""
    found = {}
    for entry in _BUNDLED.iterdir():
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
    return find_rater(str(name)) if goal == "rater" else find_enhancer(str(name))


def check_start(recipe: BaseRecipe) -> None:
    """Raise RequestError where what a recipe starts from is not there, or not of a known kind."""
    start = getattr(recipe, "start", None)
    if isinstance(start, Pretrained | Backbone):
        from mmsieve.train.pretrained import check_backbone

        check_backbone(start.language_model, start.vision_tower)
