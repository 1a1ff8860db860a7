"""select: rating tables -> a subset that is rich in every capability and diverse in style."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import polars as pl

from mmsieve.cut.inputs import TableFile, check_out, open_tables
from mmsieve.decisions import KIND, SCHEMA, DecisionWriter, check_replaceable
from mmsieve.errors import MmsieveError, RequestError
from mmsieve.progress import show_progress
from mmsieve.subset.choosing import Choice, choose
from mmsieve.subset.export import check_subset, write_subset
from mmsieve.subset.options import SelectOptions
from mmsieve.subset.rated import Rated
from mmsieve.subset.rating_table import RatingTable
from mmsieve.subset.results import ResultFolder, is_result_folder
from mmsieve.subset.summary import Held, held, printed
from mmsieve.table import Header

__all__ = ["SelectOptions", "SelectReport", "select"]


@dataclass(frozen=True, kw_only=True)
class SelectReport:
    """How a selection went."""

    out: Path
    seconds: float
    rows: int
    kept: int
    above: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)
    """Why rows aren't kept, with their number."""
    capabilities: dict[str, Held] = field(default_factory=dict)
    """Capability -> ratings above `above`, and their mean, in pool and subset."""
    styles: dict[str, Held] = field(default_factory=dict)
    """Style -> samples that have it."""
    notes: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    """Always empty: what can't be read is a wrong request."""

    def summary(self) -> str:
        """What pool and subset hold, the last line with counts, seconds and the output's path."""
        lines = [*self.notes, *printed(self.capabilities, self.styles, self.above)]
        if self.reasons:
            counts = ", ".join(f"{count} {name}" for name, count in sorted(self.reasons.items()))
            lines.append(f"not kept: {counts}")
        lines.append(f"{self.kept} of {self.rows} rows kept in {self.seconds:.1f} s: {self.out}")
        return "\n".join(lines)
