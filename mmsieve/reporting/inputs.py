"""What a report is made from: tables, decisions, metrics, and the sources of their samples."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmsieve import decisions, tables
from mmsieve.errors import RequestError, SampleError
from mmsieve.identity import TableSource
from mmsieve.read.documents import is_mmc4
from mmsieve.read.instructions import looks_right
from mmsieve.read.json_items import first_sign, line_items, parse_object
from mmsieve.stores.asking import one_line
from mmsieve.stores.folders import map_many
from mmsieve.stores.paths import is_stored, place_of
from mmsieve.tables import Header
from mmsieve.training.options import RUN, STAGES

_MOST_BYTES = 1 << 26
"""No metrics.json is that large."""
_MOST = 1 << 53
"""No number in it either."""


METRICS, PREDICTIONS, CONFIG = "metrics.json", "predictions.parquet", "config.json"


@dataclass(frozen=True)
class EvaluatedModel:
    """What a metrics.json says of one model."""

    file: Path
    name: str
    """What to call it in the report."""
    values: dict[str, Any]
    own: str = ""
    """Its name among several; empty where it is alone."""
    differences: Mapping[str, Any] = field(default_factory=dict)
    """To the first model of several, by number."""

    @property
    def predictions(self) -> Path | None:
        """The file with every text's score, where it is there."""
        path = self.file.with_name(PREDICTIONS)
        return path if path.is_file() else None


def read_metrics(path: Path) -> list[EvaluatedModel] | None:
    """What a metrics.json, or the folder of `evaluate`, says of each model; None for anything else.

    Raises RequestError for JSON that is neither that nor may hold samples.
    """
    names = {found.name for found in path.glob("[!.]*")} if (path / METRICS).is_file() else set()
    if PREDICTIONS in names or names == {METRICS}:  # what compares tables has no predictions
        path = path / METRICS
    try:
        if path.suffix.lower() != ".json" or not path.is_file() or _may_hold_samples(path):
            return None
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("too large")
        values = parse_object(path.read_bytes())
        if "tables" in values and "spearman" in values:
            raise ValueError("it compares two tables: give these to report instead")
        name, models = path.parent.name or path.name, values.get("models")
        found = [EvaluatedModel(path, name, values)]
        if isinstance(models, dict):
            differences = values.get("differences")
            less = differences if isinstance(differences, dict) else {}
            found = [
                EvaluatedModel(path, f"{name}: {own}", one, own, less.get(own) or {})
                for own, one in models.items()
            ]
        if problem := next(filter(None, (_problem(one.values) for one in found)), None):
            raise ValueError(problem)
    except (OSError, SampleError, ValueError) as error:
        what = "neither a metrics.json with the numbers of a model, nor samples"
        raise RequestError(f"{path}: {what} ({one_line(error)})") from error
    return found


def _may_hold_samples(path: Path) -> bool:
    """Whether a file is a JSON list, or its first line an instruction item or a document."""
    with path.open("rb") as file:
        if first_sign(file) == "[":
            return True
        try:
            item = parse_object(next(line_items(file), b""))
        except SampleError:
            return False
    return looks_right(item) or is_mmc4(item)


def _problem(values: Any) -> str | None:
    if not isinstance(values, Mapping):
        return "no numbers of a model"
    for name in ("accuracy", "f1", "count"):
        number = values.get(name)
        if not isinstance(number, int | float) or not abs(number) < _MOST:
            return f"no {name} of a model"
    rows = values.get("confusion")
    if not isinstance(rows, list) or not all(
        isinstance(row, list) and all(type(n) is int and abs(n) < _MOST for n in row)
        for row in rows
    ):
        return "no confusion of a model"
    return None


@dataclass(frozen=True)
class ReportTable:
    """A table or decisions: files with a row per sample."""

    path: Path
    kind: str
    """`decisions`, or what the table holds."""
    files: tuple[Path, ...]
    headers: tuple[Header, ...]

    @property
    def name(self) -> str:
        """What to call it in the report."""
        return self.path.name

    @cached_property
    def schema(self) -> pa.Schema:
        """Columns and types of its first file; raises RequestError where that can't be read."""
        with tables.open_file(self.files[0]) as file:
            return file.schema_arrow

    @cached_property
    def sources(self) -> dict[str, TableSource]:
        """Shard -> what is known of the file that it was read from."""
        if self.kind == decisions.KIND and self.path.is_file():
            rows = decisions.Decisions(self.path)
            return {shard: rows.source(shard) for shard in rows.shards}
        return {header.shard: header.of_source for header in self.headers}

    def shares_shards(self, other: "ReportTable") -> bool:
        """Whether both are about samples of the same file's shard, as far as that is known."""
        common = self.sources.keys() & other.sources.keys()
        return any(_may_be_same(self.sources[name], other.sources[name]) for name in common)


def _may_be_same(one: TableSource, other: TableSource) -> bool:
    if one.identity is not None and other.identity is not None:
        return one.identity.is_same(other.identity)
    return 0 in (one.size, other.size) or one.size == other.size


@dataclass(frozen=True)
class Inputs:
    """The inputs of a report by kind; whatever is none of ours is a source of samples."""

    tables: tuple[ReportTable, ...]
    metrics: tuple[EvaluatedModel, ...]
    trainings: tuple[Path, ...]
    """Folders of trainings."""
    sources: tuple[str, ...]


def sort_inputs(inputs: Sequence[str]) -> Inputs:
    """Tell tables, decisions and metrics from sources; raises RequestError where none is ours."""
    found: list[ReportTable] = []
    metrics: list[EvaluatedModel] = []
    trainings: list[Path] = []
    sources: list[str] = []
    for given in inputs:
        path = place_of(given)
        if (folder := training_folder(path)) is not None:
            trainings.append(folder)
        elif (numbers := read_metrics(path)) is not None:
            metrics += numbers
        elif (table := find_table(path)) is not None:
            found.append(table)
        else:
            sources.append(given)
    if not found and not metrics and not trainings:
        for given in inputs:
            if not place_of(given).exists() and not {*given} & {*"*?[{:"}:
                raise RequestError(f"{given}: no such file or folder")
        raise RequestError(
            f"nothing to report in {', '.join(inputs) or 'no input'}: give a table made by score, "
            "rate or enhance, decisions made by filter or select, what train made, or evaluate of "
            "models, and with them the shards or instruction files for pictures"
        )
    return Inputs(tuple(found), tuple(metrics), tuple(trainings), tuple(sources))


def training_folder(path: Path) -> Path | None:
    """The folder of a training, given as such or by its training.json; None for anything else.

    Somebody's data may be in a file of that name: beside ours stands what was trained.
    """
    folder = path.parent if path.name == RUN else path
    file = folder / RUN
    is_ours = (folder / CONFIG).is_file() or (folder / STAGES).is_dir()
    if not is_ours or not file.is_file():
        return None
    try:
        with file.open("rb") as opened:
            return None if first_sign(opened) == "[" else folder
    except OSError as error:
        raise RequestError(f"{file}: can't be read: {error.strerror}") from error


def find_table(path: Path) -> ReportTable | None:
    """The table or decisions at a path; None where it holds no file made by mmsieve."""
    found = decisions.decision_files(path).values()
    files = tuple(file for file in found if file.suffix == ".parquet")
    headers = list(map_many(tables.read_header, files, is_stored(path)))
    ours = [header for header in headers if header is not None]
    if not ours:
        return None
    kinds = {header.kind for header in ours}
    if len(ours) < len(files) or len(kinds) > 1:
        raise RequestError(f"{path}: holds more than one table: give each by itself")
    return ReportTable(path, kinds.pop(), files, tuple(ours))
