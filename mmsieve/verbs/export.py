"""export: shards + decisions -> curated tars. Bytes are copied, nothing is decoded."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from mmsieve.decisions import Decisions
from mmsieve.errors import MmsieveError, RequestError
from mmsieve.exporting.items import ITEM_FILES
from mmsieve.exporting.plan import REPACKED, Exporter, ExportPlan, KeptSamples, make_plan
from mmsieve.exporting.samples import FinalCaptions
from mmsieve.exporting.tars import ExportJournal, write_manifest
from mmsieve.locks import writing_to
from mmsieve.options import COMMON, OutputOptions, Positive
from mmsieve.outputs import check_folder, check_names, check_outside, make_folder
from mmsieve.progress import show_progress
from mmsieve.read import ReadOptions
from mmsieve.read.shards import split_files
from mmsieve.reports import Report, timed
from mmsieve.sources import Shard, Sources, find_files

__all__ = ["ExportOptions", "ExportReport", "export"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ExportOptions(OutputOptions):
    """How tars, or files of items, are written."""

    format: Literal["tar", "source"] | None = None
    """tar, or in the form of the source: the kept items of JSON, JSONL and Parquet files as they
    stand, in a file of its name. By default `source` for instruction data, else tar."""
    shard_size: Positive | None = None
    """Samples of an output tar (00000000.tar, ...); by default there is one per source shard, with
    its name. Repacking isn't resumed: where it was interrupted, it starts again."""
    workers: Annotated[Positive, Parameter(group=COMMON)] = 2
    """Shards that are copied at the same time."""
    limit: Annotated[Positive | None, Parameter(group=COMMON)] = None
    """Trial run: export the first so many kept samples."""
    allow_trial: Annotated[bool, Parameter(group=COMMON)] = False
    """Export what decisions about a trial run (--limit) keep: a part of what would be kept."""


@dataclass(frozen=True, kw_only=True)
class ExportReport(Report):
    """How an export went."""

    samples: int = 0
    tars: int = 0
    bytes: int = 0

    def counts(self) -> str:
        """Samples, tars and megabytes, and shards that failed."""
        size = f"{self.bytes / 1e6:.1f} MB"
        return f"{self.samples} samples in {self.tars} tars ({size}){self.failed_shards()}"


@timed
def export(
    *sources: str,
    decisions: Path | None = None,
    captions: Path | None = None,
    out: Path,
    read: ReadOptions | None = None,
    run: ExportOptions | None = None,
) -> ExportReport:
    """Copy the kept samples into tars, in their order, every kept image the same to the byte.

    Members of a tar are copied with their headers; a sample's members come one after the other.
    Samples of Parquet and JSONL files become members of the same layout: KEY.jpg (or what it is),
    KEY.txt and KEY.json for captions, KEY.json and KEY.N.jpg for documents. The same command
    run twice is a resume. manifest.json is written last. A caption is replaced only by --captions:
    then KEY.json has the `original_caption` and its `overall_score`.

    Parameters
    ----------
    sources
        The shards that were scored: paths, globs, brace patterns, folders or URLs.
    decisions
        What filter or select made: a folder, or a .parquet file. Not needed with --captions:
        without it every sample is kept.
    captions
        The table that enhance made: rewritten captions take the place of theirs.
    out
        Folder of the tars.
    """
    out, options = Path(out), run or ExportOptions()
    check_folder(out)
    check_outside(out, sources)
    final = None if captions is None else FinalCaptions(Path(captions))
    chosen: KeptSamples | None = final if decisions is None else Decisions(Path(decisions))
    if chosen is None:
        raise RequestError("nothing to export by: give --decisions, --captions, or both")
    trial = next((one for one in (chosen, final) if one is not None and one.limit), None)
    if trial is not None and not options.allow_trial:
        raise RequestError(
            f"{trial.label}: of a trial run of {trial.limit} samples (--limit): run the whole, "
            "or say --allow-trial"
        )
    found = find_files(sources)
    reading, shards, as_source = _split(found, read or ReadOptions(), options)
    if as_source and final is not None:
        raise RequestError("--captions: rewritten captions go into tars only: say --format tar")
    plan = make_plan(shards, chosen, options.limit, final)
    names = plan.by_file() if as_source else [f"{part.shard.name}.tar" for part in plan.parts]
    check_names(out, names)
    with writing_to(out, "export", wait=options.wait, dry_run=options.dry_run):
        exporter = Exporter(chosen, reading, out, ExportJournal(out), final)
        return _export(exporter, plan, options, found.notes, as_source)


def _split(
    found: Sources, read: ReadOptions, options: ExportOptions
) -> tuple[ReadOptions, list[Shard], bool]:
    """How shards are read, which they are, and whether they are written as they came."""
    if options.format == "source":
        return read, _of_items(split_files(found.files, read)), True
    if options.format is None and all(file.suffix in ITEM_FILES for file in found.files):
        with suppress(RequestError):  # first, as an image and one answer are a caption pair, too
            as_items = replace(read, kinds=("instruction",))
            return as_items, _of_items(split_files(found.files, as_items)), True
    in_tars = replace(read, kinds=("caption", "document"))
    return in_tars, split_files(found.files, in_tars), False


def _of_items(shards: list[Shard]) -> list[Shard]:
    """The shards; raises RequestError for files whose items can't be written as they came."""
    for shard in shards:
        if shard.suffix not in ITEM_FILES or "://" in shard.url:
            kinds = ", ".join(ITEM_FILES)
            raise RequestError(f"{shard.url}: --format source is for local files ({kinds})")
    return shards


def _export(
    exporter: Exporter,
    plan: ExportPlan,
    options: ExportOptions,
    notes: Sequence[str],
    as_source: bool,
) -> ExportReport:
    """Export what isn't there yet; nobody else writes there now."""
    out, journal = exporter.out, exporter.journal
    identities = plan.identities(options.shard_size, as_source)
    journal.check(identities, options.overwrite)
    done = set() if options.overwrite else set(filter(journal.is_done, identities))
    notes = [*notes, *([f"resumed: {len(done)} shards were exported before"] if done else [])]
    if options.dry_run:
        notes += _preview(plan, done, options)
        return ExportReport(out=out, failed=plan.failed, notes=tuple(notes))
    failed = plan.failed | _write(exporter, plan, done, options, as_source)
    tars = [tar for unit in identities for tar in journal.entries[unit].tars]
    limit = options.limit or exporter.trial
    write_manifest(out, tars, failed, limit)
    return ExportReport(
        out=out,
        samples=sum(tar.samples for tar in tars),
        tars=len(tars),
        bytes=sum(tar.bytes for tar in tars),
        failed=failed,
        notes=tuple(notes),
    )


def _preview(plan: ExportPlan, done: set[str], options: ExportOptions) -> list[str]:
    lines = []
    for part in plan.parts:
        state = "done " if done & {REPACKED, part.shard.name} else "to do"
        lines.append(f"{state} {part.shard.name}: {part.count} samples")
    into = "" if options.shard_size is None else f" into tars of {options.shard_size}"
    return [*lines, f"dry run: {plan.kept} samples would be exported{into}, nothing was written"]


def _write(
    exporter: Exporter, plan: ExportPlan, done: set[str], options: ExportOptions, as_source: bool
) -> dict[str, str]:
    """Write what isn't done; returns what failed of which shard."""
    files = {name: parts for name, parts in plan.by_file().items() if name not in done}
    parts = [part for part in plan.parts if not done & {REPACKED, part.shard.name}]
    if as_source:
        parts = [part for own in files.values() for part in own]
    is_repacked = options.shard_size is not None and not as_source
    try:
        make_folder(exporter.out)
        if options.overwrite or (is_repacked and parts):
            exporter.journal.clear()
        exporter.journal.begin()
        size = sum(part.shard.size for part in parts)
        with show_progress("samples", size, options.quiet) as advance:
            identities = plan.identities(options.shard_size, as_source)
            if as_source:
                exporter.copy_items(files, identities, advance)
            elif options.shard_size is None:
                return exporter.mirror(parts, options.workers, advance)
            elif parts:
                identity = identities[REPACKED]
                return exporter.repack(parts, options.shard_size, identity, advance)
    except OSError as error:
        raise MmsieveError(f"--out {exporter.out}: can't be written: {error}") from error
    return {}
