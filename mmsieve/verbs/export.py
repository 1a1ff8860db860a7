"""export: shards + decisions -> what is kept, in tars, Parquet or as it came. Bytes are copied."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from mmsieve.decisions import Decisions
from mmsieve.engine.ray import RayEngine
from mmsieve.errors import MmsieveError, RequestError, ShardError
from mmsieve.exporting.captions import FinalCaptions
from mmsieve.exporting.cluster import mirror_on_ray
from mmsieve.exporting.exporter import Exporter
from mmsieve.exporting.hub import UNKNOWN, Card, HubDataset, Licences, command_of, sources_of
from mmsieve.exporting.items import ALL_ITEM_FILES
from mmsieve.exporting.pictures import ImageCopies, image_folders, write_manifests_again
from mmsieve.exporting.plan import REPACKED, ExportPlan, Form, KeptSamples, make_plan
from mmsieve.exporting.samples import NOT_OF_PAIRS, ImageNames
from mmsieve.exporting.saved import save_again
from mmsieve.exporting.tars import ExportJournal, digest, write_manifest
from mmsieve.keywords import flat_options
from mmsieve.locks import writing_to
from mmsieve.options import COMMON, OUTPUT, ClusterOptions, Out, Positive, own
from mmsieve.outputs import check_folder, check_names, check_outside, make_folder
from mmsieve.patience import Patience
from mmsieve.progress import show_progress
from mmsieve.read import ReadOptions
from mmsieve.read.layouts import TABLES
from mmsieve.read.shards import open_shard, split_files
from mmsieve.reports import Report, timed
from mmsieve.runs import note_facts
from mmsieve.sources import FOLDER, TAR, Shard, Sources, find_files
from mmsieve.stores.paths import as_path, is_stored, place_of
from mmsieve.wording import counted, resumed

__all__ = ["ExportOptions", "ExportReport", "export"]

_KEPT = Parameter(group=own("What is kept"))
_ANY = (*TAR, *ALL_ITEM_FILES)
_COPIED: dict[Form, tuple[str, ...]] = {"tar": TAR, "parquet": TABLES, "source": _ANY}
"""Form -> what comes out in it as it came; anything else is read as samples first."""


@Parameter(name="*", group=OUTPUT)
@dataclass(frozen=True, kw_only=True)
class ExportOptions(ClusterOptions):
    """How files are written."""

    format: Form | None = None
    """tar; parquet (rows as they came, or an image and its caption, or a document, a row); source:
    the kept items or rows as they stand, in a file of each source's name. By default `source` for
    instruction data, else tar."""
    image_names: str | None = None
    """One extension for the images of all caption pairs (jpg), whatever format they are of, as some
    loaders want it: their bytes stay."""
    reencode: Annotated[bool, Parameter(negative="")] = False
    """With --image-names: images of another format are made anew in that of their name (jpg, png,
    webp), without metadata."""
    with_images: Annotated[bool, Parameter(negative="")] = False
    """With --format source: copy the image files that kept items name, to the same paths below
    --out. By default they stay where they are."""
    shard_size: Positive | None = None
    """Samples of an output tar (00000000.tar, ...); by default there is one per source shard, with
    its name. Repacking isn't resumed: where it was interrupted, it starts again."""
    workers: Annotated[Positive, Parameter(group=COMMON)] = 2
    """Shards that are copied at the same time; with --engine ray as many as it has CPUs."""
    limit: Annotated[Positive | None, Parameter(group=COMMON)] = None
    """Trial run: export the first so many kept samples."""
    license: tuple[str, ...] | None = None
    """For the card of --out hf://: the licence of all sources, or SOURCE=LICENCE, of those whose
    address begins so; may be repeated. By default that of a hub source's own card."""
    allow_trial: Annotated[bool, Parameter(group=COMMON)] = False
    """Export what decisions about a trial run (--limit) keep: a part of what would be kept."""


@dataclass(frozen=True, kw_only=True)
class ExportReport(Report):
    """How an export went."""

    samples: int = 0
    tars: int = 0
    """Files, whatever their form."""
    bytes: int = 0
    form: Form = "tar"

    def counts(self) -> str:
        """Samples, files and megabytes, and shards that failed."""
        size = f"{self.bytes / 1e6:.1f} MB"
        files = f"{counted(self.tars, 'tars' if self.form == 'tar' else 'files')} ({size})"
        return f"{counted(self.samples, 'samples')} in {files}{self.failed_shards()}"


@flat_options
@timed
def export(
    *sources: str,
    decisions: Annotated[Path | None, _KEPT] = None,
    captions: Annotated[Path | None, _KEPT] = None,
    out: Out,
    read: ReadOptions | None = None,
    run: ExportOptions | None = None,
) -> ExportReport:
    """Copy the kept samples, in their order, every kept image the same to the byte.

    Members of a tar are copied with their headers; a sample's members come one after the other.
    Samples of Parquet and JSONL files become members of the same layout: KEY.jpg (or what it is),
    KEY.txt and KEY.json for captions, KEY.json and KEY.N.jpg for documents; with --format, rows or
    items. The same command run twice is a resume. manifest.json is written last. A caption is
    replaced only by --captions: then KEY.json, or the item or row, has the `original_caption` and
    its `overall_score`, too.

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
        Folder of what is written; hf://datasets/OWNER/NAME: a data set repository with a card.
    """
    place, options = place_of(out), run or ExportOptions()
    asked = _Request(sources, decisions, captions, read or ReadOptions(), options)
    if is_stored(place) and place.protocol == "hf":
        if options.engine == "ray":
            raise RequestError(f"--out {place}: is made on this machine: leave out --engine ray")
        return _export_to_hub(asked, HubDataset(place))
    if options.license is not None:
        raise RequestError("--license: is for the card of --out hf://datasets/OWNER/NAME")
    return asked.carry_out(place)[0]


@dataclass(frozen=True)
class _Request:
    """What is exported, and how."""

    sources: Sequence[str]
    decisions: Path | None
    captions: Path | None
    read: ReadOptions
    options: ExportOptions

    def carry_out(self, out: Path) -> tuple[ExportReport, ExportPlan, KeptSamples]:
        """Export to a folder; returns what it was made by, too."""
        options = self.options
        if options.engine == "ray" and options.shard_size is not None:
            raise RequestError(
                "--shard-size: numbered tars are written one after another: leave out --engine ray"
            )
        check_folder(out)
        check_outside(out, self.sources)
        final = None if self.captions is None else FinalCaptions(place_of(self.captions))
        chosen: KeptSamples | None = (
            final if self.decisions is None else Decisions(place_of(self.decisions))
        )
        if chosen is None:
            raise RequestError("nothing to export by: give --decisions, --captions, or both")
        trial = next((one for one in (chosen, final) if one is not None and one.limit), None)
        if trial is not None and not options.allow_trial:
            raise RequestError(
                f"{trial.label}: of a trial run of {counted(trial.limit or 0, 'samples')} "
                "(--limit): run the whole, or say --allow-trial"
            )
        found = find_files(self.sources)
        form, reading, shards = _split(found, self.read, options, final is not None)
        names = _check_form(form, shards, reading, options, chosen)
        ray = None
        if options.engine == "ray" and not options.dry_run:
            ray = RayEngine(options.ray_address, None, Patience(options.patience))
        words = (*names.words, *(("--with-images",) if options.with_images else ()))
        plan = make_plan(shards, chosen, options.limit, final, form, words)
        check_names(out, [file.name for file in plan.files])
        with writing_to(out, "export", wait=options.wait, dry_run=options.dry_run):
            pictures = ImageCopies(out) if options.with_images else None
            folders = image_folders([part.shard for part in plan.parts], reading, out)
            journal = ExportJournal(out)
            exporter = Exporter(chosen, reading, out, journal, final, names, pictures, folders)
            report = _Work(exporter, journal, plan, options, ray).carry_out(found.notes)
            if options.dry_run:
                return report, plan, chosen
            written = _written(plan, exporter)
            notes = [] if pictures is None else pictures.notes()
            notes += write_manifests_again(self.sources, out, written)
            save_again(out, {url: name for url, (name, _) in written.items()}, final is not None)
            return replace(report, notes=(*report.notes, *notes)), plan, chosen


def _export_to_hub(asked: _Request, hub: HubDataset) -> ExportReport:
    """Export to a folder here, describe it, upload it; a part of what was asked for isn't."""
    options = asked.options
    before = hub.check(options.overwrite)
    report, plan, chosen = asked.carry_out(hub.work)
    report = replace(report, out=as_path(hub.out))
    if options.dry_run:
        return report
    if report.failed:
        return replace(report, notes=(*report.notes, "not uploaded: a part of it failed"))
    samples, licences = sources_of(plan, Licences(options.license or ()))
    card = Card(
        title=hub.name.rpartition("/")[2],
        command=command_of(asked.sources, _words(asked, hub)),
        fingerprint=digest(sorted(plan.identities(options.shard_size).values())),
        settings=chosen.fingerprint,
        samples=report.samples,
        files=report.tars,
        bytes=report.bytes,
        sources=samples,
        licences=licences,
    )
    card.write(hub.work)
    is_private = hub.upload(hub.work, before)
    hub.clear()
    new = ("the repository is private: who may read it is set on the hub",) if is_private else ()
    unknown = [source for source, licence in licences.items() if licence == UNKNOWN]
    said = (f"the card has no licence of {', '.join(unknown)}: say --license",) if unknown else ()
    return replace(report, notes=(*report.notes, *new, *said))


def _words(asked: _Request, hub: HubDataset) -> dict[str, object]:
    """The options that were given, as far as they say what is in an export."""
    own = {one.name: getattr(asked.options, one.name) for one in fields(asked.options)}
    usual = {one.name: one.default for one in fields(asked.options)}
    how = ("quiet", "wait", "overwrite", "workers", "license", "patience")
    given = {n: v for n, v in own.items() if v != usual[n] and n not in how}
    named = {"decisions": asked.decisions, "captions": asked.captions}
    return {**{n: v for n, v in named.items() if v is not None}, **given, "out": hub.out}


def _split(
    found: Sources, read: ReadOptions, options: ExportOptions, has_captions: bool
) -> tuple[Form, ReadOptions, list[Shard]]:
    """The form in which samples are written, how shards are read, and which they are."""
    form = options.format
    pairs = replace(read, kinds=("caption", "document"))
    if form is None:
        form, items = "tar", replace(read, kinds=("instruction",), places_only=True)
        if all(file.suffix in ALL_ITEM_FILES for file in found.files):
            with suppress(RequestError):  # first, as an image and one answer are a caption, too
                shards, form = split_files(found.files, items), "source"
        if form == "source" and not has_captions:
            if options.with_images:  # their folder has to be known
                items = replace(items, places_only=False)
                shards = split_files(found.files, items)
            return form, items, shards
    as_it_is = not has_captions and all(file.suffix in _COPIED[form] for file in found.files)
    places_only = not options.with_images
    reading = replace(read, places_only=places_only) if as_it_is else pairs
    return form, reading, split_files(found.files, reading)


def _check_form(
    form: Form,
    shards: Sequence[Shard],
    read: ReadOptions,
    options: ExportOptions,
    chosen: KeptSamples,
) -> ImageNames:
    """Raise RequestError where shards can't be written as asked; returns what images are called."""
    other = next((shard for shard in shards if shard.suffix not in _COPIED[form]), None)
    if other is not None and isinstance(chosen, Decisions) and chosen.about == "ratings":
        raise RequestError(  # some could be read as captions, without their questions
            f"{chosen.label}: is about ratings of instruction samples, and those of {other.url} go "
            f"into no --format {form}: say --format source"
        )
    names = ImageNames(options.image_names, options.reencode)
    names.check()
    if form != "tar" and options.shard_size is not None:
        raise RequestError(f"--shard-size: is for tars, and not for --format {form}")
    if form == "source" and any(shard.suffix == FOLDER for shard in shards):
        raise RequestError("a folder of image files comes out in --format tar or parquet")
    copied = ALL_ITEM_FILES if form == "source" else TABLES if form == "parquet" else ()
    if options.with_images and any(shard.suffix not in copied for shard in shards):
        raise RequestError("--with-images: is for items that name files: say --format source")
    if names.extension is None:
        return names
    if any(shard.suffix in copied for shard in shards):
        raise RequestError(
            f"--image-names: --format {form} leaves rows and items as they came: say --format tar"
        )
    for shard in [shard for shard in shards if shard.suffix in TAR][:1]:
        with suppress(ShardError), open_shard(shard, read) as reader:
            if form != "parquet" and reader.layout != "captions":
                raise RequestError(NOT_OF_PAIRS)
    return names


@dataclass(frozen=True)
class _Work:
    """What is to be written, by what; nobody else writes there now."""

    exporter: Exporter
    journal: ExportJournal
    plan: ExportPlan
    options: ExportOptions
    ray: RayEngine | None

    def carry_out(self, notes: Sequence[str]) -> ExportReport:
        """Export what isn't there yet."""
        out, options, plan, journal = self.exporter.out, self.options, self.plan, self.journal
        identities = plan.identities(options.shard_size)
        journal.check(identities, options.overwrite)
        done = set() if options.overwrite else set(filter(journal.is_done, identities))
        whole = digest(sorted(identities.values()))
        counts = {"shards": len(identities), "shards_before": len(done)}
        note_facts(fingerprint={"kept samples": whole}, **counts)
        notes = [*notes, *([resumed(len(done), "exported")] if done else [])]
        if options.dry_run:
            notes += _preview(plan, done, options)
            return ExportReport(out=out, dry_run=True, failed=plan.failed, notes=tuple(notes))
        failed = plan.failed | self._write(done)
        tars = [tar for unit in identities for tar in journal.entries[unit].tars]
        write_manifest(out, tars, failed, options.limit or self.exporter.trial)
        return ExportReport(
            out=out,
            samples=sum(tar.samples for tar in tars),
            tars=len(tars),
            bytes=sum(tar.bytes for tar in tars),
            failed=failed,
            notes=tuple(notes),
            form=plan.form,
        )

    def _write(self, done: set[str]) -> dict[str, str]:
        """Write what isn't done; returns what failed of which shard."""
        exporter, options = self.exporter, self.options
        files = [file for file in self.plan.files if not done & {REPACKED, file.unit}]
        identities = self.plan.identities(options.shard_size)
        try:
            make_folder(exporter.out)
            if options.overwrite or (options.shard_size is not None and files):
                self.journal.clear()
            self.journal.begin()
            size = sum(file.size for file in files)
            with show_progress("samples", size, options.quiet) as advance:
                if options.shard_size is None:
                    asked = [(file, identities[file.unit]) for file in files]
                    if self.ray is not None:
                        return mirror_on_ray(exporter, asked, self.ray, advance)
                    return exporter.mirror(asked, options.workers, advance)
                if files:
                    identity = identities[REPACKED]
                    return exporter.repack(self.plan, options.shard_size, identity, advance)
        except OSError as error:
            raise MmsieveError(f"--out {exporter.out}: can't be written: {error}") from error
        return {}


def _written(plan: ExportPlan, exporter: Exporter) -> dict[str, tuple[str, str | None]]:
    """Source file of items -> what was written of it, and where its images are, if copied."""
    copies = exporter.pictures is not None
    found = {}
    for file in plan.files:
        url = file.parts[0].shard.url
        folder = exporter.folders.get(url, exporter.out)
        if file.way == "items" and (exporter.out / file.name).exists():
            found[url] = (file.name, str(folder.relative_to(exporter.out)) if copies else None)
    return found


def _preview(plan: ExportPlan, done: set[str], options: ExportOptions) -> list[str]:
    lines = []
    for file in plan.files:
        state = "done " if done & {REPACKED, file.unit} else "to do"
        lines.append(f"{state} {file.unit}: {counted(file.count, 'samples')}")
    into = "" if options.shard_size is None else f" into tars of {options.shard_size:,}"
    return [*lines, f"would export {counted(plan.kept, 'samples')}{into}"]
