"""select: rating tables -> a subset that is rich in every capability and diverse in style."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from mmsieve.decisions import DecisionRows, check_place, check_replaceable
from mmsieve.errors import MmsieveError, RequestError
from mmsieve.keywords import flat_options
from mmsieve.locks import writing_to
from mmsieve.options import INPUT, OUTPUT, DryRun, Out, Overwrite, Quiet, Wait
from mmsieve.progress import show_progress
from mmsieve.reports import DecisionReport, timed
from mmsieve.runs import note_facts
from mmsieve.selection.choosing import Choice, Held, choose, decide, held, printed
from mmsieve.selection.options import SelectOptions
from mmsieve.selection.pool import RatedSamples, RatingTable
from mmsieve.selection.results import ResultFolder, is_result_folder
from mmsieve.selection.subsets import SubsetRequest, data_files, write_subset
from mmsieve.stores.paths import place_of
from mmsieve.tables import open_tables
from mmsieve.wording import counted

__all__ = ["SelectOptions", "SelectReport", "select"]

_INPUT = Parameter(group=INPUT)


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


@flat_options
@timed
def select(
    table: Annotated[Path, _INPUT],
    *,
    out: Out,
    choice: SelectOptions | None = None,
    data: Annotated[Path | list[Path] | None, _INPUT] = None,
    subset: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    images: Annotated[Path | None, _INPUT] = None,
    with_images: Annotated[bool, Parameter(negative="", group=OUTPUT)] = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    wait: Wait = False,
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
        The instruction files (JSON lists, JSONL, Parquet) whose items were rated; may be repeated.
    subset
        Write the chosen items of --data, as they stand and in their order: into this .json, .jsonl
        or .parquet file, or, if it is a folder, into a file of each one's name there.
    images
        Folder that the image paths of --data are relative to, for --with-images.
    with_images
        Copy the image files that chosen items name, to the same paths below the folder of --subset.
        By default they stay where they are.
    """
    options, out = choice or SelectOptions(), place_of(out)
    asked = list(map(place_of, [] if data is None else data if isinstance(data, list) else [data]))
    files = data_files(asked)
    rated = _rated(place_of(table), out, files, options)
    request = _subset_request(asked, files, subset, images, with_images)
    goal = out if subset is None else place_of(subset)
    names = {"tables": rated.name, "capabilities": ",".join(rated.capabilities)}
    fingerprint = options.fingerprint() | names
    try:
        with (
            writing_to(out, "select", wait=wait, dry_run=dry_run),
            writing_to(goal, "select", wait=wait, dry_run=dry_run or subset is None),
        ):
            note_facts(fingerprint=fingerprint)
            was_there = check_replaceable(out, fingerprint, overwrite)
            if request is not None:
                request.check(overwrite or was_there)
            rows = sum(file.rows for file in rated.files)
            with show_progress("rows", rows, quiet, "rows") as advance:
                chosen = choose(rated, options)
                decided = decide(rated, chosen, fingerprint, advance)
                notes = [*rated.notes, *chosen.notes]
                if dry_run:
                    decided.count()
                    notes.append(f"would keep {decided.kept:,} of {counted(rows, 'rows')}")
                else:
                    decided.write(out)  # first, or a rerun would find a subset of unknown origin
                    notes += [] if request is None else write_subset(rated, chosen.chosen, request)
    except OSError as error:
        raise MmsieveError(f"can't be written: {error}; --out and --subset need room") from error
    if was_there and not dry_run:
        notes.append("made again: the decisions of the same selection that were there")
    made = _report(out, rated, chosen, decided, options.above, notes)
    return replace(made, dry_run=dry_run)


def _report(
    out: Path,
    rated: RatedSamples,
    chosen: Choice,
    decided: DecisionRows,
    above: float,
    notes: Sequence[str],
) -> SelectReport:
    capabilities, styles = held(chosen)
    return SelectReport(
        out=out,
        rows=rated.pool.rows,
        kept=int(chosen.chosen.sum()),
        above=above,
        reasons=dict(decided.reasons),
        capabilities=capabilities,
        styles=styles,
        notes=tuple(notes),
    )


def _subset_request(
    asked: Sequence[Path],
    files: tuple[Path, ...],
    subset: Path | None,
    images: Path | None,
    with_images: bool,
) -> SubsetRequest | None:
    if with_images and subset is None:
        raise RequestError("--with-images: say --subset DIR too, where the chosen items go")
    if subset is None:
        return None
    request = SubsetRequest(files, place_of(subset), tuple(map(str, asked)), with_images, images)
    request.check(overwrite=True)
    return request


def _rated(table: Path, out: Path, data: Sequence[Path], options: SelectOptions) -> RatedSamples:
    options.check()
    check_place(out, [table])
    if is_result_folder(table):
        return ResultFolder(table, data, options)
    (opened,) = open_tables([table])
    return RatingTable(opened, options)
