"""What a report is made from: tables, decisions and metrics, told apart by what is in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mmsieve import decisions, table
from mmsieve.errors import RequestError
from mmsieve.page.metrics import read_metrics
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

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Shard -> bytes of the file that it was read from, 0 where that isn't known."""
        if self.kind == decisions.KIND and self.path.is_file():
            made = decisions.Decisions(self.path)
            return {shard: made.source_size(shard) or 0 for shard in made.shards}
        return {header.shard: header.size for header in self.headers}

    def shares_shards(self, other: "Judged") -> bool:
        """Whether both are about samples of a shard: of the same name, and size where known."""
        common = self.sizes.keys() & other.sizes.keys()
        sizes = ({self.sizes[shard], other.sizes[shard]} - {0} for shard in common)
        return any(len(known) <= 1 for known in sizes)


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
        if (numbers := read_metrics(path)) is not None:
            metrics += numbers
        elif (found := _judged(path)) is not None:
            judged.append(found)
        else:
            sources.append(given)
    if not judged and not metrics:
        raise RequestError(
            f"nothing to report in {', '.join(inputs) or 'no input'}: give a table made by score, "
            "rate or enhance, decisions made by filter or select, or a metrics.json, and with "
            "them the shards or instruction files for pictures"
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
