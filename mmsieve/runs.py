"""What a run does, written beside its output while it does it.

Beside OUT lies the folder `.OUT.run` with `run.json`, the last run, and `events.jsonl`, what
happened in all runs, a record a line: runs only add to it (of --part I/N, as each part is a run:
`run.I-of-N.json`, `events.I-of-N.jsonl`). The records are those of --log-json. Who holds the
output's lock writes them; there are none of a request that was refused before its work began.
Beside an output at a store lie copies, as old as the last progress: objects can't grow.
"""

import json
import os
import platform
import re
import shlex
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from mmsieve.errors import WRONG_REQUEST, as_ordered, exit_code
from mmsieve.leftovers import hidden_name, hidden_place, leftovers_of, remove, scratch_folder
from mmsieve.resources import ProcessUse, measure
from mmsieve.sanitize import Record, heard_by, redact_all, tell, write
from mmsieve.stores.paths import is_lost, is_stored

STATES = {0: "done", 1: "failed", 2: "refused", 130: "interrupted", 143: "terminated"}
"""Exit code -> how a run ended."""
RUNNING = "running"
_FIRST, _OFTEN, _SELDOM, _LONG = 2.0, 10.0, 60.0, 600.0
"""Seconds until progress is first recorded, between records, and between those of a long run."""
_LIBRARIES = ("torch", "transformers", "polars", "pyarrow", "duckdb", "numpy", "PIL", "ray", "vllm")
"""Whose versions are recorded, where they are used."""

_RUN_FILE = re.compile(r"run(?:\.([0-9]+)-of-([0-9]+))?\.json")

Facts: TypeAlias = Callable[[], dict[str, Any]]
"""How far some work has come, asked now and then."""


@dataclass(frozen=True)
class RunFiles:
    """Where an output's runs are recorded: its run folder, and which part of a job array."""

    folder: Path
    part: str | None = None

    @classmethod
    def of(cls, folder: Path, name: str, part: str | None = None) -> "RunFiles":
        """Those of the output `name`, whose locks lie in `folder`."""
        return cls(folder / hidden_name(name, "run"), part)

    @property
    def run(self) -> Path:
        """The last run."""
        return self.folder / f"run{self._of_part}.json"

    @property
    def events(self) -> Path:
        """What happened in all runs."""
        return self.folder / f"events{self._of_part}.jsonl"

    @property
    def _of_part(self) -> str:
        return "" if self.part is None else f".{part_name(self.part)}"

    def parts(self) -> list["RunFiles"]:
        """This one, if it has been written, and those of all parts."""
        found = (_RUN_FILE.fullmatch(path.name) for path in self.folder.glob("run*.json"))
        parts = [None if one[1] is None else f"{one[1]}/{one[2]}" for one in found if one]
        return [RunFiles(self.folder, part) for part in parts]


def part_name(part: str) -> str:
    """I/N as it is in names of files: I-of-N."""
    return part.replace("/", "-of-")


class RunLog:
    """The record of a run of a verb, from the time at which it holds its output."""

    def __init__(self, verb: str) -> None:
        self.held = ExitStack()
        """What is let go when the run has ended: the locks of its outputs."""
        self._started, self._clock = _now(), time.monotonic()
        self._verb, self._command = verb, _COMMAND.get() or f"{verb}, from Python"
        self._files: RunFiles | None = None
        self._at_store: RunFiles | None = None
        self._out = Path()
        self._file: BinaryIO | None = None
        self._pending: list[Record] = []
        self._noted: dict[str, Any] = {}
        self._phases: list[dict[str, Any]] = []
        self._statuses: Counter[str] = Counter()
        self._shards: Counter[str] = Counter()
        self._progress: Facts | None = None
        self._shown = 0.0
        self._before = measure(tree=False)
        self._memory, self._cpu = 0, 0.0
        self._elsewhere: dict[tuple[str, int], ProcessUse] = {}
        self._below: set[int] = set()
        self._lock = threading.RLock()
        self._putting = threading.Lock()
        self._said = False
        self._ended = threading.Event()
        self._process = os.getpid()

    # What others say of the run

    def attach(self, files: RunFiles, out: Path) -> None:
        """The run holds its output now; of several outputs the first has the record."""
        if self._files is not None:
            return
        if is_stored(files.folder):
            self._at_store = files
            try:
                files = RunFiles(self.held.enter_context(scratch_folder()), files.part)
            except OSError as error:
                self._give_up(error)
                return
        self._files, self._out = files, out
        self.held.enter_context(heard_by(self._hear))
        threading.Thread(target=self._watch, daemon=True, name="mmsieve-run").start()
        self.held.callback(self._close)

    def note(self, **facts: Any) -> None:
        """Something to be known of the whole run, such as its fingerprint."""
        self._noted |= redact_all(facts)
        if self._file is not None:
            tell("plan", **facts)

    def count(self, statuses: dict[str, int], is_failed: bool, use: ProcessUse | None) -> None:
        """A shard is done, or has failed; by what another process took, if it was one."""
        with self._lock:
            self._statuses.update(statuses)
            self._shards["failed" if is_failed else "done"] += 1
            if use is not None:
                self._elsewhere[use.host, use.process] = use

    def follow(self, facts: Facts | None) -> None:
        """From now on, this tells how far the work is."""
        self._progress = facts

    def phase(self, facts: dict[str, Any]) -> None:
        """A phase of the work has ended."""
        names = ("what", "unit", "done", "seconds", "per_second")
        with self._lock:
            self._phases.append({name: facts[name] for name in names if name in facts})

    def facts(self) -> dict[str, Any] | None:
        """Who it is, how far it is, what it has taken; None where it holds no output."""
        if self._files is None or self._ended.is_set():
            return None
        return self._about() | (self.live() if self._progress is None else self._progress())

    # What is written

    def begin(self) -> None:
        """The work has begun: from here on there is a record on disk."""
        if self._file is None and self._files is not None and not self._ended.is_set():
            with self._lock:
                if self._file is None and not self._ended.is_set():
                    self._open(self._files)
            self._put()

    def end(self, code: int, facts: dict[str, Any], error: str = "") -> None:
        """The run has ended."""
        if self._files is None or self._ended.is_set():
            return
        with self._lock:
            if code == WRONG_REQUEST and self._file is None:
                self._ended.set()
                return
        self.begin()
        state = STATES.get(code, "failed")
        with self._lock:
            tell("end", error, **facts | self.live(tree=False), code=code, state=state)
            self._ended.set()
        ended = {"ended": _now(), "code": code, "error": error or None, "phases": self._phases}
        report = redact_all(facts)
        self._write_run(state=state, **ended, **self.live(tree=False), report=report)
        self._close()
        self._put(last=True)

    def fail(self, error: BaseException) -> None:
        """The run ends with an exception."""
        error = as_ordered(error)
        said = "" if isinstance(error, KeyboardInterrupt | SystemExit) else str(error)
        kind = (
            "" if not said or type(error).__module__.startswith("mmsieve") else type(error).__name__
        )
        self.end(exit_code(error), {}, f"{kind}: {said}".lstrip(": "))

    def live(self, tree: bool = True) -> dict[str, Any]:
        """Counts per status and shards, what was taken until now; of living processes if `tree`."""
        use = measure(tree)
        with self._lock:
            self._below |= use.below
            others = list(self._elsewhere.values())
            apart = [o for o in others if o.host != use.host or o.process not in self._below]
            self._memory = max(self._memory, use.memory)
            cpu = use.cpu_seconds - self._before.cpu_seconds + sum(o.cpu_seconds for o in apart)
            self._cpu = max(self._cpu, cpu)  # of Ray's processes nothing is left when they end
            waits = Counter(use.waits)
            waits.subtract(self._before.waits)
            for other in others:
                waits.update(other.waits)
            return {
                "statuses": dict(self._statuses),
                "shards_done": self._shards["done"],
                "shards_failed": self._shards["failed"],
                "run_seconds": round(time.monotonic() - self._clock, 1),
                "cpu_seconds": round(self._cpu, 2),
                "peak_memory": self._memory + sum(o.memory for o in apart),
                "gpu_memory": use.gpu_memory + sum(o.gpu_memory for o in others),
                "waits": {what: round(one, 2) for what, one in waits.items() if one > 0},
            }

    def _open(self, files: RunFiles) -> None:
        try:
            files.folder.mkdir(parents=True, exist_ok=True)
            for left in leftovers_of(files.run):
                remove(left)
            if self._at_store is not None:
                with suppress(FileNotFoundError):  # the first run there
                    files.events.write_bytes(self._at_store.events.read_bytes())
            self._file = files.events.open("ab", buffering=0)
            if self._file.tell():  # a line that a killed run left half written
                self._append(b"\n" if _last_byte(files.events) != b"\n" else b"")
        except OSError as error:
            self._give_up(error)
            return
        begun = {"time": self._started, "event": "begin", "text": ""} | self._about()
        for record in [begun, *self._pending]:
            self._append(_line(record))
        self._pending.clear()
        self._write_run(state=RUNNING)

    def _about(self) -> dict[str, Any]:
        return {
            "verb": self._verb,
            "part": None if self._files is None else self._files.part,
            "command": redact_all(self._command),
            "out": redact_all(str(self._out)),
            "host": socket.gethostname(),
            "process": self._process,
            "started": self._started,
            "version": version("mmsieve"),
            "python": platform.python_version(),
            **self._noted,
        }

    def _write_run(self, **facts: Any) -> None:
        if self._files is None:  # it was given up
            return
        found = ((name, getattr(sys.modules.get(name), "__version__", None)) for name in _LIBRARIES)
        libraries = {name: str(one) for name, one in found if one is not None}
        about = self._about() | {"libraries": libraries} | facts
        temporary = hidden_place(self._files.run)
        try:
            temporary.write_text(json.dumps(about, indent=1, default=str) + "\n", "utf-8")
            temporary.replace(self._files.run)
        except OSError as error:
            remove(temporary)
            self._give_up(error)

    def _put(self, last: bool = False) -> None:
        """Put the record to the store, where the output is at one that no other run took over.

        One after the other, so that the `last` stays. Where that fails it is said once, and tried
        again with the next progress.
        """
        failed = None
        with self._putting:
            files, stored = self._files, self._at_store
            if files is None or stored is None or (self._ended.is_set() and not last):
                return
            try:
                for local, place in ((files.events, stored.events), (files.run, stored.run)):
                    if is_stored(place) and not is_lost(self._out):
                        place.put(local)
            except OSError as error:
                failed = error
        if failed is not None and not self._said:
            self._said = True
            self._say(failed)

    def _hear(self, record: Record) -> None:
        """What is told becomes a line; progress of a long run only now and then."""
        if os.getpid() != self._process:  # a fork, whose lines are its own
            return
        with self._lock:
            if self._ended.is_set():
                return
            if record["event"] == "progress":
                now = time.monotonic()
                if now - self._shown < 0.9 * self._interval():
                    return
                self._shown = now
            if self._file is None:
                self._pending.append(record)
            else:
                self._append(_line(record))

    def _append(self, line: bytes) -> None:
        if self._file is None or self._file.closed:
            return
        try:
            self._file.write(line)
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """The run goes on without a record of what it does, and says so."""
        self._close()
        self._say(error)
        self._files = None

    def _say(self, error: OSError) -> None:
        files = self._at_store or self._files
        place = "" if files is None else f" in {files.folder}"
        write(f"what this run does is not recorded{place}: {error}", sys.stderr)

    def _close(self) -> None:
        self._ended.set()
        with self._putting:  # what is read there may be removed now
            pass
        if self._file is not None:
            self._file.close()

    def _interval(self) -> float:
        return _OFTEN if time.monotonic() - self._clock < _LONG else _SELDOM

    def _watch(self) -> None:
        """Record progress where nothing else does; runs in a thread of its own."""
        wait = _FIRST
        while not self._ended.wait(wait):
            self.begin()
            if self._progress is None:
                tell("alive", **self.live())
            else:
                tell("progress", **self._progress())
            self._put()
            wait = self._interval()


def _line(record: Record) -> bytes:
    return f"{json.dumps(record, default=str)}\n".encode()


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


_RUN: ContextVar[RunLog | None] = ContextVar("run", default=None)
_COMMAND: ContextVar[str | None] = ContextVar("command", default=None)
_under_way: list[RunLog] = []


def runs_under_way() -> list[dict[str, Any]]:
    """The facts of the runs of this process, asked from any thread."""
    return [facts for run in tuple(_under_way) if (facts := run.facts()) is not None]


def current_run() -> RunLog | None:
    """The record of the verb that is carried out, if one is."""
    return _RUN.get()


def note_facts(**facts: Any) -> None:
    """Say something that is to be known of the whole run."""
    if (run := current_run()) is not None:
        run.note(**facts)


@contextmanager
def carrying_out(verb: str) -> Iterator[RunLog]:
    """The record of a verb that the block carries out; what it holds is let go at the end."""
    log = RunLog(verb)
    before = _RUN.set(log)
    _under_way.append(log)
    try:
        with log.held:
            try:
                yield log
            except BaseException as error:
                log.fail(error)
                raise
    finally:
        _under_way.remove(log)
        _RUN.reset(before)


@contextmanager
def as_typed(words: Sequence[str]) -> Iterator[None]:
    """Let the verbs in the block be known as those of this command line."""
    before = _COMMAND.set(shlex.join(["mmsieve", *words]))
    try:
        yield
    finally:
        _COMMAND.reset(before)
