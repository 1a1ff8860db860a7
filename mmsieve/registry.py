"""Look-up by name of what is not part of the core: teachers, recipes, verbs, data to train on.

The drawn world (`mmsieve.synthetic`) registers itself when it is imported. Nothing else of the core
imports it: this module does, by its name, the first time that something is looked up. A place is
`module` or `module:attribute`, and is only imported when it is asked for.
"""

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from mmsieve.generation.options import GenerateOptions
    from mmsieve.generation.tasks import GenerationTask

Kind: TypeAlias = Literal["teacher", "recipes", "verb", "training data"]
"""teacher: see `DrawingTeacher`. recipes: a module with RECIPES. verb: of the command line.
training data: see `drawn_training` of `training/data.py`."""

_PLACES: dict[Kind, dict[str, str]] = {}


class DrawingTeacher(Protocol):
    """A teacher that needs neither sources nor a provider: it draws its images itself."""

    def check(self, task: "GenerationTask", options: "GenerateOptions") -> None:
        """Raise RequestError for what it can't draw."""

    def count_drawn(self, task: "GenerationTask", options: "GenerateOptions") -> int:
        """How many scenes it draws for what is wanted."""

    def draw(
        self, task: "GenerationTask", out: Path, options: "GenerateOptions"
    ) -> tuple[dict[str, int], int]:
        """Write training files into a folder; returns the records of each, and how many tars."""


def register(kind: Kind, name: str, place: str) -> None:
    """Make a place known under a name, or in the place of what had that name."""
    _PLACES.setdefault(kind, {})[name] = place


def registered(kind: Kind) -> dict[str, str]:
    """Name -> place of all of a kind."""
    _import_drawn_world()
    return dict(_PLACES.get(kind, {}))


def find(kind: Kind, name: str) -> Any:
    """What is registered under a name, imported now; None where there is nothing."""
    place = registered(kind).get(name)
    if place is None:
        return None
    module, _, attribute = place.partition(":")
    found = import_module(module)
    return getattr(found, attribute) if attribute else found


def find_teacher(name: str) -> DrawingTeacher | None:
    """The teacher of a name that draws, such as `rendered`; None for those of providers."""
    teacher: DrawingTeacher | None = find("teacher", name)
    return teacher


@cache
def _import_drawn_world() -> None:
    import_module("mmsieve.synthetic")
