"""How the runs of an output stand, from their records and locks; they may be other machines'."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import TypeAdapter, ValidationError

from mmsieve.errors import RequestError
from mmsieve.locks import Holder, find_holders, lock_places
from mmsieve.runs import RUNNING, RunFiles
from mmsieve.stores.paths import as_path, is_stored
from mmsieve.validated import read_json_file

State: TypeAlias = Literal[
    "starting",
    "running",
    "unknown",
    "done",
    "failed",
    "refused",
    "interrupted",
    "terminated",
    "killed",
]
"""`killed`: the run ended without a word. `unknown`: as `running`, but nobody here can know."""
WELL: tuple[State, ...] = ("starting", "running", "unknown", "done")
MOST_FAILED = 1000
"""Failed shards of a run that are remembered with their reasons."""


@dataclass(frozen=True)
class RunPhase:
    """What a run did for a while, and how fast."""

    what: str
    unit: str
    done: int
    seconds: float


@dataclass(frozen=True)
class _Stored:
    """What run.json says, as far as it is needed."""

    verb: str
    command: str
    host: str
    process: int
    started: datetime
    state: State
    ended: datetime | None = None
    error: str | None = None
    shards: int | None = None
    shards_before: int = 0
    phases: tuple[RunPhase, ...] = ()
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RunEvent:
    """A line of events.jsonl, as far as it is needed: of any event, of a shard, of progress."""

    time: datetime
    event: str
    text: str = ""
    shard: str = ""
    statuses: dict[str, int] = field(default_factory=dict)
    what: str = ""
    unit: str = ""
    done: int = 0
    share: float = 0.0
    seconds: float = 0.0
    seconds_left: float | None = None
    per_second: float = 0.0
    said: str = ""
    cpu_seconds: float = 0.0
    peak_memory: int = 0
    gpu_memory: int = 0
    waits: dict[str, float] = field(default_factory=dict)


_STORED = TypeAdapter(_Stored)
_EVENT = TypeAdapter(RunEvent)


@dataclass(kw_only=True)
class RunState:
    """How a run stands: the last of an output, or of a part of it."""

    verb: str
    part: str | None
    state: State
    command: str
    host: str
    process: int
    started: datetime
    last: datetime | None = None
    """Of its last word."""
    moved: datetime | None = None
    """When its progress was last more than before."""
    ended: datetime | None = None
    error: str = ""
    phase: str = ""
    """What it does, or did last."""
    shards: int | None = None
    shards_before: int = 0
    """Those that an earlier run had done."""
    shards_done: int = 0
    shards_failed: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    """What failed, or is incomplete -> why."""
    progress: RunEvent | None = None
    """How far the phase was when it last said so."""
    taken: RunEvent | None = None
    """What it has taken, and what it waited for, when it last said so."""
    phases: tuple[RunPhase, ...] = ()

    @property
    def shards_left(self) -> int | None:
        """Those without a table; None where the work is not cut into shards."""
        if self.shards is None:
            return None
        return max(0, self.shards - self.shards_before - self.shards_done)

    @property
    def is_well(self) -> bool:
        """Whether nothing has gone wrong."""
        return self.state in WELL and not self.failed

    def hear(self, said: RunEvent) -> None:
        """Take in what the run has said, in order."""
        self.last = said.time
        match said.event:
            case "begin":
                self.phase, self.progress, self.taken = "", None, None
                self.statuses, self.failed = {}, {}
                self.shards_done = self.shards_failed = 0
            case "phase":
                self.phase, self.progress = said.text, None
            case "progress":
                before = self.progress
                if before is None or (before.what, before.done) != (said.what, said.done):
                    self.moved = said.time
                self.progress = self.taken = said
            case "alive" | "end":
                self.taken = said
            case "shard":
                self.statuses = dict(Counter(self.statuses) + Counter(said.statuses))
                if not said.text:
                    self.shards_done += 1
                    return
                self.shards_failed += 1
                if len(self.failed) < MOST_FAILED:
                    self.failed[said.shard] = said.text


def find_runs(out: Path) -> list[RunState]:
    """The runs of an output that stand last: one, or one of each part of a job array.

    Raises RequestError where there is no record of any.
    """
    place = as_path(out) if is_stored(out) else Path(os.path.realpath(out))
    holders = {holder.part: holder for holder in find_holders(place)}
    states = {}
    for folder, name in lock_places(place):
        for files in RunFiles.of(folder, name).parts():
            state = _read(files, holders.pop(files.part, None))
            states[state.part] = state
    for part, holder in holders.items():
        if holder.lives is not False:
            states[part] = _starting(holder)
    if not states:
        raise RequestError(
            f"{out}: no run is recorded beside it; name what a verb was given as --out, in the "
            "place where it was written"
        )
    return _last(states.values())


def _last(states: Iterable[RunState]) -> list[RunState]:
    """Of runs of the whole and of parts, those that belong to the last one."""
    found = sorted(states, key=lambda state: state.started)
    count = _count(found[-1])
    return sorted((s for s in found if _count(s) == count), key=lambda state: _number(state))


def _count(state: RunState) -> str | None:
    return None if state.part is None else state.part.partition("/")[2]


def _number(state: RunState) -> int:
    return 0 if state.part is None else int(state.part.partition("/")[0])


def _starting(holder: Holder) -> RunState:
    return RunState(
        verb=holder.verb,
        part=holder.part,
        state="starting",
        command="",
        host=holder.host,
        process=holder.process,
        started=holder.since,
    )


def _read(files: RunFiles, holder: Holder | None) -> RunState:
    """How a recorded run stands; `holder`: who has, or had, the lock of its output."""
    fix = "the record is damaged: remove it"
    stored = read_json_file(files.run, _STORED, fix)
    if holder is not None and holder.lives is not False and holder.process != stored.process:
        return _starting(holder)
    state = RunState(
        verb=stored.verb,
        part=files.part,
        state=_state(stored, holder),
        command=stored.command,
        host=stored.host,
        process=stored.process,
        started=stored.started,
        ended=stored.ended,
        error=stored.error or "",
        shards=stored.shards,
        shards_before=stored.shards_before,
        phases=stored.phases,
    )
    for said in _events(files.events):
        state.hear(said)
    failed = stored.report.get("failed")
    if isinstance(failed, dict):
        state.failed |= {str(name): str(why) for name, why in failed.items()}
    return state


def _state(stored: _Stored, holder: Holder | None) -> State:
    if stored.state != RUNNING:
        return stored.state
    if holder is None or holder.lives is False:
        return "killed"
    return "running" if holder.lives else "unknown"


def _events(file: Path) -> Iterator[RunEvent]:
    """What runs have said, in order; a line that isn't whole is passed over."""
    if not file.exists():
        return
    with file.open("rb") as lines:
        for line in lines:
            with suppress(ValidationError):
                yield _EVENT.validate_json(line)
