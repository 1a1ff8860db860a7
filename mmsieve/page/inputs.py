"""What a report is made from: tables, decisions and metrics, told apart by what is in them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmsieve import decisions, table
from mmsieve.errors import RequestError
from mmsieve.table import Header


@dataclass(frozen=True)
class Judged:
    """A table or decisions: files with a row per sample."""

    path: Path
    kind: str
    """`decisions`, or what the table holds."""
    files: tuple[Path, ...]
    headers: tuple[Header, ...]

    @property
    def name(self) -> str:
        """What to call it on the page."""
        return self.path.name


@dataclass(frozen=True)
class Inputs:
    """The inputs of a report by kind; whatever is none of ours is a source of samples."""

    judged: tuple[Judged, ...]
    metrics: tuple[tuple[str, dict[str, Any]], ...]
    """Name and content of each metrics.json."""
    sources: tuple[str, ...]


def sort_inputs(inputs: Sequence[str]) -> Inputs:
    """Tell tables, decisions and metrics from sources; raises RequestError where none is ours."""
    judged: list[Judged] = []
    metrics: list[tuple[str, dict[str, Any]]] = []
    sources: list[str] = []
    for given in inputs:
        path = Path(given)
        if path.suffix == ".json" and path.is_file():
            metrics += _metrics(path)
        elif (found := _judged(path)) is not None:
            judged.append(found)
        else:
            sources.append(given)
    if not judged and not metrics:
        raise RequestError(
            f"nothing to report in {', '.join(inputs) or 'no input'}: give a table made by score, "
            "decisions made by filter, or a metrics.json, and with them the shards for pictures"
        )
    return Inputs(tuple(judged), tuple(metrics), tuple(sources))


def _judged(path: Path) -> Judged | None:
    """The table or decisions at a path; None where it holds no file made by mmsieve."""
    files = tuple(decisions.decision_files(path).values()) if path.exists() else ()
    files = tuple(file for file in files if file.suffix == ".parquet")
    headers = [table.read_header(file) for file in files]
    ours = [header for header in headers if header is not None]
    if not ours:
        return None
    kinds = {header.kind for header in ours}
    if len(ours) < len(files) or len(kinds) > 1:
        raise RequestError(f"{path}: holds more than one table: give each by itself")
    return Judged(path, kinds.pop(), files, tuple(ours))


def _metrics(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Name and numbers of each model of a metrics.json."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise RequestError(f"{path}: {error}") from error
    name = path.parent.name or path.name
    models = values.get("models") if isinstance(values, dict) else None
    named = {f"{name}: {each}": one for each, one in models.items()} if models else {name: values}
    for one in named.values():
        if not isinstance(one, dict) or "confusion" not in one:
            raise RequestError(f"{path}: not a metrics.json with the numbers of a model")
    return list(named.items())
