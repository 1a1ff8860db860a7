"""select: rating tables -> a subset that is rich in every capability and diverse in style."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from mmsieve.decisions import KIND, SCHEMA, DecisionWriter, check_place, check_replaceable
from mmsieve.errors import MmsieveError
from mmsieve.filtering.request import Advance
from mmsieve.options import DryRun, Overwrite, Quiet
from mmsieve.progress import show_progress
from mmsieve.reports import DecisionReport, timed
from mmsieve.selection.choosing import (
    Choice,
    Held,
    check_subset,
    choose,
    held,
    printed,
    write_subset,
)
from mmsieve.selection.options import SelectOptions
from mmsieve.selection.pool import Origins, Rated, RatingTable
from mmsieve.selection.results import ResultFolder, is_result_folder
from mmsieve.tables import Header, TableFile, open_tables, product_version

__all__ = ["SelectOptions", "SelectReport", "select"]


@dataclass(frozen=True, kw_only=True)
class SelectReport(DecisionReport):
    """How a selection went."""

    above: float = 0.0
    capabilities: dict[str, Held] = field(default_factory=dict)
    """Capability -> ratings above `above`, and their mean, in pool and subset."""
    styles: dict[str, Held] = field(default_factory=dict)
    """Style -> samples that have it."""

    def lines(self) -> list[str]:
        """Notes, what pool and subset hold, and why rows are not kept."""
        held = printed(self.capabilities, self.styles, self.above)
        return [*self.notes, *held, *self.not_kept()]


@timed
def select(
    table: Path,
    *,
    out: Path,
    choice: SelectOptions | None = None,
    data: Path | None = None,
    subset: Path | None = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> SelectReport:
    """Choose a subset of rated samples: rich in every capability, diverse in style and source.

    The published mmSSR selection, to the sample, made the same everywhere: ties are broken by the
    order of rows, whatever the cut into files. It never exceeds the budget; a budget that can't be
    met is met as far as possible.

    Parameters
    ----------
    table
        Ratings: a folder of tables, a Parquet file, or a folder of the published code's JSONL
        result files (with --data for the image sources).
    out
        Folder of the decisions, one file per shard; or one file, if it ends in .parquet.
    data
        The instruction file (JSON list or JSONL) whose items were rated.
    subset
        Write the chosen items of --data into this JSON file, as they stand and in their order.
    """
    options = choice or SelectOptions()
    rated = _rated(Path(table), Path(out), data, options)
    fingerprint = options.fingerprint() | {
        "tables": rated.name,
        "capabilities": ",".join(rated.capabilities),
    }
    was_there = check_replaceable(Path(out), fingerprint, overwrite)
    check_subset(data, subset, overwrite or was_there)
    try:
        with show_progress("rows", sum(f.rows for f in rated.files), quiet, "rows") as advance:
            chosen = choose(rated, options)
            decided = _Decided(rated, chosen, fingerprint, advance)
            notes = [*rated.notes, *chosen.notes]
            if dry_run:
                decided.count()
                notes.append("dry run: nothing was written")
            else:
                if subset is not None and data is not None:
                    notes += write_subset(rated, chosen, data, subset)
                decided.write(Path(out))
    except OSError as error:
        raise MmsieveError(f"can't be written: {error}; --out and --subset need room") from error
    if was_there and not dry_run:
        notes.append("made again: the decisions of the same selection that were there")
    capabilities, styles = held(chosen)
    return SelectReport(
        out=Path(out),
        rows=rated.pool.rows,
        kept=int(chosen.chosen.sum()),
        above=options.above,
        reasons=dict(decided.reasons),
        capabilities=capabilities,
        styles=styles,
        notes=tuple(notes),
    )


def _rated(table: Path, out: Path, data: Path | None, options: SelectOptions) -> Rated:
    """Check the request and open what it names; rows are read later."""
    options.check()
    check_place(out, [table])
    if is_result_folder(table):
        return ResultFolder(table, data, options)
    (opened,) = open_tables([table])
    return RatingTable(opened, options)


class _Decided:
    """Each row's decision, and what is counted on the way."""

    def __init__(
        self, rated: Rated, choice: Choice, fingerprint: dict[str, str], advance: Advance
    ) -> None:
        self._rated = rated
        self._choice = choice
        self._fingerprint = fingerprint
        self._advance = advance
        self.reasons: Counter[str] = Counter()

    def count(self) -> None:
        """Count without writing."""
        for _ in self._rows():
            pass

    def write(self, out: Path) -> None:
        """Write the decisions."""
        with DecisionWriter(out, self._header) as writer:
            for origins, rows in self._rows():
                writer.add_all(origins, rows.select(SCHEMA.names))
            writer.finish()

    def _rows(self) -> Iterator[tuple[Origins, pl.DataFrame]]:
        row = 0
        for origins, named in self._rated.named():
            decided = self._choice.decisions(row, row + named.height)
            row += named.height
            self.reasons.update(dict(decided["reason"].drop_nulls().value_counts().iter_rows()))
            self._advance(named.height, named.height)
            yield origins, named.hstack(decided)

    def _header(self, source: TableFile | None, name: str, rows: int, kept: int) -> Header:
        """The header of a decision file: that of one shard, or of all (None)."""
        files = self._rated.files if source is None else [source]
        return Header(
            kind=KIND,
            version=product_version(),
            shard=name,
            size=0 if source is None else source.size,
            rows=rows,
            complete=all(file.complete for file in files),
            fingerprint=self._fingerprint,
            notes={"kept": str(kept), "budget": str(self._choice.budget)},
        )
