"""Worker processes that parse and prepare samples, reading ahead over shards within bounds."""

import json
import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import connection
from queue import Full, Queue
from typing import Any, TypeAlias

from mmsieve.engine.annotator import Preparer
from mmsieve.errors import SampleError, ShardError
from mmsieve.read import Parse, ReadOptions, Record, parse_record
from mmsieve.read.layouts import open_shard
from mmsieve.sources import Shard

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
_Queued: TypeAlias = "ShardOpened | Future[list[Prepared]] | ShardClosed"


class PreparePool:
    """A preparer in `workers` processes; with 0, in this one."""

    def __init__(self, preparer: Preparer, workers: int, keep_metadata: bool) -> None:
        self._start = (preparer, keep_metadata)
        self.workers = workers
        self._executor: ProcessPoolExecutor | None = None

    def submit(self, parse: Parse, records: list[Record]) -> "Future[list[Prepared]]":
        """Prepare records; raises BrokenProcessPool where a worker process has died."""
        if self.workers == 0:
            future: Future[list[Prepared]] = Future()
            future.set_result(_prepare(*self._start, parse, records))
            return future
        if self._executor is None:
            # spawn: a fork of a process with torch's threads can deadlock.
            self._executor = ProcessPoolExecutor(
                self.workers, multiprocessing.get_context("spawn"), _start_worker, self._start
            )
        return self._executor.submit(_prepare_in_worker, parse, records)

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
        while open_shards:
            event = self._queue.get()
            if isinstance(event, Future):
                yield from event.result()
                continue
            open_shards -= isinstance(event, ShardClosed)
            yield event

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
            except Exception as caught:  # noqa: BLE001 - the consumer decides what each one means
                error = caught
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


def _prepare(
    preparer: Preparer, keep_metadata: bool, parse: Parse, records: list[Record]
) -> list[Prepared]:
    return [_prepare_one(preparer, keep_metadata, parse, record) for record in records]


def _prepare_one(preparer: Preparer, keep_metadata: bool, parse: Parse, record: Record) -> Prepared:
    uid = metadata = None
    try:
        sample = parse_record(parse, record)
        uid = sample.uid
        if keep_metadata:
            metadata = json.dumps(sample.metadata, ensure_ascii=False, default=str)
        return Prepared(record.key, preparer.prepare(sample), None, uid, metadata)
    except SampleError as problem:
        return Prepared(record.key, None, problem, uid, metadata)


_worker_state: tuple[Preparer, bool] | None = None


def _start_worker(preparer: Preparer, keep_metadata: bool) -> None:
    global _worker_state
    _worker_state = (preparer, keep_metadata)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _prepare_in_worker(parse: Parse, records: list[Record]) -> list[Prepared]:
    assert _worker_state is not None
    return _prepare(*_worker_state, parse, records)


def _die_with_parent() -> None:
    """End this process when the one that started it is gone, however it went (kill -9 too)."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
