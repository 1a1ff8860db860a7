"""What else the world does to a run: signals, a full disk, sources that change, clocks that jump.

Each fault is drawn from a seed and a number, which name it when it is done again. A run meets
it; then it is gone, the same command is run again, and what is there is what an undisturbed run
leaves.
"""

import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from tests.chaos.storage import Orders

Prepare = Callable[[], Callable[[], object]]
"""Done in the run's process before it begins; returns what makes it undone after it."""


@dataclass(frozen=True)
class Fault:
    """What happens to one run."""

    words: str
    """What it is, for whoever reads of a problem."""
    prepare: Prepare
    """How it comes about, in the run's own process."""
    codes: tuple[int, ...]
    """Exit codes that a run may end with that meets it."""
    folder: Path | None = None
    """What is in it is restored before the command is run again."""


_SMALLEST = 600
"""Of the limits that are drawn, in bytes."""
_SAID = 2500
"""Bytes that a command may say: that goes into a file, too."""
_YEAR = 365 * 86400.0


@dataclass(frozen=True)
class Facts:
    """What is known of a command's undisturbed run."""

    seconds: float
    """That it takes."""
    largest: int
    """Bytes of the largest file that it writes."""
    files: list[Path]
    """What it may read."""
    orders: Orders | None = None
    """Those of the web server that it reads from."""
    devices: bool = False
    """Whether it has processes of its own."""


def draw(number: int, seed: str, facts: Facts) -> Fault:
    """The fault of a number; kinds come in turn, so that few of them show each."""
    rng = random.Random(f"{seed} {number}")
    kinds = [_signal, _full, _change, _clock]
    if facts.orders is not None:
        kinds = [_storage]
    elif facts.devices:
        kinds = [_kill]
    return kinds[number % len(kinds)](rng, facts)


def _signal(rng: random.Random, facts: Facts) -> Fault:
    """SIGTERM or SIGINT at any moment."""
    which, code = rng.choice([(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    after = rng.uniform(0.001, facts.seconds)

    def send() -> None:
        os.kill(os.getpid(), which)

    return Fault(f"{which.name} after {after:.3f} s", lambda: _later(after, send), (0, code))


def _full(rng: random.Random, facts: Facts) -> Fault:
    """No file may grow beyond so many bytes, as at the end of a quota or a disk."""
    limit = max(_SAID, rng.randint(_SMALLEST, max(_SMALLEST, facts.largest)))

    def prepare() -> Callable[[], object]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return Fault(f"no file over {limit} bytes", prepare, (0, 1))


def _change(rng: random.Random, facts: Facts) -> Fault:
    """A file that is read ends earlier, is another or is gone, from some moment on."""
    file = rng.choice(facts.files)
    after = rng.choice([0.0, rng.uniform(0, facts.seconds)])
    size = file.stat().st_size
    changes: dict[str, Callable[[], object]] = {
        "is cut": lambda: os.truncate(file, rng.randrange(size)),
        "is gone": file.unlink,
        "is empty": lambda: os.truncate(file, 0),
        "is overwritten": lambda: file.write_bytes(bytes(size)),
    }
    name = rng.choice(sorted(changes))
    words = f"{file.name} {name} after {after:.3f} s"
    return Fault(words, lambda: _later(after, changes[name]), (0, 1, 2), file.parent)


def _clock(rng: random.Random, facts: Facts) -> Fault:
    """The clock jumps by up to a year, back or forth, each time that it is looked at."""
    real = time.time

    def prepare() -> Callable[[], object]:
        time.time = lambda: real() + rng.uniform(-_YEAR, _YEAR)

        def undo() -> None:
            time.time = real

        return undo

    return Fault("the clock jumps", prepare, (0,))


def _storage(rng: random.Random, facts: Facts) -> Fault:
    """The storage that is read from says 500, stalls, ends early, or has another length."""
    orders, seed = facts.orders, rng.randrange(1 << 30)
    assert orders is not None

    def prepare() -> Callable[[], object]:
        orders.fail(seed)
        return orders.be_well

    return Fault(f"a storage that fails by {seed}", prepare, (0, 1, 2))


def _kill(rng: random.Random, facts: Facts) -> Fault:
    """SIGKILL to one of the processes that a run has for its devices; it begins another."""
    after = rng.uniform(0.3, 0.9) * facts.seconds

    def send() -> None:
        with suppress(ProcessLookupError):
            if found := _children():
                os.kill(rng.choice(found), signal.SIGKILL)

    return Fault(f"a process is killed after {after:.3f} s", lambda: _later(after, send), (0,))


def _children() -> list[int]:
    """Processes that this one has spawned for work."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            is_ours = f"PPid:\t{os.getpid()}\n" in (place / "status").read_text("utf-8")
            if is_ours and b"spawn_main" in (place / "cmdline").read_bytes():
                found.append(int(place.name))
    return sorted(found)


def _later(seconds: float, act: Callable[[], object]) -> Callable[[], object]:
    """Do it from a thread of this process, unless the run is over before."""
    is_over = []

    def wait() -> None:
        time.sleep(seconds)
        if not is_over:
            act()

    Thread(target=wait, daemon=True).start()
    return lambda: is_over.append(True)


class Ends:
    """How each fault ended, in a file: what is there isn't done again."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / "faults.txt" if folder else None
        self._done = set()
        if self._path and self._path.exists():
            lines = self._path.read_text("utf-8").splitlines()
            self._done = {line.rpartition("\t")[0] for line in lines if line.endswith("\tgood")}

    def left(self, name: str, seed: int, count: int) -> Iterator[int]:
        """The numbers that haven't ended well yet."""
        return (n for n in range(count) if f"{name}\t{seed}\t{n}" not in self._done)

    def add(self, name: str, seed: int, number: int, is_good: bool) -> None:
        """Note an end."""
        if self._path:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{name}\t{seed}\t{number}\t{'good' if is_good else 'bad'}\n")


@contextmanager
def met(fault: Fault | None) -> Iterator[None]:
    """A block during which a fault may happen."""
    undo = fault.prepare() if fault else lambda: None
    try:
        yield
    finally:
        undo()
        sys.stdout.flush()
