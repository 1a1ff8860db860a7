"""Run an annotator over sources: plan (sources, resume, trial runs), engine, report."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Protocol, TypeAlias

from cyclopts import Parameter

from mmsieve import tables
from mmsieve.clients.answers import KeptAnswers
from mmsieve.devices import count_cores, count_processes, resolve_device
from mmsieve.engine.annotator import Annotator, Device, RunnerOptions, check, estimate_memory
from mmsieve.engine.job import ShardJob, ShardReport, ShardWorker, recorded
from mmsieve.engine.notebook import FirstRows
from mmsieve.engine.preflight import check_first_samples
from mmsieve.engine.processes import run_in_processes
from mmsieve.engine.ray import RayEngine
from mmsieve.engine.resume import not_done, settle_names
from mmsieve.errors import RequestError, ShardError, Status
from mmsieve.locks import writing_to
from mmsieve.options import COMMON, RUN, BatchTokens, ClusterOptions, Limit, NotNegative, Positive
from mmsieve.outputs import check_folder, check_names, check_outside, make_folder
from mmsieve.patience import Patience
from mmsieve.progress import Progress, show_progress
from mmsieve.read import ReadOptions, SampleLimits
from mmsieve.read.shards import open_shard, split_files
from mmsieve.reports import NOTHING, Report, commonest_reasons, count_words
from mmsieve.runs import note_facts
from mmsieve.sources import Shard, find_files, take_part
from mmsieve.wording import counted, resumed

_MOST_WORKERS = 16


@Parameter(name="*", group=RUN)
@dataclass(frozen=True, kw_only=True)
class RunOptions(ClusterOptions):
    """How a run is carried out; nothing here changes a number in the table, but for the limits."""

    workers: Annotated[NotNegative | None, Parameter(group=COMMON)] = None
    """Processes that prepare data, of each device (0: its own does it). With Ray: CPUs of an
    actor."""
    devices: Annotated[Positive | None, Parameter(group=COMMON)] = None
    """How many devices compute at once, a process each: by default all GPUs, unless --device names
    one; with --device cpu so many processes share the cores."""
    batch_tokens: BatchTokens = None
    limit: Limit = None
    part: str | None = None
    """I/N: only every N-th shard from the I-th (from 0), for job arrays."""
    keep_metadata: bool = False
    """Add a column `metadata`: each sample's metadata as JSON."""
    limits: SampleLimits = field(default_factory=SampleLimits)
    """Beyond these a sample isn't looked at."""


Engine: TypeAlias = Callable[[ShardJob, Sequence[Shard], Progress], Iterator[ShardReport]]
"""Does a job's shards: a report of each, as they end."""


class Sidecars(Protocol):
    """What a verb writes beside the sources, of tables that are whole."""

    def check(self, job: ShardJob, shards: Sequence[Shard]) -> None:
        """Raise RequestError for what can't be written, before a model is loaded."""

    def write(self, job: ShardJob, shards: Sequence[Shard]) -> list[str]:
        """Write what is not there yet; what the user should know of it."""


def run_locally(
    job: ShardJob, shards: Sequence[Shard], progress: Progress, processes: int, workers: int | None
) -> Iterator[ShardReport]:
    """A report per shard: on this machine's devices, samples prepared in worker processes."""
    processes = min(processes, len(shards))
    if workers is None:  # enough to keep a GPU fed; one where the model needs the CPU itself
        most = max(1, min(count_cores() // processes, _MOST_WORKERS))
        workers = 1 if job.runner.device == "cpu" else most
    if processes > 1:
        yield from run_in_processes(job, shards, processes, workers, progress)
        return
    progress.phase("loading the model")
    with closing(ShardWorker(job, workers, progress)) as worker:
        progress.phase("samples")
        yield from worker.run(shards)


@dataclass(frozen=True, kw_only=True)
class RunReport(Report):
    """How a run went."""

    shards: int = 0
    rows: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    """Status -> key and reason of a sample that has it."""
    first: FirstRows | None = field(default=None, repr=False, compare=False)
    """What a notebook shows beside the counts; None where nothing is there to be shown."""

    def html(self) -> str:
        """The summary, and the first samples with their rows."""
        rows = self.first.html() if self.first and self.first.file.is_file() else ""
        return super().html() + rows

    @property
    def achieved_nothing(self) -> bool:
        """Whether there were samples, and not one row is ok."""
        return self.rows > 0 and not self.statuses.get(Status.OK)

    def lines(self) -> list[str]:
        """Notes, and the commonest reasons why rows aren't ok, with an example each."""
        return [*self.notes, *commonest_reasons(self.statuses, self.examples)]

    def counts(self) -> str:
        """Rows by status, and shards that failed."""
        if not self.shards:
            return NOTHING
        statuses = count_words(self.statuses) or "none"
        shards = counted(self.shards, "shards")
        return f"{counted(self.rows, 'rows')} of {shards} ({statuses}){self.failed_shards()}"


def run_annotator(
    make: Callable[[Device], Annotator],
    sources: Sequence[str],
    out: Path,
    *,
    device: str,
    read: ReadOptions,
    run: RunOptions,
    sidecars: Sidecars | None = None,
) -> RunReport:
    """Annotate all samples of the sources into a table; finished shards are not done again.

    `make` gives the annotator for a device, which only the engine can tell. `sidecars` are written
    when the tables are.
    """
    if run.devices is not None and run.engine == "ray":
        raise RequestError(
            "--devices is for --engine local: on Ray an actor takes each that is free"
        )
    take_part([], run.part)  # refused before anything slow is begun
    check_folder(out)
    check_outside(out, sources)
    found = find_files(sources)
    everything = split_files(found.files, read)
    ray = None
    if run.engine == "ray":
        ray = RayEngine(run.ray_address, run.workers, Patience(run.patience))
    asked, device = device, ray.device(device) if ray else resolve_device(device)
    runner = RunnerOptions(device, run.batch_tokens, run.patience)
    annotator = make(runner.device)
    processes = count_processes(device, asked, run.devices, annotator.spread)
    engine = ray.run if ray else partial(run_locally, processes=processes, workers=run.workers)
    job = ShardJob(
        annotator=annotator,
        out=out,
        read=read,
        runner=runner,
        fingerprint=_fingerprint(annotator, read, run),
        keep_metadata=run.keep_metadata,
        limits=run.limits,
    )
    shards = _limit(take_part(everything, run.part), run.limit, read)
    check_names(out, (f"{shard.name}.parquet" for shard in shards))
    notes = [*annotator.notes, *found.notes]
    with writing_to(
        out,
        f"a {annotator.kind} table",
        wait=run.wait,
        dry_run=run.dry_run,
        part=run.part,
        request=job.fingerprint | {"schema": str(job.schema)},
    ):
        # of all, as a shard of another part may have the same bytes as one of this part
        settled, headers = settle_names(everything, job, run.overwrite)
        names = {(shard.url, shard.start): shard.name for shard in settled}
        shards = [replace(shard, name=names[shard.url, shard.start]) for shard in shards]
        todo = shards if run.overwrite else not_done(shards, headers)
        if sidecars is None:
            return _run(job, shards, todo, engine, run, notes)
        sidecars.check(job, shards)
        report = _run(job, shards, todo, engine, run, notes)
        more = [] if run.dry_run else sidecars.write(job, shards)
        return replace(report, notes=(*report.notes, *more))


def _run(
    job: ShardJob,
    shards: Sequence[Shard],
    todo: Sequence[Shard],
    engine: Engine,
    run: RunOptions,
    notes: list[str],
) -> RunReport:
    """Do the shards that aren't done yet; nobody else does now."""
    out = job.out
    if len(todo) < len(shards):
        notes.append(resumed(len(shards) - len(todo), "done"))
    if run.dry_run:
        memory = estimate_memory(job.annotator, job.runner)
        notes += [] if memory is None else [memory.line]
        notes += [f"{'to do' if shard in todo else 'done '} {shard.name}" for shard in shards]
        return RunReport(out=out, dry_run=True, notes=tuple(notes))
    note_facts(shards=len(shards), shards_before=len(shards) - len(todo))
    if todo:
        check(job.annotator, job.runner)
    make_folder(out)
    _clear(job, shards, todo, run.overwrite)
    reports: list[ShardReport] = []
    if todo:
        total = sum(shard.size for shard in todo)
        with show_progress("first samples", total, run.quiet, say=_done(reports, todo)) as progress:
            check_first_samples(todo, job.read)
            reports += recorded(engine(job, todo, progress))
    first = FirstRows(shards[0], job.read, job.path(shards[0])) if shards else None
    return replace(_report(reports, notes, out), first=first)


def _done(reports: Sequence[ShardReport], todo: Sequence[Shard]) -> Callable[[], str]:
    """Says how many shards are done, where there are several."""
    return lambda: f"{len(reports):,} of {len(todo):,} shards" if len(todo) > 1 else ""


def _clear(job: ShardJob, shards: Sequence[Shard], todo: Sequence[Shard], overwrite: bool) -> None:
    """Remove the tables that are made anew, and the answers kept of shards that don't go on."""
    kept = KeptAnswers(job.out, job.fingerprint)
    if kept.is_there:
        going_on = set() if overwrite else {shard.name for shard in todo}
        for shard in shards:
            if shard.name not in going_on:  # a run may have died right behind a table
                kept.remove(shard.name)
    if overwrite:
        for shard in todo:
            tables.remove_file(job.path(shard))


def _fingerprint(annotator: Annotator, read: ReadOptions, run: RunOptions) -> dict[str, str]:
    """What two runs must share to fill one table."""
    reading = {
        "layout": read.layout,
        "image_column": read.image_column,
        "text_column": read.text_column,
        "key_column": read.key_column,
        "images_first": read.images_first,
        "source_column": read.source_column,
        "keep_metadata": run.keep_metadata,
    }
    usual = SampleLimits()
    for name in ("max_images", "max_text_chars", "max_sample_pixels"):
        limit = getattr(run.limits, name)
        reading[name] = None if limit == getattr(usual, name) else limit
    return annotator.fingerprint | {name: str(value) for name, value in reading.items() if value}


def _limit(shards: list[Shard], limit: int | None, read: ReadOptions) -> list[Shard]:
    """The first shards that hold `limit` samples; the last of them only in part."""
    if limit is None:
        return shards
    taken = []
    for shard in shards:
        try:
            with open_shard(shard, read) as reader:
                count = reader.count
        except ShardError:
            count = 0  # named when the run comes to it
        taken.append(shard if count <= limit else replace(shard, limit=limit))
        limit -= min(count, limit)
        if limit == 0:
            break
    return taken


def _report(reports: list[ShardReport], notes: list[str], out: Path) -> RunReport:
    statuses: Counter[str] = sum((Counter(report.statuses) for report in reports), Counter())
    odd: Counter[str] = sum((Counter(report.notes) for report in reports), Counter())
    notes = [
        *notes,
        *(f"{counted(count, 'samples')}: {what}" for what, count in sorted(odd.items())),
    ]
    return RunReport(
        out=out,
        shards=len(reports),
        rows=sum(report.rows for report in reports),
        statuses=dict(statuses),
        examples={k: v for report in reversed(reports) for k, v in report.examples.items()},
        failed={report.shard: report.problem for report in reports if report.problem},
        details={report.shard: report.details for report in reports if report.details},
        notes=tuple(notes),
    )
