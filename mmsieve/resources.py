"""What a run takes: CPU seconds and memory of its processes, memory of GPUs, time spent waiting."""

import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from mmsieve.leftovers import host

_waits: defaultdict[str, float] = defaultdict(float)
_lock = threading.Lock()


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Count the seconds of the block as waiting for `samples` or `servers`."""
    since = time.monotonic()
    try:
        yield
    finally:
        add_wait(what, time.monotonic() - since)


def add_wait(what: str, seconds: float) -> None:
    """Count seconds of waiting, in this process."""
    with _lock:
        _waits[what] += seconds


@dataclass(frozen=True, kw_only=True)
class ProcessUse:
    """What a process and those below it have taken since they began."""

    host: str = field(default_factory=host)
    process: int = field(default_factory=os.getpid)
    below: frozenset[int] = frozenset()
    """The processes below it that live."""
    cpu_seconds: float = 0.0
    """User and system, of those that live and those that ended."""
    memory: int = 0
    """Bytes that are resident now, or were once in one process where that is more."""
    gpu_memory: int = 0
    """The most bytes that tensors of this process took at a time, on all its GPUs."""
    waits: dict[str, float] = field(default_factory=dict)
    """What was waited for -> seconds."""


def measure(tree: bool = True) -> ProcessUse:
    """What this process and those below it take; without `tree`, those that ended alone."""
    times = os.times()
    seconds = times.user + times.system + times.children_user + times.children_system
    memory, below = _peak(), set[int]()
    if tree:
        import psutil  # 25 ms, that short commands can save

        resident = psutil.Process().memory_info().rss
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):  # it has just ended
                resident += child.memory_info().rss
                seconds += sum(child.cpu_times()[:2])
                below.add(child.pid)
        memory = max(memory, resident)
    with _lock:
        waits = dict(_waits)
    return ProcessUse(
        below=frozenset(below),
        cpu_seconds=seconds,
        memory=memory,
        gpu_memory=_gpu_memory(),
        waits=waits,
    )


def _peak() -> int:
    """The most bytes that were resident at a time in this process, or in one that it started."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    most = max(resource.getrusage(who).ru_maxrss for who in whose)
    return most if sys.platform == "darwin" else 1024 * most


def _gpu_memory() -> int:
    """Of torch's allocator, where a GPU has been used."""
    cuda = sys.modules.get("torch.cuda")  # another thread may be importing it in this moment
    if cuda is None or not getattr(cuda, "is_initialized", bool)():
        return 0
    return sum(map(cuda.max_memory_allocated, range(cuda.device_count())))
