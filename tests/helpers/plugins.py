"""Scorers of other packages: written as pip would have installed them, and one that fails."""

import builtins
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from mmsieve.engine.annotator import Annotator, RunnerOptions


def write_plugin(site: Path, name: str, target: str, code: str = "") -> None:
    """A package as pip would have installed it, with one plug-in."""
    info = site / f"{name}_scorer-1.0.dist-info"
    info.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: {name}-scorer\nVersion: 1.0\nSummary: of a test\n"
    (info / "METADATA").write_text(metadata)
    (info / "entry_points.txt").write_text(f"[mmsieve.annotators]\n{name} = {target}\n")
    (site / f"{name}_scorer.py").write_text(code)


class Panic(BaseException):
    """What a library of Rust raises: no Exception, and not known in another process."""

    def __reduce__(self):
        raise TypeError("can't be pickled")


class Speechless(Exception):  # noqa: N818
    """An error that can't say what it is."""

    def __str__(self) -> str:
        raise ValueError("no words")


MADE: dict[str, Callable[[], BaseException]] = {
    "Panic": Panic,
    "Speechless": Speechless,
    "ExceptionGroup": lambda: ExceptionGroup("several", [ValueError(), OSError()]),
    "BaseExceptionGroup": lambda: BaseExceptionGroup("several", [KeyboardInterrupt()]),
    "UnicodeDecodeError": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    "UnicodeEncodeError": lambda: UnicodeEncodeError("utf-8", "\udcff", 0, 1, "bad"),
    "UnicodeTranslateError": lambda: UnicodeTranslateError("\udcff", 0, 1, "bad"),
}
"""Exceptions that a name alone doesn't make."""
RAISED = sorted(
    MADE.keys()
    | {
        name
        for name, kind in vars(builtins).items()
        if isinstance(kind, type) and issubclass(kind, BaseException)
    }
    - {"KeyboardInterrupt", "MemoryError"}
)
"""Names of all exceptions but the user's interrupt, and the machine's lack of memory."""


def fail(text: str) -> None:
    """What a caption's first word asks for."""
    word, _, name = text.partition(" ")
    if word == "raise":
        raise MADE[name]() if name in MADE else vars(builtins)[name]
    if word == "errno":
        raise ValueError("what it comes from counts") from OSError(
            int(name), os.strerror(int(name))
        )
    if word == "hang":
        time.sleep(3600)
    if word == "crash":
        os.kill(os.getpid(), signal.SIGKILL)


class PoisonPreparer:
    def prepare(self, sample):
        text = sample.parts[1].text
        fail(text)
        return text


class LengthRunner:
    notes = {"device": "cpu"}  # noqa: RUF012

    def run(self, items):
        for index, text in items:
            if text.startswith("runner"):
                raise Panic("in the runner")
            yield index, {"quality_score": float(len(text))}


class Poisonous(Annotator):
    """Scores a caption by its length, unless it says what is to go wrong."""

    schema = pa.schema([("quality_score", pa.float32())])
    fingerprint = {"method": "length"}  # noqa: RUF012

    def preparer(self):
        return PoisonPreparer()

    def runner(self, options: RunnerOptions):
        return LengthRunner()


def make(model, options) -> Annotator:
    """The entry point of `--model poisonous`."""
    return Poisonous()
