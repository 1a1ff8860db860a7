"""filter: tables -> decisions. Nothing but tables is read, so a cut takes seconds."""

import filecmp
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import duckdb
from cyclopts import Parameter

from mmsieve.decisions import check_place, check_replaceable
from mmsieve.errors import MmsieveError, RequestError
from mmsieve.filtering.decide import Database, FilterDecisions, Ties, write_uids
from mmsieve.filtering.request import CutOptions, FilterPlan
from mmsieve.keywords import flat_options
from mmsieve.leftovers import scratch_folder
from mmsieve.locks import writing_to
from mmsieve.options import OUTPUT, DryRun, Out, Overwrite, Quiet, Wait
from mmsieve.outputs import check_apart, check_file, made_otherwise, write_atomically
from mmsieve.progress import show_progress
from mmsieve.reports import DecisionReport, timed
from mmsieve.runs import note_facts
from mmsieve.stores.folders import as_local
from mmsieve.stores.paths import place_of
from mmsieve.tables import notes_of_unfinished, open_tables
from mmsieve.wording import counted

__all__ = ["CutOptions", "FilterReport", "filter"]

_SHOWN_GROUPS = 20


@dataclass(frozen=True, kw_only=True)
class FilterReport(DecisionReport):
    """How a cut went."""

    threshold: float | None = None
    """The lowest score that is kept, where there is one cut by rank."""
    groups: dict[str, tuple[int, int]] = field(default_factory=dict)
    """With --per: group -> kept and scored rows."""
    ties: Ties | None = None
    """Of a cut by rank: how far the scores told the rows apart."""

    def lines(self) -> list[str]:
        """Notes, the largest groups, the lowest score that is kept, and why others are not."""
        lines = list(self.notes)
        largest = sorted(self.groups.items(), key=lambda group: (-group[1][1], group[0]))
        lines += [f"{name}: {k:,} of {n:,} kept" for name, (k, n) in largest[:_SHOWN_GROUPS]]
        if len(largest) > _SHOWN_GROUPS:
            lines.append(f"... and {counted(len(largest) - _SHOWN_GROUPS, 'more groups')}")
        if self.threshold is not None:
            lines.append(f"lowest score kept: {self.threshold:g}")
        if self.ties is not None and self.ties.tied:
            lines.append(
                f"tied at the cut: {self.ties.tied:,} rows have the lowest score kept, of which a "
                f"hash of their keys kept {self.ties.kept:,} ({self.ties.distinct:,} different "
                "scores in all)"
            )
        return [*lines, *self.not_kept()]


@flat_options
@timed
def filter(
    *tables: str,
    out: Out,
    cut: CutOptions | None = None,
    format: Annotated[Literal["parquet", "datacomp"], Parameter(group=OUTPUT)] = "parquet",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    wait: Wait = False,
) -> FilterReport:
    """Decide which samples of one or more tables are kept.

    The rows are those of the first table; the others add columns. Rows that aren't ok in one of
    the tables are never kept. Samples with the same score at the cut are told apart by a hash of
    their keys, so the same tables give the same decisions whatever the order of their files.

    Parameters
    ----------
    tables
        Folders of tables, or Parquet files.
    out
        Folder of the decisions, one file per shard; or one file, if it ends in .parquet. With
        --format datacomp the .npy file of kept uids.
    format
        parquet: key, shard, keep, reason and score of every row. datacomp: DataComp's subset file.
    """
    out, is_uids = place_of(out), format == "datacomp"
    plan, found = _plan(tables, cut or CutOptions(), out, is_uids)
    try:
        with (
            writing_to(out, "filter", wait=wait, dry_run=dry_run),
            show_progress("rows", 2 * plan.first.rows, quiet) as advance,
            scratch_folder() as folder,
            closing(Database(folder)) as database,
        ):
            note_facts(fingerprint=plan.fingerprint)
            was_there = not is_uids and check_replaceable(out, plan.fingerprint, overwrite)
            decided = FilterDecisions(plan, database, advance)
            if dry_run:
                decided.count()
            elif is_uids:
                made = folder / "uids.npy"
                write_uids(decided, database, made)
                _replace(out, made, overwrite)
            else:
                decided.write(out)
    except (OSError, duckdb.Error) as error:
        reason = str(error).partition("\n")[0]  # DuckDB's further lines are about its settings
        raise MmsieveError(
            f"can't be written: {reason}; --out and the temporary folder (TMPDIR, about 100 bytes "
            "a row) need room"
        ) from error
    notes = [*found, *notes_of_unfinished(plan.joined.tables), *decided.notes]
    if dry_run:
        notes.append(f"would keep {decided.kept:,} of {counted(plan.first.rows, 'rows')}")
    elif was_there:
        notes.append("made again: the decisions of the same cut that were there")
    return FilterReport(
        out=out,
        rows=plan.first.rows,
        kept=decided.kept,
        reasons=dict(decided.reasons),
        threshold=decided.threshold,
        groups=decided.groups,
        ties=decided.ties if plan.options.is_ranked else None,
        dry_run=dry_run,
        notes=tuple(notes),
    )


def _plan(
    tables: Sequence[str], options: CutOptions, out: Path, is_uids: bool
) -> tuple[FilterPlan, list[str]]:
    """The plan, and notes on how its cut was found."""
    options.check()
    if is_uids != (out.suffix == ".npy"):
        raise RequestError(f"--out {out}: --format datacomp, and only it, writes a .npy file")
    if is_uids:
        check_file(out, "a file of uids", _is_array)
    else:
        check_place(out, [])
    opened = open_tables(tables)
    check_apart(out, [each.path for each in opened])
    found = []
    if options.min_precision is not None:
        from mmsieve.auditing.cut import cut_of_labels  # which other cuts needn't wait for

        one = cut_of_labels(tables, options)
        options = replace(options, min_score=one.threshold)
        found.append(
            f"--min-score {one.threshold:g} by the labels: precision {one.precision}, "
            f"recall {one.recall}"
        )
    return FilterPlan(options, opened, needs_uid=is_uids), found


def _is_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6) == b"\x93NUMPY"


def _replace(out: Path, made: Path, overwrite: bool) -> None:
    if out.exists() and not overwrite:
        with as_local(out) as before:
            if not filecmp.cmp(made, before, shallow=False):
                raise made_otherwise(out, ["choice of samples"])
    write_atomically(out, lambda temporary: shutil.copyfile(made, temporary))
