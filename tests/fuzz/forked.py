"""Runs of the command line in forks of this process, with limits on memory and time."""

import contextlib
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

MOST_BYTES = 2 << 30
MOST_SECONDS = 10.0
"""Of its own time: a busy machine is slow, not wrong."""
_MOST_WAITING = 60.0
_MOST_RUNS = 100
"""Of one worker, so that what runs leave behind in a process stays little."""
_STALE = 1 << 30
"""Bytes of a worker from which the next run gets a new one."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    code: int
    """Negative: the signal that ended it."""
    said: str
    seconds: float
    peak: int
    """Bytes in memory at most."""

    @property
    def problem(self) -> str | None:
        """What is wrong with that end, if anything."""
        checks = {
            "traceback": "Traceback (most recent call last)" in self.said,
            "panic": "panicked at" in self.said,
            "memory": self.peak > MOST_BYTES,
            "time": self.seconds > MOST_SECONDS,
            "exit code": self.code not in (0, 1, 2),
            "silence": not self.said.strip(),
            "internal error": "internal error" in self.said,
        }
        return next((name for name, is_so in checks.items() if is_so), None)


def run(words: Sequence[str], folder: Path, notes: Path) -> Outcome:
    """Run a command line in a folder; what it says goes to the file `notes` on the way."""

    def be() -> None:
        from mmsieve.cli import main

        main(list(words))

    return run_function(be, folder, notes)


def run_function(
    be: Callable[[], None], folder: Path, notes: Path, most_seconds: float = MOST_SECONDS
) -> Outcome:
    """Run a function in a fork that ends with it."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os._exit(_be(be, folder, notes))
    watched = _Watched(child, most_seconds)
    while not watched.is_over():
        time.sleep(watched.pause())
    return watched.outcome(notes)


class Worker:
    """A fork that carries out one command line after another: much faster than a fork each.

    What one run leaves in the process may reach later ones, so a problem counts if a fork of its
    own has it too.
    """

    def __init__(self) -> None:
        self._child: int | None = None
        self._runs = 0

    def run(self, words: Sequence[str], folder: Path, notes: Path) -> Outcome:
        """Run a command line in a folder, within the limits; beyond them the fork is ended."""
        if self._child is None:
            self._begin()
        assert self._child is not None
        self._runs += 1
        watched = _Watched(self._child, MOST_SECONDS)
        notes.write_bytes(b"")
        order = json.dumps([list(words), str(folder), str(notes)])
        os.write(self._orders, order.encode() + b"\n")
        while not select.select([self._answers], [], [], watched.pause())[0]:
            if watched.is_over():
                return self._ended(watched, notes)
        answer = self._reader.readline()
        if not answer:
            while not watched.is_over():
                time.sleep(watched.pause())
            return self._ended(watched, notes)
        outcome = Outcome(**json.loads(answer))
        if self._runs >= _MOST_RUNS or outcome.peak > _STALE:
            self.close()
        return outcome

    def close(self) -> None:
        """End the fork; the next run gets a new one."""
        if self._child is not None:
            os.kill(self._child, signal.SIGKILL)
            os.waitpid(self._child, 0)
            self._forget()

    def _ended(self, watched: "_Watched", notes: Path) -> Outcome:
        self._forget()
        return watched.outcome(notes)

    def _forget(self) -> None:
        os.close(self._orders)
        self._reader.close()
        self._child, self._runs = None, 0

    def _begin(self) -> None:
        sys.stdout.flush()
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(self._orders)
            os.close(self._answers)
            _obey(orders, answers)
        os.close(orders)
        os.close(answers)
        self._reader = os.fdopen(self._answers, encoding="utf-8")


def _obey(orders: int, answers: int) -> None:
    """Be a worker: this is the fork."""
    from mmsieve.cli import main

    try:
        for line in os.fdopen(orders, encoding="utf-8"):
            words, folder, notes = json.loads(line)
            Path("/proc/self/clear_refs").write_text("5", "utf-8")  # the peak begins anew
            before = _own_seconds()
            code = _be(lambda words=words: main(words), Path(folder), Path(notes))  # type: ignore[misc]
            seconds = _own_seconds() - before
            status = Path("/proc/self/status").read_text("utf-8")
            peak = int(status.partition("VmHWM:")[2].split()[0]) << 10
            said = Path(notes).read_text("utf-8", "replace")
            outcome = Outcome(code, said, seconds, peak)
            os.write(answers, json.dumps(asdict(outcome)).encode() + b"\n")
    finally:
        os._exit(96)


def _own_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


class _Watched:
    """A process during a run, ended where it goes beyond limits."""

    def __init__(self, process: int, most_seconds: float) -> None:
        self._process, self._most = process, most_seconds
        self._begin, self._pause = time.monotonic(), 0.002
        self._peak, self._code = 0, 0
        self._before = self._seconds = 0.0
        self._before = self._look()

    def pause(self) -> float:
        """Seconds until it is looked at again."""
        self._pause = min(0.02, self._pause * 2)
        return self._pause

    def is_over(self) -> bool:
        """Whether it has ended, or had to be."""
        done, status, usage = os.wait4(self._process, os.WNOHANG)
        if not done:
            self._seconds = self._look() - self._before
            late = time.monotonic() - self._begin > _MOST_WAITING + self._most
            if self._peak <= MOST_BYTES and self._seconds <= self._most and not late:
                return False
            os.kill(self._process, signal.SIGKILL)
            _, status, usage = os.wait4(self._process, 0)
            self._seconds = max(self._seconds, _MOST_WAITING if late else 0.0)
        self._seconds = max(self._seconds, usage.ru_utime + usage.ru_stime - self._before)
        if self._before == 0:
            self._peak = max(self._peak, usage.ru_maxrss << 10)
        self._code = os.waitstatus_to_exitcode(status)
        return True

    def outcome(self, notes: Path) -> Outcome:
        """How it ended."""
        said = notes.read_text("utf-8", "replace")
        return Outcome(self._code, said, self._seconds, self._peak)

    def _look(self) -> float:
        """Its seconds until now."""
        with contextlib.suppress(OSError, IndexError):
            place = Path("/proc", str(self._process))
            self._peak = max(self._peak, int((place / "statm").read_text().split()[1]) << 12)
            fields = (place / "stat").read_text().rpartition(")")[2].split()
            return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
        return self._before + self._seconds


def _be(be: Callable[[], None], folder: Path, notes: Path) -> int:
    """Be the run: this is a fork; returns the exit code."""
    code = 98
    try:
        said = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.close(said)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        os.chdir(folder)
        be()
        code = 0
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 97
    except BaseException:  # noqa: BLE001 - whatever it is, it is told
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
    return code
