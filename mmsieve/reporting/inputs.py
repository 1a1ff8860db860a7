"""What a report is made from: tables, decisions, metrics, and the sources of their samples.

A shard is named after its file's path below the common parent of all that a verb was given. A
report is given sources of several tables at once, so the common parent, and the names, may be
others: a table's shard is the file whose whole path ends in its name, and which has its size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmsieve import decisions, tables
from mmsieve.errors import RequestError, SampleError
from mmsieve.read import ReadOptions
from mmsieve.read.documents import is_mmc4
from mmsieve.read.instructions import looks_right
from mmsieve.read.json_items import first_sign, line_items, parse_object
from mmsieve.read.layouts import split_files
from mmsieve.sources import Shard, find_files, one_line, path_of
from mmsieve.tables import Header

_MOST_BYTES = 1 << 26
"""No metrics.json is that large."""
_MOST = 1 << 53
"""No number in it either."""


def read_metrics(path: Path) -> list[tuple[str, dict[str, Any]]] | None:
    """Name and numbers of each model of a metrics.json; None for what may hold samples."""
    try:
        if path.suffix.lower() != ".json" or not path.is_file() or _may_hold_samples(path):
            return None
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError("too large")
        values = parse_object(path.read_bytes())
        name, models = path.parent.name or path.name, values.get("models")
        named = {name: values}
        if isinstance(models, dict):
            named = {f"{name}: {each}": one for each, one in models.items()}
        if problem := next(filter(None, map(_problem, named.values())), None):
            raise ValueError(problem)
    except (OSError, SampleError, ValueError) as error:
        what = "neither a metrics.json with the numbers of a model, nor samples"
        raise RequestError(f"{path}: {what} ({one_line(error)})") from error
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
    def sizes(self) -> dict[str, int]:
        """Shard -> bytes of the file that it was read from, 0 where that isn't known."""
        if self.kind == decisions.KIND and self.path.is_file():
            rows = decisions.Decisions(self.path)
            return {shard: rows.source_size(shard) or 0 for shard in rows.shards}
        return {header.shard: header.size for header in self.headers}

    def shares_shards(self, other: "ReportTable") -> bool:
        """Whether both are about samples of a shard: of the same name, and size where known."""
        common = self.sizes.keys() & other.sizes.keys()
        sizes = ({self.sizes[shard], other.sizes[shard]} - {0} for shard in common)
        return any(len(known) <= 1 for known in sizes)


@dataclass(frozen=True)
class Inputs:
    """The inputs of a report by kind; whatever is none of ours is a source of samples."""

    tables: tuple[ReportTable, ...]
    metrics: tuple[tuple[str, dict[str, Any]], ...]
    """Name and content of each metrics.json."""
    sources: tuple[str, ...]


def sort_inputs(inputs: Sequence[str]) -> Inputs:
    """Tell tables, decisions and metrics from sources; raises RequestError where none is ours."""
    found: list[ReportTable] = []
    metrics: list[tuple[str, dict[str, Any]]] = []
    sources: list[str] = []
    for given in inputs:
        path = Path(given)
        if (numbers := read_metrics(path)) is not None:
            metrics += numbers
        elif (table := _table(path)) is not None:
            found.append(table)
        else:
            sources.append(given)
    if not found and not metrics:
        raise RequestError(
            f"nothing to report in {', '.join(inputs) or 'no input'}: give a table made by score, "
            "rate or enhance, decisions made by filter or select, or a metrics.json, and with "
            "them the shards or instruction files for pictures"
        )
    return Inputs(tuple(found), tuple(metrics), tuple(sources))


def _table(path: Path) -> ReportTable | None:
    """The table or decisions at a path; None where it holds no file made by mmsieve."""
    found = decisions.decision_files(path).values()
    files = tuple(file for file in found if file.suffix == ".parquet")
    headers = [tables.read_header(file) for file in files]
    ours = [header for header in headers if header is not None]
    if not ours:
        return None
    kinds = {header.kind for header in ours}
    if len(ours) < len(files) or len(kinds) > 1:
        raise RequestError(f"{path}: holds more than one table: give each by itself")
    return ReportTable(path, kinds.pop(), files, tuple(ours))


class Places:
    """The shards of sources, to be found by a table's names."""

    def __init__(self, sources: Sequence[str], read: ReadOptions) -> None:
        """Raises RequestError for sources that aren't there, or not read."""
        self._shards: dict[str, list[tuple[str, Shard]]] = {}
        """Last part of the name -> whole path without suffix, and shard."""
        for shard in split_files(find_files(sources).files, read):
            last = shard.name.rpartition("/")[2]
            folder = path_of(shard.url).rpartition("/")[0]
            self._shards.setdefault(last, []).append((f"/{folder}/{last}", shard))

    def find(self, name: str, size: int) -> tuple[Shard | None, str]:
        """The shard of a table's name and file size (0: not known), or why there is none."""
        named = self._shards.get(name.rpartition("/")[2], [])
        found = [shard for path, shard in named if path.endswith(f"/{name}")]
        found = [shard for shard in found if shard.size == size] or found
        found = [shard for shard in found if shard.name == name] or found
        if not found:
            return None, f"shard {name!r} of a table is not among the SOURCEs"
        if len(found) > 1:
            return None, f"shard {name!r} of a table may be {found[0].url} or {found[1].url}"
        return found[0], ""
