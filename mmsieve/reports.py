"""Report: what every verb returns, and what is printed of it when the verb ends."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import wraps
from html import escape
from pathlib import Path
from typing import Any, ClassVar, ParamSpec, TypeVar

from mmsieve.errors import FAILED, OK, Status
from mmsieve.runs import carrying_out
from mmsieve.sanitize import plain
from mmsieve.stores.paths import is_stored
from mmsieve.wording import counted, duration

NOTHING = "nothing was written"
"""What a run made that had nothing to do, or was only to say what it would do."""


class Printed:
    """What a verb returns, as lines."""

    @property
    def is_failure(self) -> bool:
        """Whether a command that returns it ends with exit code 1."""
        return False

    @property
    def exit_code(self) -> int:
        """Of a command that returns it."""
        return FAILED if self.is_failure else OK

    def summary(self) -> str:
        """What a user should know."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """Its fields that machines can read: numbers, texts, paths, and lists and dicts of them."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in found.items() if _is_plain(value)}

    def html(self) -> str:
        """What a notebook shows."""
        return f"<pre>{escape(self.summary())}</pre>"

    def _repr_html_(self) -> str:
        return self.html()


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(one) for key, one in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | Path) or is_stored(value)


@dataclass(frozen=True, kw_only=True)
class Report(Printed):
    """How a verb went that made something. A verb's own report adds its counts."""

    unit: ClassVar[str] = "shard "
    """What failed, before its name."""

    out: Path
    """What was made."""
    seconds: float = 0.0
    dry_run: bool = False
    """Whether it was only said what would be done."""
    notes: tuple[str, ...] = ()
    """Lines for the user."""
    failed: dict[str, str] = field(default_factory=dict)
    """Shard -> why it failed, or why what was made of it is incomplete."""
    details: dict[str, str] = field(default_factory=dict)
    """Shard -> traceback, where the failure was not foreseen."""

    @property
    def is_failure(self) -> bool:
        """Whether shards failed, or nothing was achieved."""
        return bool(self.failed) or self.achieved_nothing

    @property
    def achieved_nothing(self) -> bool:
        """Whether there was work, and nothing came of it: no success, though no shard failed."""
        return False

    def counts(self) -> str:
        """What was made, in numbers."""
        raise NotImplementedError

    def lines(self) -> list[str]:
        """What comes before the last line."""
        return list(self.notes)

    def summary(self) -> str:
        """What a user should know, the last line with counts, seconds and the output's path."""
        made = NOTHING if self.dry_run else self.counts()
        last = f"{made} in {duration(self.seconds)}: {self.out}"
        return "\n".join(map(plain, [*self.lines(), last]))

    def failed_shards(self) -> str:
        """How many shards failed, to be said among the counts."""
        failed = counted(len(self.failed), "shards")
        return f", {failed} failed or incomplete" if self.failed else ""


@dataclass(frozen=True, kw_only=True)
class DecisionReport(Report):
    """How it was decided which rows of tables are kept."""

    rows: int
    kept: int
    reasons: dict[str, int] = field(default_factory=dict)
    """Why rows aren't kept, with their number."""

    def counts(self) -> str:
        """Kept rows and all rows."""
        return f"{self.kept:,} of {counted(self.rows, 'rows')} kept"

    def not_kept(self) -> list[str]:
        """A line on the reasons, where there are any."""
        return [f"not kept: {count_words(self.reasons)}"] if self.reasons else []


def count_words(counts: dict[str, int]) -> str:
    """Counts in words: `3 image_missing, 2 ok`."""
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))


_MOST_REASONS = 3


def commonest_reasons(statuses: Mapping[str, int], examples: Mapping[str, str]) -> list[str]:
    """A line on each of the commonest statuses that aren't ok: how many, and an example."""
    counts = sorted((-count, name) for name, count in statuses.items() if name != Status.OK)
    return [f"{-n:,} {name}, such as {examples[name]}" for n, name in counts[:_MOST_REASONS]]


P = ParamSpec("P")
R = TypeVar("R", bound=Report)


def timed(verb: Callable[P, R]) -> Callable[P, R]:
    """The verb as a run that is recorded beside its output, its report with the seconds it took."""

    @wraps(verb)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        started = time.monotonic()
        with carrying_out(verb.__name__.lstrip("_")) as log:
            report = replace(verb(*args, **kwargs), seconds=time.monotonic() - started)
            log.end(report.exit_code, report.facts())
        return report

    return run
