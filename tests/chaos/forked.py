"""Runs of the command line in forks of this process, killed before a given change of files."""

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.chaos.faults import Fault, met

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PLACES = {
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((0, 2), (1, 3)),
    "os.symlink": ((1, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.truncate": ((0, None),),
}
"""Event -> where in its arguments its paths are, and the folders that those are relative to."""


class Changes:
    """Counts what this process changes below a folder; an audit hook."""

    def __init__(self, folder: Path, kill_at: int | None) -> None:
        self._folder = os.fspath(folder) + os.sep
        self._kill_at = kill_at
        self.seen: list[str] = []

    def __call__(self, event: str, given: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = given
            paths = [self._full(path, None)] if flags and flags & WRITING else []
        else:
            places = PLACES.get(event, ())
            paths = [self._full(given[p], None if d is None else given[d]) for p, d in places]
        if not any(path.startswith(self._folder) for path in paths):
            return
        self.seen.append(f"{event} {' '.join(path.removeprefix(self._folder) for path in paths)}")
        if len(self.seen) == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def _full(self, path: Any, folder: int | None) -> str:
        """An absolute path; one that stands for an open file is of no interest."""
        if isinstance(path, int) or path is None:
            return ""
        name = Path(os.fsdecode(path))
        if not name.is_absolute():
            here = folder in (None, -1)
            name = (Path.cwd() if here else Path(f"/proc/self/fd/{folder}").readlink()) / name
        return os.path.normpath(name)


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    code: int
    """Negative: the signal that ended it."""
    said: str
    """On stdout and stderr."""
    changes: Sequence[str]
    """What it changed below the folder, where it came to its end."""
    modules: Sequence[str]
    """What it had imported in the end."""


class Run:
    """A run of the command line in a fork of this process."""

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        notes: Path,
        *,
        kill_at: int | None = None,
        delay: float = 0.0,
        fault: Fault | None = None,
    ) -> None:
        """`folder`: where it runs, and whose changes count; `notes`: files of the harness."""
        self._notes = notes
        notes.mkdir(parents=True, exist_ok=True)
        for name in ("said.txt", "ended.json"):
            (notes / name).unlink(missing_ok=True)
        self._process = os.fork()
        if self._process == 0:
            try:
                self._be(words, Changes(folder, kill_at), folder, delay, fault)
            finally:
                os._exit(99)

    def wait(self) -> Outcome:
        """Wait for its end."""
        _, status = os.waitpid(self._process, 0)
        ended: dict[str, Any] = {"changes": [], "modules": []}
        with contextlib.suppress(FileNotFoundError):
            ended = json.loads((self._notes / "ended.json").read_text("utf-8"))
        said = (self._notes / "said.txt").read_text("utf-8", "replace")
        return Outcome(os.waitstatus_to_exitcode(status), said, **ended)

    def _be(
        self,
        words: Sequence[str],
        changes: Changes,
        folder: Path,
        delay: float,
        fault: Fault | None,
    ) -> None:
        """Be the run: this is the fork."""
        said = os.open(self._notes / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        os.chdir(folder)
        time.sleep(delay)
        from mmsieve.cli import main

        sys.addaudithook(changes)
        code = 98
        try:
            with met(fault):
                main(list(words))
        except SystemExit as done:
            code = int(done.code or 0)
        except BaseException:  # noqa: BLE001 - whatever it is, it is told
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        names = [name for name in list(sys.modules) if not name.startswith("tests")]
        ended = {"changes": changes.seen, "modules": names}
        (self._notes / "ended.json").write_text(json.dumps(ended), "utf-8")
        os._exit(code)


def warm(modules: Sequence[str]) -> None:
    """Import what a run has imported, so that later forks needn't."""
    for name in modules:
        with contextlib.suppress(Exception):
            import_module(name)


Normalise = Callable[[str, bytes], Any]


def tree(folder: Path, normalise: Normalise) -> dict[str, Any]:
    """Path -> content of all that is in a folder, hidden files too."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        found[name] = None if path.is_dir() else normalise(name, path.read_bytes())
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The names of what isn't the same in both."""
    names = sorted(one.keys() | other.keys())
    return [
        name for name in names if name not in one or name not in other or one[name] != other[name]
    ]
