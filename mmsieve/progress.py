"""Progress of long work: a live bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mmsieve.shard_job import Progress as Advance

_LINE_SECONDS = 10.0


@contextmanager
def show_progress(what: str, total_bytes: int, quiet: bool) -> Iterator[Advance]:
    """A function that takes (samples, bytes of sources) done, and shows rate and time left."""
    console = Console(stderr=True)
    if quiet:
        yield lambda samples, size: None
    elif console.is_terminal:
        with _bar(what, total_bytes, console) as advance:
            yield advance
    else:
        yield _Lines(what, total_bytes, sys.stderr)


@contextmanager
def _bar(what: str, total_bytes: int, console: Console) -> Iterator[Advance]:
    columns = (
        TextColumn(what),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[samples]:,} samples, {task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=total_bytes or None, samples=0, rate="")
        started = time.monotonic()
        done = 0

        def advance(samples: int, size: float) -> None:
            nonlocal done
            done += samples
            rate = _rate(done, time.monotonic() - started)
            bar.update(task, advance=size, samples=done, rate=rate)

        yield advance


class _Lines:
    """A line now and then, for logs."""

    def __init__(self, what: str, total_bytes: int, stream: TextIO) -> None:
        self._what, self._total, self._stream = what, total_bytes, stream
        self._started = self._said = time.monotonic()
        self._samples, self._bytes = 0, 0.0

    def __call__(self, samples: int, size: float) -> None:
        self._samples += samples
        self._bytes += size
        now = time.monotonic()
        if now - self._said >= _LINE_SECONDS:
            self._said = now
            self._stream.write(self._line(now - self._started) + "\n")
            self._stream.flush()

    def _line(self, seconds: float) -> str:
        share = self._bytes / self._total if self._total else 0.0
        left = "?" if share == 0 else f"{seconds * (1 - share) / share:,.0f} s"
        rate = _rate(self._samples, seconds)
        return f"{self._what}: {share:.0%}, {self._samples:,} samples, {rate}, {left} left"


def _rate(samples: int, seconds: float) -> str:
    return f"{samples / max(seconds, 1e-9):,.1f}/s"
