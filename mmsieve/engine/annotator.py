"""Annotator: all that the engine knows of a method, and the seam for a method of one's own.

An annotator has two halves. The preparer (config and tokenizer, no weights) turns samples into a
model's inputs in CPU worker processes; the runner holds the device or the connection and turns
those inputs into rows. Items travel between processes, so they are picklable and compact.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, Protocol, TypeAlias

import pyarrow as pa

from mmsieve.clients.answers import KeptAnswers
from mmsieve.devices import Device as Device
from mmsieve.devices import Memory, is_out_of_memory, trim_memory
from mmsieve.errors import SampleError
from mmsieve.patience import PATIENCE
from mmsieve.sample import Sample

Row: TypeAlias = dict[str, Any]
"""The values of an annotator's own columns for one sample."""


@dataclass(frozen=True)
class RunnerOptions:
    """Where and how a runner computes; nothing here may change a score beyond rounding."""

    device: Device = "cpu"
    batch_tokens: int | None = None
    patience: timedelta = PATIENCE
    """How long a server that is down is waited for, where the model is on one."""
    kept: KeptAnswers | None = None
    """What a killed run was answered, and where new answers are kept; None: they aren't."""


class Preparer(Protocol):
    """The CPU half: picklable, no weights, never imports torch unless its options ask for it."""

    def prepare(self, sample: Sample) -> Any:
        """The model inputs of one sample; raises SampleError where it can't be used."""


class Runner(Protocol):
    """The device half."""

    notes: dict[str, str]
    """How it computes (device, kernels, where weights came from), kept in the table's header."""

    def run(self, items: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Row | SampleError]]:
        """Rows for a stream of (index, item), in any order, each index exactly once."""


def estimate_memory(annotator: "Annotator", options: RunnerOptions) -> Memory | None:
    """What an annotator's device half will take; None where that isn't known."""
    has_estimate = hasattr(annotator, "memory")  # plug-ins need not have it
    return annotator.memory(options) if has_estimate else None


def make_runner(annotator: "Annotator", options: RunnerOptions) -> Runner:
    """The device half of an annotator, its weights loaded.

    Raises RequestError, a line that says what would fit, where they don't fit into memory.
    """
    memory = estimate_memory(annotator, options)
    if memory is not None:
        memory.check_room()
    try:
        runner = annotator.runner(options)
    except (MemoryError, RuntimeError) as error:
        if memory is None or not is_out_of_memory(error):
            raise
        raise memory.too_much() from error
    trim_memory()
    return runner


def annotate_samples(
    preparer: Preparer, runner: Runner, samples: Iterable[Sample]
) -> list[Row | SampleError]:
    """The row of each sample, in order, or why it has none; all in this process."""
    found: dict[int, Row | SampleError] = {}
    ready: list[tuple[int, Any]] = []
    for index, sample in enumerate(samples):
        try:
            ready.append((index, preparer.prepare(sample)))
        except SampleError as error:
            found[index] = sample.explained(error)
    found.update(runner.run(ready))
    return [found[index] for index in sorted(found)]


class Annotator(Protocol):
    """A method with its model chosen: picklable, cheap to make, loads no weights by itself.

    A subclass has the values below, where there are any, unless it says otherwise.
    """

    schema: pa.Schema
    """The columns it adds to a table, in order."""
    fingerprint: dict[str, str]
    """Whatever changes a number (weights, preprocessing, options), as readable name -> value."""
    device: Device = "cpu"
    """Where it computes when it is used on its own; an engine chooses for itself."""
    notes: Sequence[str] = ()
    """What a user should know of how this model is used, a line each; every verb prints them."""
    spread: int = 1
    """Devices that one model computes on; 0 for rules, and for models on a server."""
    score_is_level: bool = False
    """Whether its score is on the scale of the levels 0-3, and not one of its own."""

    @property
    def kind(self) -> Literal["quality", "ratings", "assessment"]:
        """What its table holds; quality: a score, in the column that `tables.find_score` names."""
        return "quality"

    def memory(self, options: RunnerOptions) -> Memory | None:
        """What the runner will take, known before it is made; None where that isn't known."""
        return None

    def preparer(self) -> Preparer:
        """The CPU half."""

    def runner(self, options: RunnerOptions) -> Runner:
        """The device half; loads the weights."""

    def check(self, options: RunnerOptions) -> None:
        """Raise RequestError where a server that is needed isn't there, or hasn't the model.

        Called once, before anything is read; plug-ins need not have it.
        """
        return


def check(annotator: Annotator, options: RunnerOptions) -> None:
    """Check an annotator before it is used; raises RequestError."""
    if hasattr(annotator, "check"):
        annotator.check(options)
