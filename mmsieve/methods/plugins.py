"""Scorers that other packages install: entry points of the group `mmsieve.annotators`.

The entry point's name is what a user types, NAME or NAME:MODEL; what it names is called with MODEL
(None without one) and ScoringOptions, and gives an Annotator (docs/own_scorer.md). A plug-in that
is broken is named where it is listed or used, and stops nothing else.
"""

from collections import Counter
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pyarrow as pa

from mmsieve.engine.annotator import Annotator
from mmsieve.errors import MmsieveError, RequestError
from mmsieve.methods.folders import BASELINES, CATALOG
from mmsieve.methods.unifilter.annotator import ScoringOptions
from mmsieve.stores.asking import one_line
from mmsieve.tables import COMMON, METADATA, find_score

GROUP = "mmsieve.annotators"

_PROPERTIES = ("kind", "schema", "fingerprint", "device", "notes", "score_is_level")
_NEEDED = (*_PROPERTIES, "preparer", "runner")
_DOCS = "see docs/own_scorer.md"
_TAKEN = {name.partition(":")[0] for name in BASELINES} | {known.name for known in CATALOG}


@dataclass(frozen=True)
class Plugin:
    """An installed plug-in, by what its package says of it; nothing of it is imported yet."""

    name: str
    package: str
    """Name and version."""
    summary: str
    entry_point: EntryPoint
    problem: str = ""
    """Why it can't be used, as far as that is known without importing it."""

    def load(self) -> Any:
        """What its entry point names; raises RequestError, in one line, where that fails."""
        if self.problem:
            raise self._broken(self.problem)
        try:
            return self.entry_point.load()
        except Exception as error:  # somebody else's code may fail in any way
            raise self._broken(f"can't be imported: {_described(error)}") from error

    def annotator(self, model: str | None, options: ScoringOptions) -> Annotator:
        """Its annotator with a model; raises RequestError where there is none to be used."""
        make = self.load()
        try:
            found = make(model, options)
        except MmsieveError:
            raise
        except Exception as error:  # somebody else's code may fail in any way
            raise self._broken(_described(error)) from error
        if problem := _find_problem(found):
            raise self._broken(f"{problem}; {_DOCS}")
        return found  # type: ignore[no-any-return]

    def _broken(self, why: str) -> RequestError:
        return RequestError(f"plug-in {self.name} ({self.package}) {why}")


def list_plugins() -> list[Plugin]:
    """The installed plug-ins, by their names."""
    found = sorted(entry_points(group=GROUP), key=lambda point: point.name)
    counts = Counter(point.name for point in found)
    return [_plugin(point, counts[point.name]) for point in found]


def _plugin(point: EntryPoint, count: int) -> Plugin:
    problem = ""
    if point.name in _TAKEN:
        problem = "has a name that mmsieve itself uses"
    elif count > 1:
        problem = "is one of several of this name: uninstall all but one"
    if point.dist is None:
        return Plugin(point.name, "no package", "", point, problem)
    package = f"{point.dist.name} {point.dist.version}"
    return Plugin(point.name, package, point.dist.metadata["Summary"] or "", point, problem)


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error)}"


def _find_problem(found: Any) -> str:
    """Why something can't be used as an annotator of `score`, if that is so."""
    if missing := [name for name in _NEEDED if not hasattr(found, name)]:
        return f"gives a {type(found).__name__}, no Annotator: it has no {', '.join(missing)}"
    if found.kind != "quality":
        return f"makes a table of {found.kind}, where score needs one of quality"
    if not isinstance(found.schema, pa.Schema):
        return "has a schema that is no pyarrow.Schema"
    if taken := {*COMMON.names, METADATA.name} & set(found.schema.names):
        return f"has the column {min(taken)}, which every table has already"
    if find_score(found.schema) is None:
        return "has no quality_score, and not exactly one column of floating-point numbers"
    texts = [*found.fingerprint, *found.fingerprint.values()]
    if not texts or not all(isinstance(text, str) for text in texts):
        return "has a fingerprint that is not of strings, or empty"
    return ""
