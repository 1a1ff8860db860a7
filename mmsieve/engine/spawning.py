"""How processes of this machine are started: without the caller's script, and never outliving it.

`spawn`, on every system: a fork of a process with torch's threads can deadlock.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing import connection, resource_tracker
from types import ModuleType

_SCRIPT = "__main__"
CONTEXT = multiprocessing.get_context("spawn")
"""Of all processes that are started here."""


def needs_script(pickled: bytes) -> bool:
    """Whether what a process is given is defined in the caller's script, and not in a module.

    In a process that was started with the script it has another name.
    """
    return any(name in pickled for name in (b"__main__", b"__mp_main__"))


@contextmanager
def starting(with_script: bool, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """Processes that start in the block begin deaf, apart from the script, and with these variables
    in their environment."""
    resource_tracker.ensure_running()  # which begins with a mask of its own
    with ExitStack() as stack:
        stack.enter_context(_starting_deaf())
        if not with_script:
            stack.enter_context(_starting_apart())
        stack.enter_context(_with_environment(environment or {}))
        yield


def settle_in() -> None:
    """To be called first by a process that was started so: it ends with the one that started it.

    SIGINT is for that one, which says it all.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """End this process when the one that started it is gone, however it went (kill -9 too)."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


@contextmanager
def _starting_deaf() -> Iterator[None]:
    """Let processes that start in the block not hear SIGINT, where the system can have it so.

    One that is interrupted as it begins would say so: what is asked to end is this process.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _starting_apart() -> Iterator[None]:
    """Let processes start in the block without the caller's script.

    `spawn` runs the file of `__main__` in each of them, so a script without a guard would run
    again and again. What a preparer is made of is imported by its own name; it needs the script
    only where it is defined there.
    """
    script = sys.modules[_SCRIPT]
    sys.modules[_SCRIPT] = ModuleType(_SCRIPT)
    try:
        yield
    finally:
        sys.modules[_SCRIPT] = script


@contextmanager
def _with_environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
