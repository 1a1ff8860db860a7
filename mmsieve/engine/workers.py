"""Worker processes that parse and prepare samples, reading ahead over shards within bounds."""

import faulthandler
import json
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from queue import Full, Queue
from typing import Any, TypeAlias

from mmsieve.engine.annotator import Preparer
from mmsieve.engine.spawning import CONTEXT, needs_script, settle_in, starting
from mmsieve.errors import SampleError, ShardError, Status, check_machine
from mmsieve.read import BROKEN_JSON, Parse, ReadOptions, Record, SampleLimits, parse_record
from mmsieve.read.columns import check_caption
from mmsieve.read.shards import open_shard
from mmsieve.resources import waiting_for
from mmsieve.sample import collect_notes
from mmsieve.sources import Shard
from mmsieve.stores.asking import one_line

_CHUNK_RECORDS = 32
_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Prepared:
    """One sample on its way from a worker process to the runner: an item, or why there is none."""

    key: str
    item: Any = None
    problem: SampleError | None = None
    uid: str | None = None
    metadata: str | None = None
    notes: tuple[str, ...] = ()
    """Oddities that cost it nothing, to be counted."""


@dataclass(frozen=True, slots=True)
class ShardOpened:
    """A shard's reading has begun."""

    count: int
    """Samples that its index promises."""


@dataclass(frozen=True, slots=True)
class ShardClosed:
    """A shard's reading has ended, with the reason where it could not be read to its end."""

    error: Exception | None


Event: TypeAlias = ShardOpened | Prepared | ShardClosed
"""What reading shards yields: a shard's opening, its samples, its end, and the next shard's."""
_Queued: TypeAlias = ShardOpened | Callable[[], list[Prepared]] | ShardClosed


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What is done to each record: parsed, checked against limits, prepared."""

    preparer: Preparer
    limits: SampleLimits = field(default_factory=SampleLimits)
    keep_metadata: bool = False
    needs_text: bool = False

    def run(self, parse: Parse, records: list[Record]) -> list[Prepared]:
        """One of each record, in order; raises ShardError for what is the machine's fault."""
        return [self._run_one(parse, record) for record in records]

    def _run_one(self, parse: Parse, record: Record) -> Prepared:
        with collect_notes() as notes:
            prepared = self._prepare(parse, record)
        metadata = None if BROKEN_JSON in notes else prepared.metadata
        return replace(prepared, metadata=metadata, notes=tuple(sorted(notes)))

    def _prepare(self, parse: Parse, record: Record) -> Prepared:
        uid = metadata = None
        try:
            with _time_limit(self.limits.sample_timeout):
                sample = parse_record(parse, record)
                uid = sample.uid
                if self.keep_metadata:
                    metadata = json.dumps(sample.metadata, ensure_ascii=False, default=str)
                if self.needs_text:
                    check_caption(sample)
                self.limits.check(sample)
                return Prepared(record.key, self.preparer.prepare(sample), None, uid, metadata)
        except SampleError as error:
            problem = error
        except MemoryError as error:  # whose fault it is can't be known: nothing is written of it
            raise ShardError(f"out of memory at {record.key!r}: use fewer --workers") from error
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and multiprocessing.parent_process() is None:
                raise
            check_machine(error, f"{record.key!r} can't be prepared here")
            problem = SampleError(Status.PREPARATION_FAILED, one_line(error))
        return Prepared(record.key, None, problem, uid, metadata)


class _TookTooLong(BaseException):
    """Not an Exception: a decoder that takes any of them must not take this one."""


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise in the block once it has taken so long, where the system can interrupt this thread.

    A worker process whose library can't be interrupted ends itself after twice the time.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise _TookTooLong(f"not prepared after {seconds:g} seconds (--sample-timeout)")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    if _traces is not None:
        faulthandler.dump_traceback_later(2 * seconds, exit=True, file=_traces)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if _traces is not None:
            faulthandler.cancel_dump_traceback_later()


class PreparePool:
    """Prepares samples in `workers` processes; with 0, in this one when the result is asked for."""

    def __init__(self, preparation: Preparation, workers: int) -> None:
        self._preparation = preparation
        self.workers = workers
        self._executor: ProcessPoolExecutor | None = None
        self._needs_script = False

    def submit(self, parse: Parse, records: list[Record]) -> Callable[[], list[Prepared]]:
        """Prepare records, and wait for them by a call of what is returned.

        Both raise BrokenProcessPool where a worker process has died.
        """
        if self.workers == 0:
            return partial(self._preparation.run, parse, records)
        if self._executor is None:
            self._needs_script = needs_script(pickle.dumps(self._preparation))
            self._executor = ProcessPoolExecutor(
                self.workers, CONTEXT, _start_worker, (self._preparation,)
            )
        with starting(self._needs_script):
            return self._executor.submit(_prepare_in_worker, parse, records).result

    def close(self) -> None:
        """End the worker processes; the next `submit` starts new ones."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None


class ShardFeed:
    """Reads shards in a thread and prepares them in the pool, a bounded number of chunks ahead.

    Iterating yields, per shard and in order: ShardOpened, its Prepared samples, ShardClosed.
    """

    def __init__(self, pool: PreparePool, shards: Sequence[Shard], options: ReadOptions) -> None:
        self._pool = pool
        self._shards = shards
        self._options = options
        self._queue: Queue[_Queued] = Queue(2 * pool.workers + 2)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True, name="mmsieve-reader")
        self._thread.start()

    def __iter__(self) -> Iterator[Event]:
        open_shards = len(self._shards)
        lost: Exception | None = None
        while open_shards:
            with waiting_for("samples"):
                event = self._queue.get()
            if isinstance(event, ShardOpened):
                yield event
            elif isinstance(event, ShardClosed):
                open_shards -= 1
                yield ShardClosed(lost or event.error)
                lost = None
            elif lost is None:  # after what is lost nothing more: the rows are the shard's first
                try:
                    with waiting_for("samples"):
                        prepared = event()
                except BrokenProcessPool:
                    raise
                except Exception as error:  # noqa: BLE001 - the consumer decides what it means
                    lost = error
                else:
                    yield from prepared

    def close(self) -> None:
        """Stop reading; what was read ahead is dropped."""
        self._stopped.set()
        self._thread.join()

    def _read(self) -> None:
        for shard in self._shards:
            error: Exception | None = None
            try:
                with open_shard(shard, self._options) as reader:
                    self._put(ShardOpened(reader.count))
                    for records in _chunks(reader.records):
                        self._put(self._pool.submit(reader.parse, records))
            except _Stopped:
                return
            except BaseException as caught:  # noqa: BLE001 - the consumer decides what it means
                error = caught if isinstance(caught, Exception) else ShardError(one_line(caught))
            try:
                self._put(ShardClosed(error))
            except _Stopped:
                return

    def _put(self, event: _Queued) -> None:
        while not self._stopped.is_set():
            try:
                self._queue.put(event, timeout=0.1)
            except Full:
                continue
            return
        raise _Stopped


class _Stopped(Exception):  # noqa: N818 - not an error
    """The feed was closed while its thread was reading."""


def _chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Records in lists small enough to share out; a ShardError comes after what was read."""
    chunk: list[Record] = []
    size = 0
    try:
        for record in records:
            chunk.append(record)
            size += _size(record.fields)
            if len(chunk) == _CHUNK_RECORDS or size >= _CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
    except ShardError:
        yield from filter(None, [chunk])
        raise
    yield from filter(None, [chunk])


def _size(value: Any) -> int:
    """Bytes of a raw value, nested as in Parquet rows; a text counts, as it may hold an image."""
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    if isinstance(value, list):
        return sum(map(_size, value))
    return len(value) if isinstance(value, (bytes, str)) else 0


_preparation: Preparation | None = None
_traces: int | None = None
"""Where a worker process that ends itself writes what it was doing: nobody reads it."""


def _start_worker(preparation: Preparation) -> None:
    global _preparation, _traces
    _preparation, _traces = preparation, os.open(os.devnull, os.O_WRONLY)
    settle_in()


def _prepare_in_worker(parse: Parse, records: list[Record]) -> list[Prepared]:
    assert _preparation is not None
    return _preparation.run(parse, records)
