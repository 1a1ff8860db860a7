"""Runs of the command line in forks of this process, with limits on memory and time."""

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

MOST_BYTES = 2 << 30
MOST_SECONDS = 10.0
"""Of its own time: a busy machine is slow, not wrong."""
_MOST_WAITING = 60.0


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
        _be(be, folder, notes)
    seconds, peak, status = _watch(child, most_seconds)
    said = notes.read_text("utf-8", "replace")
    return Outcome(os.waitstatus_to_exitcode(status), said, seconds, peak)


def _watch(child: int, most_seconds: float) -> tuple[float, int, int]:
    """Own seconds, most bytes and wait status of a process, ended where it goes beyond limits."""
    begin = time.monotonic()
    peak, pause = 0, 0.002
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            return usage.ru_utime + usage.ru_stime, max(peak, usage.ru_maxrss << 10), status
        seconds = 0.0
        with contextlib.suppress(OSError, IndexError):
            peak = max(peak, int(Path(f"/proc/{child}/statm").read_text().split()[1]) << 12)
            fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
            seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        late = time.monotonic() - begin > _MOST_WAITING + most_seconds
        if peak > MOST_BYTES or seconds > most_seconds or late:
            os.kill(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            used = usage.ru_utime + usage.ru_stime
            return max(used, _MOST_WAITING if late else 0), max(peak, usage.ru_maxrss << 10), status
        time.sleep(pause)
        pause = min(0.02, pause * 2)


def _be(be: Callable[[], None], folder: Path, notes: Path) -> None:
    code = 98
    try:
        said = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
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
        os._exit(code)
