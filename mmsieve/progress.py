"""Progress of long work: a live bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from mmsieve.sanitize import plain, write

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
        yield lambda units, size: None
        return
    what = plain(what)
    from rich.console import Console  # a twentieth of a second, which a quiet command can save

    console = Console(stderr=True)
    say = say or (lambda: "")
    if not console.is_terminal:
        yield _lines(what, total, unit, before, say)
        return
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TextColumn("{task.percentage:>3.0f}%"),
        progress.TextColumn("{task.fields[units]:,} " + unit + ", {task.fields[rate]}"),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[said]}", markup=False),
    )
    with progress.Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=total or None, completed=before, units=0, rate="", said="")
        started = time.monotonic()
        done = 0

        def advance(units: int, size: float) -> None:
            nonlocal done
            done += units
            rate = _rate(done, time.monotonic() - started)
            bar.update(task, advance=size, units=done, rate=rate, said=say())

        yield advance


def _lines(what: str, total: float, unit: str, before: int, say: Callable[[], str]) -> Advance:
    """Writes a line now and then, for logs."""
    started = shown = time.monotonic()
    done, now = 0, 0.0

    def advance(units: int, size: float) -> None:
        nonlocal shown, done, now
        done += units
        now += size
        seconds = time.monotonic() - started
        if started + seconds - shown < _LINE_SECONDS:
            return
        shown = started + seconds
        share = (before + now) / total if total else 0.0
        left = "?" if now <= 0 else f"{seconds * (total - before - now) / now:,.0f} s"
        words = [f"{what}: {share:.0%}", f"{done:,} {unit}", _rate(done, seconds), f"{left} left"]
        write(", ".join([*words, *filter(None, [say()])]), sys.stderr)

    return advance


def _rate(units: int, seconds: float) -> str:
    return f"{units / max(seconds, 1e-9):,.1f}/s"
