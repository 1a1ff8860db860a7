"""One shard through an annotator: read, prepare, run, write; the same for every engine."""

import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmsieve import tables
from mmsieve.clients.answers import KeptAnswers
from mmsieve.devices import is_device_lost
from mmsieve.engine.annotator import Annotator, Row, RunnerOptions, make_runner
from mmsieve.engine.workers import (
    Event,
    Preparation,
    PreparePool,
    ShardClosed,
    ShardFeed,
    ShardOpened,
)
from mmsieve.errors import DeviceError, MmsieveError, SampleError, ShardError, Status
from mmsieve.identity import identify
from mmsieve.outputs import is_full
from mmsieve.progress import Advance
from mmsieve.read import ReadOptions, SampleLimits
from mmsieve.resources import ProcessUse
from mmsieve.runs import current_run
from mmsieve.sanitize import redact, tell
from mmsieve.sources import Shard
from mmsieve.stores.asking import one_line
from mmsieve.tables import Header
from mmsieve.wording import counted


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """What to do with each shard; picklable, so that it can travel to where the shards are."""

    annotator: Annotator
    out: Path
    read: ReadOptions
    runner: RunnerOptions
    fingerprint: dict[str, str]
    keep_metadata: bool = False
    limits: SampleLimits = field(default_factory=SampleLimits)

    @property
    def schema(self) -> pa.Schema:
        """The columns of the table."""
        extra = [tables.METADATA] if self.keep_metadata else []
        return pa.schema([*tables.COMMON, *self.annotator.schema, *extra])

    def path(self, shard: Shard) -> Path:
        """The shard's file in the table."""
        return self.out / f"{shard.name}.parquet"


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """How one shard went."""

    shard: str
    rows: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    """Status -> key and reason of the first sample that has it."""
    problem: str | None = None
    """Why the shard failed, or why its table is incomplete."""
    notes: dict[str, int] = field(default_factory=dict)
    """What was odd about samples and cost them nothing -> how many of them."""
    details: str | None = None
    """The traceback, where the problem was not foreseen."""
    use: ProcessUse | None = None
    """What the process has taken that did it, where that is not the one of the run."""


def recorded(reports: Iterable[ShardReport]) -> Iterator[ShardReport]:
    """The same reports, each recorded as an event of the run and in its counts."""
    run = current_run()
    for report in reports:
        if run is not None:
            run.count(report.statuses, report.problem is not None, report.use)
        problem = report.problem or ""
        tell("shard", problem, shard=report.shard, rows=report.rows, statuses=report.statuses)
        yield report


class ShardWorker:
    """Runs shards one after the other with one runner and one pool of preparing processes."""

    def __init__(self, job: ShardJob, workers: int, advance: Advance | None = None) -> None:
        self._job = job
        self._advance = advance or (lambda samples, size: None)
        preparation = Preparation(
            preparer=job.annotator.preparer(),
            limits=job.limits,
            keep_metadata=job.keep_metadata,
            needs_text=job.read.needs_text,
        )
        self._pool = PreparePool(preparation, workers)
        self._kept = KeptAnswers(job.out, job.fingerprint)
        self._runner = make_runner(job.annotator, replace(job.runner, kept=self._kept))
        self._writer = ThreadPoolExecutor(1, "mmsieve-writer")

    def close(self) -> None:
        """End the processes and threads."""
        self._pool.close()
        self._writer.shutdown()
        self._kept.close()

    def run(self, shards: Sequence[Shard]) -> Iterator[ShardReport]:
        """A report per shard, in order, each once its table is written; never raises for one.

        A dead worker process takes everything read ahead with it, so the shard at hand is tried
        again alone: if that kills a worker too, the shard is the cause, and is named.
        """
        position = 0
        while position < len(shards):
            for report in self._run(shards[position:]):
                yield report
                position += 1
            if position < len(shards):
                yield self._run_alone(shards[position])
                position += 1

    def _run_alone(self, shard: Shard) -> ShardReport:
        self._pool.close()
        for report in self._run([shard]):
            return report
        self._pool.close()
        problem = "kills its worker process (a crash or hang in a decoder, or out of memory)"
        return ShardReport(shard=shard.name, problem=problem)

    def _run(self, shards: Sequence[Shard]) -> Iterator[ShardReport]:
        """Reports until all shards are done or a worker process dies."""
        feed = ShardFeed(self._pool, shards, self._job.read)
        pending: list[Future[ShardReport]] = []
        events = iter(feed)
        try:
            for shard in shards:
                pending.append(self._submit(shard, events))
                while len(pending) > 1:
                    yield pending.pop(0).result()
        except BrokenProcessPool:
            pass
        finally:
            feed.close()
        for report in pending:
            yield report.result()

    def _submit(self, shard: Shard, events: Iterator[Event]) -> "Future[ShardReport]":
        """Compute a shard's rows; its table is written while the next shard is computed."""
        rows = _Rows(shard, self._advance)
        stream = rows.items(events)
        self._kept.open(shard.name)
        try:
            for index, result in self._runner.run(stream):
                rows.finish(index, result)
        except (BrokenProcessPool, KeyboardInterrupt, SystemExit):
            raise
        except Exception as error:
            if isinstance(error, MmsieveError) and not isinstance(error, ShardError | SampleError):
                raise
            if is_device_lost(error):  # every later shard would end with the same error
                reason = f"{self._job.runner.device} has failed at {shard.name}: {one_line(error)}"
                raise DeviceError(f"{reason}; the same command goes on") from error
            rows.error = rows.error or error
        except BaseException as error:  # noqa: BLE001 - nor may a panic of a library
            rows.error = rows.error or RuntimeError(one_line(error))
        for _ in stream:  # whatever the runner left: the next shard begins after it
            pass
        if isinstance(rows.error, BrokenProcessPool):
            raise rows.error
        return self._writer.submit(_finish, self._job, rows, self._runner.notes, self._kept)


class _Rows:
    """The rows of one shard as they are read and computed."""

    def __init__(self, shard: Shard, advance: Advance) -> None:
        self.shard = shard
        self.count: int | None = None
        self.error: Exception | None = None
        self.rows: list[dict[str, Any]] = []
        self.notes: Counter[str] = Counter()
        self._missing: set[int] = set()
        self._advance = advance

    def items(self, events: Iterator[Event]) -> Iterator[tuple[int, Any]]:
        """The runner's stream: (index, item) of every sample that could be prepared."""
        for event in events:
            if isinstance(event, ShardOpened):
                self.count = event.count
            elif isinstance(event, ShardClosed):
                self.error = self.error or event.error
                return
            else:
                index = len(self.rows)
                self._missing.add(index)
                self.notes.update(event.notes)
                row: dict[str, Any] = {"key": event.key, "uid": event.uid}
                row |= {"shard": self.shard.name, "place": self.shard.start + index}
                self.rows.append(row | {"metadata": event.metadata})
                if event.problem is not None:
                    self.finish(index, event.problem)
                else:
                    yield index, event.item

    def finish(self, index: int, result: Row | SampleError) -> None:
        """Set the result of a row, exactly once."""
        self._missing.remove(index)
        if isinstance(result, SampleError):
            problem = {"status": result.status.value, "error": str(result)}
            self.rows[index].update(result.known, **problem)
        else:
            self.rows[index].update(result, status=Status.OK.value)
        self._advance(1, self.shard.size / self.count if self.count else 0.0)

    @property
    def refused(self) -> str | None:
        """What to say of a shard with requests that a server refused: it is done again."""
        count = sum(row["status"] == Status.REQUEST_REFUSED.value for row in self.rows)
        return f"{count:,} {Status.REQUEST_REFUSED}: the same command asks again" if count else None

    def check(self) -> None:
        """Raise unless the shard has as many rows as its index has samples, each with a result.

        Where the rest of it can't be read, what was read and computed is enough.
        """
        if isinstance(self.error, ShardError) and self.rows and not self._missing:
            return
        if self.error is not None:
            raise self.error
        if self._missing or len(self.rows) != self.count:
            rows = f"{counted(len(self.rows), 'rows')} for {counted(self.count or 0, 'samples')}"
            raise ShardError(f"{rows}, {len(self._missing):,} of them without a result")


def _finish(job: ShardJob, rows: _Rows, notes: dict[str, str], kept: KeptAnswers) -> ShardReport:
    """Write a shard's table and report; runs in the writer's thread."""
    shard = rows.shard
    try:
        rows.check()
        problem = str(rows.error) if rows.error is not None else rows.refused
        source = identify(shard.url)
        if source.size != shard.size:
            sizes = f"{source.size:,} bytes, {shard.size:,}"
            raise ShardError(f"has changed while it was read: {sizes}")
        header = Header(
            kind=job.annotator.kind,
            version=tables.product_version(),
            shard=shard.name,
            size=shard.size,
            rows=len(rows.rows),
            start=shard.start,
            source=source,
            complete=problem is None and shard.limit is None,
            problem=problem,
            limit=shard.limit,
            fingerprint=job.fingerprint,
            notes=notes,
        )
        table = pa.Table.from_pylist(rows.rows, schema=job.schema)
        tables.write_file(job.path(shard), table, header)
        if header.complete:
            kept.remove(shard.name)
    except Exception as error:
        if is_full(error):
            fix = "make room; the same command goes on where this one stopped"
            raise MmsieveError(f"{shard.name}: {error}: {fix}") from error
        foreseen = isinstance(error, (ShardError, OSError))
        details = None if foreseen else "".join(traceback.format_exception(error))
        message = redact(str(error) if foreseen else f"{type(error).__name__}: {error}")
        return ShardReport(shard=shard.name, problem=message, details=details)
    statuses = dict(Counter(row["status"] for row in rows.rows))
    bad = (row for row in reversed(rows.rows) if row["status"] != Status.OK.value)
    return ShardReport(
        shard=shard.name,
        rows=len(rows.rows),
        statuses=statuses,
        examples={row["status"]: f"{row['key']!r}: {row['error']}" for row in bad},
        problem=None if problem is None else f"incomplete: {problem}",
        notes=dict(rows.notes),
    )
