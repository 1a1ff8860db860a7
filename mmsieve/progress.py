"""Progress of long work: a live bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO, TypeAlias

if TYPE_CHECKING:
    from rich.console import Console

Advance: TypeAlias = Callable[[int, float], None]
"""Called with units done and the part of the total done since the last call."""

_LINE_SECONDS = 10.0


@contextmanager
def show_progress(
    what: str,
    total: float,
    quiet: bool,
    unit: str = "samples",
    before: int = 0,
    say: Callable[[], str] | None = None,
) -> Iterator[Advance]:
    """A function that takes (units, part of the total) done, and shows rate and time left.

    The total is what tells how far the work is: bytes of sources, or units again. `before` is the
    part of it that an earlier run did. `say` adds words of its own, such as money spent.
    """
    if quiet:
        yield lambda samples, size: None
        return
    from rich.console import Console  # a twentieth of a second, which a quiet command can save

    console = Console(stderr=True)
    if console.is_terminal:
        with _bar(what, total, console, unit, before, say) as advance:
            yield advance
    else:
        yield _Lines(what, total, sys.stderr, unit, before, say)


@contextmanager
def _bar(
    what: str,
    total: float,
    console: "Console",
    unit: str,
    before: int,
    say: Callable[[], str] | None,
) -> Iterator[Advance]:
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn(what),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[units]:,} " + unit + ", {task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[said]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=total or None, completed=before, units=0, rate="", said="")
        started = time.monotonic()
        done = 0

        def advance(units: int, size: float) -> None:
            nonlocal done
            done += units
            rate = _rate(done, time.monotonic() - started)
            said = say() if say else ""
            bar.update(task, advance=size, units=done, rate=rate, said=said)

        yield advance


class _Lines:
    """A line now and then, for logs."""

    def __init__(
        self,
        what: str,
        total: float,
        stream: TextIO,
        unit: str,
        before: int,
        say: Callable[[], str] | None,
    ) -> None:
        self._what, self._total, self._stream, self._unit = what, total, stream, unit
        self._before, self._say = before, say
        self._started = self._said = time.monotonic()
        self._units, self._size = 0, float(before)

    def __call__(self, units: int, size: float) -> None:
        self._units += units
        self._size += size
        now = time.monotonic()
        if now - self._said >= _LINE_SECONDS:
            self._said = now
            self._stream.write(self._line(now - self._started) + "\n")
            self._stream.flush()

    def _line(self, seconds: float) -> str:
        share = self._size / self._total if self._total else 0.0
        now = self._size - self._before
        left = "?" if now <= 0 else f"{seconds * (self._total - self._size) / now:,.0f} s"
        rate = _rate(self._units, seconds)
        said = f", {self._say()}" if self._say else ""
        return f"{self._what}: {share:.0%}, {self._units:,} {self._unit}, {rate}, {left} left{said}"


def _rate(units: int, seconds: float) -> str:
    return f"{units / max(seconds, 1e-9):,.1f}/s"
