"""The numbers of evaluate, told from files of samples that end in .json too."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmsieve.errors import RequestError, SampleError
from mmsieve.listing import one_line
from mmsieve.read.captions import parse_object
from mmsieve.read.instructions import looks_right
from mmsieve.read.json_items import first_sign, line_items

_MOST_BYTES = 1 << 26
"""No metrics.json is that large."""


def read_metrics(path: Path) -> list[tuple[str, dict[str, Any]]] | None:
    """Name and numbers of each model of a metrics.json; None for a file that may hold samples.

    Raises RequestError for a JSON file that is neither.
    """
    try:
        if path.suffix.lower() != ".json" or not path.is_file() or _may_hold_samples(path):
            return None
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("too large")
        values = json.loads(path.read_text("utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        raise _neither(path, one_line(error)) from error
    name = path.parent.name or path.name
    models = values.get("models") if isinstance(values, dict) else None
    named = {name: values}
    if isinstance(models, dict):
        named = {f"{name}: {each}": one for each, one in models.items()}
    for one in named.values():
        if problem := _problem(one):
            raise _neither(path, problem)
    return list(named.items())


def _may_hold_samples(path: Path) -> bool:
    """Whether a file is a JSON list, or its first line an instruction item or a document."""
    with path.open("rb") as file:
        if first_sign(file) == "[":
            return True
        try:
            item = parse_object(next(line_items(file), b""))
        except SampleError:
            return False
    return looks_right(item) or "text_list" in item


def _problem(values: Any) -> str | None:
    """Why values can't be shown as a model's numbers, if that is so."""
    if not isinstance(values, Mapping):
        return "no numbers of a model"
    for name in ("accuracy", "f1", "count"):
        if type(values.get(name)) not in (int, float):
            return f"no {name} of a model"
    rows = values.get("confusion")
    if not isinstance(rows, list) or not all(_are_counts(row) for row in rows):
        return "no confusion of a model"
    return None


def _are_counts(row: Any) -> bool:
    return isinstance(row, list) and all(type(n) is int for n in row)


def _neither(path: Path, reason: str) -> RequestError:
    return RequestError(
        f"{path}: neither a metrics.json with the numbers of a model, nor samples ({reason})"
    )
