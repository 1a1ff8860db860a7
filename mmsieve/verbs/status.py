"""status: how the run that writes an output stands, here or on another machine."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from mmsieve.reports import Printed, count_words
from mmsieve.stores.paths import place_of
from mmsieve.watching import WELL, RunState, State, find_runs
from mmsieve.wording import counted, duration, rate

_HOUR = 3600.0
_STILL = 60.0
"""Seconds without any progress that are worth a word."""
_MOST_SHOWN = 5
"""Failed shards, and parts of a job array that go well."""
_FIRST: tuple[State, ...] = ("killed", "failed", "refused", "terminated", "interrupted")
_SAID = {
    "starting": "begins",
    "running": "runs",
    "unknown": "runs, as far as is known here",
    "done": "is done",
    "failed": "failed",
    "refused": "was refused",
    "interrupted": "was interrupted",
    "terminated": "was told to end",
    "killed": "was killed: its process is gone",
}


@dataclass(frozen=True, kw_only=True)
class StatusReport(Printed):
    """How the runs of an output stand."""

    out: Path
    state: State
    """The worst of all parts; of those that go well, the one that is least far."""
    runs: list[dict[str, Any]]
    """Of each run its fields: who, since when, what is done, what failed, what is left."""
    missing: list[str] = field(default_factory=list)
    """Parts of a job array that nobody has begun."""
    lines: tuple[str, ...]

    @property
    def is_failure(self) -> bool:
        """Whether a run ended otherwise than well, or something has failed."""
        return self.state in _FIRST or any(run["failed"] for run in self.runs)

    def summary(self) -> str:
        """What a user should know."""
        return "\n".join(self.lines)


def status(out: Path) -> StatusReport:
    """Say how the run that writes an output stands: what is done, what failed, what is left.

    Looks at the record beside the output, so it may be another machine's run, as long as the disk
    is shared. Exit code 0: it goes well, or is done; 1: something failed, or it was stopped or
    killed; 2: no run is recorded there. With --log-json the facts, too.

    Parameters
    ----------
    out
        What a verb was given as --out.
    """
    out = place_of(out)
    runs = find_runs(out)
    state = min((run.state for run in runs), key=_rank)
    missing = _missing(runs)
    is_array = runs[0].part is not None
    lines = _array(runs, missing) if is_array else _lines(runs[0])
    return StatusReport(
        out=out,
        state=state,
        runs=[_facts(run) for run in runs],
        missing=missing,
        lines=tuple(lines),
    )


def _rank(state: State) -> int:
    order = (*_FIRST, "starting", "running", "unknown", "done")
    return order.index(state)


_FACTS = TypeAdapter(RunState)


def _facts(run: RunState) -> dict[str, Any]:
    """A run's fields as JSON, and what follows from them."""
    facts: dict[str, Any] = _FACTS.dump_python(run, mode="json")
    return facts | {"shards_left": run.shards_left}


def _missing(runs: list[RunState]) -> list[str]:
    if runs[0].part is None:
        return []
    count = int(runs[0].part.partition("/")[2])
    there = {run.part for run in runs}
    return [name for number in range(count) if (name := f"{number}/{count}") not in there]


def _array(runs: list[RunState], missing: list[str]) -> Iterator[str]:
    """Lines on a job array: the parts that need a look first, then sums."""
    well = [run for run in runs if run.is_well]
    for run in [*(run for run in runs if not run.is_well), *well[:_MOST_SHOWN]]:
        yield from _lines(run)
    if len(well) > _MOST_SHOWN:
        yield f"and {len(well) - _MOST_SHOWN:,} more that go well"
    if missing:
        named = ", ".join(missing[:_MOST_SHOWN])
        more = ", ..." if len(missing) > _MOST_SHOWN else ""
        yield f"no record of {counted(len(missing), 'parts')}: {named}{more}"
    statuses = sum((Counter(run.statuses) for run in runs), Counter[str]())
    rows = f"; rows: {count_words(statuses)}" if statuses else ""
    states = count_words(Counter(run.state for run in runs))
    yield f"{counted(len(runs), 'parts')}: {states}{rows}{_together(runs)}"


def _together(runs: list[RunState]) -> str:
    """How fast the parts that run are, and how long the last of them takes still."""
    found = [run.progress for run in runs if run.state == "running" and run.progress]
    speed = rate(round(_HOUR * sum(one.per_second for one in found)), _HOUR)
    left = max((one.seconds_left or 0 for one in found), default=0)
    words = [speed, f"{duration(round(left))} left" if left else ""]
    return "".join(f"; {word}" for word in words if word)


def _lines(run: RunState) -> Iterator[str]:
    """Lines on one run."""
    yield _headline(run)
    shown = list(run.failed.items())[:_MOST_SHOWN]
    lines = [_going(run), _shards(run)]
    lines.append(f"rows: {count_words(run.statuses)}" if run.statuses else "")
    lines.append(f"why: {run.error}" if run.error else "")
    lines += [f"failed: {name}: {why}" for name, why in shown]
    left = len(run.failed) - len(shown)
    lines.append(f"and {left:,} more that failed" if left else "")
    lines.append(_taken(run))
    if run.state in _FIRST and run.state != "refused":
        lines.append(f"the same command goes on where this one stopped: {run.command}")
    yield from (f"  {line}" for line in lines if line)


def _headline(run: RunState) -> str:
    """Which run it is, and how it stands."""
    part = f" --part {run.part}" if run.part else ""
    last = run.ended or run.last or run.started
    times = f"since {_time(run.started)}"
    if run.state in WELL and run.state != "done":
        word = "" if run.last is None else f", its last word {_ago(run.last)}"
        return f"{run.verb}{part} {_SAID[run.state]}, {times}{word} ({_who(run)})"
    took = duration((last - run.started).total_seconds())
    return f"{run.verb}{part} {_SAID[run.state]}, {_ago(last)}, after {took} ({_who(run)})"


def _who(run: RunState) -> str:
    return f"process {run.process} on {run.host}"


def _time(moment: datetime) -> str:
    return moment.astimezone().isoformat(" ", "seconds")


def _ago(moment: datetime) -> str:
    return f"{duration(max(0, round((datetime.now(UTC) - moment).total_seconds())))} ago"


def _going(run: RunState) -> str:
    """What it does, how far and how fast, how long still; of a run that has ended what it did."""
    found = run.progress
    if run.state == "done" or (found is None and run.phases):
        return "; ".join(
            f"{one.what}: {counted(one.done, one.unit)}, {rate(one.done, one.seconds)}"
            for one in run.phases
            if one.done
        )
    if found is None:
        return f"at: {run.phase}" if run.phase else ""
    words = [f"{found.share:.0%}" if found.share else ""]
    words += [counted(found.done, found.unit), rate(found.done, found.seconds)]
    if found.seconds_left is not None and run.state in WELL:
        words.append(f"{duration(round(found.seconds_left))} left")
    still = 0.0 if run.moved is None else (found.time - run.moved).total_seconds()
    words += [found.said, f"no more since {duration(round(still))}" if still >= _STILL else ""]
    return f"{found.what}: {', '.join(word for word in words if word)}"


def _shards(run: RunState) -> str:
    """How many shards are done, failed and left."""
    if run.shards is None:
        return ""
    before = f" ({run.shards_before:,} before this run)" if run.shards_before else ""
    failed = f", {len(run.failed):,} failed or incomplete" if run.failed else ""
    left = 0 if run.state == "done" else run.shards_left or 0
    done = run.shards - left if run.state == "done" else run.shards_before + run.shards_done
    return f"{done:,} of {counted(run.shards, 'shards')} done{before}{failed}, {left:,} left"


def _taken(run: RunState) -> str:
    """What it has taken, and what it waited for."""
    found = run.taken
    if found is None:
        return ""
    words = [f"{duration(found.cpu_seconds)} of CPU", f"{_size(found.peak_memory)} of memory"]
    words += [f"{_size(found.gpu_memory)} of GPU memory"] if found.gpu_memory else []
    waits = sorted(found.waits.items())
    words += [f"{duration(seconds)} waiting for {what}" for what, seconds in waits]
    return f"took {', '.join(words)}"


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
