"""Progress of long work: a live bar on a terminal, plain lines or JSON elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from mmsieve.runs import current_run
from mmsieve.sanitize import logs_json, plain, tell, write
from mmsieve.wording import counted, duration, rate

if TYPE_CHECKING:
    from rich.console import Console

Advance: TypeAlias = Callable[[int, float], None]
"""Called with units done and the part of the total done since the last call."""

_LINE_SECONDS = 10.0
_LEAST_SHARE, _LEAST_SECONDS = 0.01, 60.0
"""Of the work that is left: before so much is done, or so long, how long it takes is a guess."""
_NARROW = 80


class Progress:
    """An Advance that knows how far and how fast the work goes; this one shows nothing.

    The total is what tells how far the work is: bytes of sources, or units again. The run that it
    is a part of records it.
    """

    def __init__(
        self,
        what: str,
        total: float,
        unit: str = "samples",
        before: float = 0,
        say: Callable[[], str] = str,
    ) -> None:
        self.what = plain(what)
        self.total = total
        self.unit = unit
        self.before = before
        self.units = 0
        self.done = 0.0
        self.say = say
        self._started = time.monotonic()
        self._run = current_run()

    def __call__(self, units: int, size: float) -> None:
        """Some more is done."""
        self.units += units
        self.done += size
        if self._run is not None:
            self._run.begin()
        self._show()

    def phase(self, what: str) -> None:
        """Say what is being done from now on; rates are of this phase alone."""
        self.end_phase()
        self.what = plain(what)
        self.units, self.before, self.done = 0, self.before + self.done, 0.0
        self._started = time.monotonic()
        self.say_phase()
        self._show()

    def end_phase(self) -> None:
        """What was being done is done."""
        if self._run is not None:
            self._run.begin()
            self._run.phase(self._facts())

    def facts(self) -> dict[str, Any]:
        """How far the work is, for machines, and what its run has counted and taken until now."""
        return self._facts() | ({} if self._run is None else self._run.live())

    def _facts(self) -> dict[str, Any]:
        left, seconds = self.seconds_left, self.seconds
        facts = {"what": self.what, "unit": self.unit, "done": self.units, "share": self.share}
        facts |= {"seconds": round(seconds, 1), "seconds_left": left and round(left)}
        facts["per_second"] = round(self.units / seconds, 2) if seconds else 0.0
        if said := self.say():
            facts["said"] = said
        return facts

    @property
    def seconds(self) -> float:
        """Since the phase began."""
        return time.monotonic() - self._started

    @property
    def share(self) -> float:
        """Part of the total that is done, 0 to 1, that of earlier runs included."""
        return min(1.0, (self.before + self.done) / self.total) if self.total else 0.0

    @property
    def seconds_left(self) -> float | None:
        """None as long as it would be a guess."""
        rest = self.total - self.before - self.done
        if self.done <= 0 or rest < 0:
            return None
        is_early = self.done < _LEAST_SHARE * (self.done + rest) and self.seconds < _LEAST_SECONDS
        return None if is_early else self.seconds * rest / self.done

    @property
    def words(self) -> list[str]:
        """How much, how fast, how long still."""
        left = self.seconds_left
        parts = [counted(self.units, self.unit), rate(self.units, self.seconds)]
        parts.append("" if left is None else f"{duration(round(left))} left")
        return [part for part in parts if part] if self.units else []

    def _show(self) -> None:
        """Tell the user, or not."""

    def say_phase(self) -> None:
        """Tell machines."""
        tell("phase", self.what)


class _Lines(Progress):
    """Writes a line now and then, for logs."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._shown = time.monotonic()

    def say_phase(self) -> None:
        """Rates of the new phase come once they mean something."""
        self._shown = time.monotonic()
        if logs_json():
            write(self.what, sys.stderr, "phase")
        else:
            super().say_phase()

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._shown < _LINE_SECONDS:
            return
        self._shown = now
        share = [f"{self.share:.0%}"] if self.total and self.units else []
        words = [*share, *self.words, *filter(None, [self.say()])]
        line = f"{self.what}: {', '.join(words)}" if words else self.what
        write(line, sys.stderr, "progress", **self.facts())


@contextmanager
def show_progress(
    what: str,
    total: float,
    quiet: bool,
    unit: str = "samples",
    before: float = 0,
    say: Callable[[], str] | None = None,
) -> Iterator[Progress]:
    """A function that takes (units, part of the total) done, and shows rate and time left.

    `before` is the part of the total that an earlier run did. `say` adds words of its own, such as
    money spent.
    """
    with _made(what, total, quiet, unit, before, say or str) as advance:
        if (run := current_run()) is None:
            yield advance
            return
        run.follow(advance.facts)
        yield advance
        run.follow(None)
        advance.end_phase()


@contextmanager
def _made(*given: Any) -> Iterator[Progress]:
    """Progress in the form that suits where it is shown."""
    what, total, quiet, *others = given
    if quiet:
        yield Progress(what, total, *others)
        return
    from rich.console import Console  # a twentieth of a second, which a quiet command can save

    console = Console(stderr=True)
    if not console.is_terminal or logs_json():
        yield _Lines(what, total, *others)
        return
    with _bar(console, Progress(what, total, *others)) as advance:
        yield advance


@contextmanager
def _bar(console: "Console", shown: Progress) -> Iterator[Progress]:
    """The live bar, without what doesn't fit a narrow terminal."""
    from rich import progress as rich_progress

    columns: list[rich_progress.ProgressColumn] = [
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.TextColumn("{task.fields[share]}"),
        rich_progress.TextColumn("{task.fields[said]}", markup=False),
        rich_progress.TimeElapsedColumn(),
    ]
    if console.width >= _NARROW:
        columns.insert(1, rich_progress.BarColumn())
    with rich_progress.Progress(*columns, console=console) as bar:
        task = bar.add_task(shown.what, total=shown.total or None, share="", said="")

        bar.update(task, completed=shown.before)

        class Shown(Progress):
            def _show(self) -> None:
                bar.update(
                    task,
                    description=self.what,
                    completed=self.before + self.done,
                    share=f"{self.share:.0%}" if self.total and self.units else "",
                    said=", ".join([*self.words, *filter(None, [self.say()])]),
                )

        yield Shown(shown.what, shown.total, shown.unit, shown.before, shown.say)
