"""Plan: which images are taken, before anything is sent; kept in a file, so that a rerun has it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from pydantic import TypeAdapter

from mmsieve.errors import RequestError, SampleError, ShardError
from mmsieve.generate.raw_images import ImageSource, RawSample
from mmsieve.generate.subjects import Subject, Unusable
from mmsieve.generate.tasks.task import Task
from mmsieve.table import write_atomically

_MORE = 64
"""Samples that are drawn at a time to replace unusable ones."""


@dataclass(frozen=True)
class Plan:
    """The subjects in the order in which they are read, and what was left out."""

    subjects: tuple[Subject, ...]
    unusable: tuple[Unusable, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    """Source -> why it can't be read, or not to its end."""
    samples: int = 0
    """Of all sources."""
    twice: int = 0
    """Subjects that were drawn once more, under another key."""
    note: str = ""
    """How they were drawn, where there is more to say."""

    def write(self, path: Path) -> None:
        """Keep the plan in a file."""
        write_atomically(path, lambda temporary: temporary.write_bytes(_PLAN.dump_json(self)))


_PLAN = TypeAdapter(Plan)


def read_plan(path: Path) -> Plan:
    """The plan in a file; raises RequestError where it is damaged."""
    try:
        return _PLAN.validate_json(path.read_bytes())
    except ValueError as error:
        raise RequestError(f"{path}: not a plan of this version; use --overwrite") from error


Draw: TypeAlias = Callable[[int], Sequence[int]]
"""From the number of all samples, counted over the sources in their order, those that are taken,
as positions from 0, the first ones first. Another way to choose images is another draw."""


def random_draw(seed: int) -> Draw:
    """A draw in which every sample has the same chance."""
    return lambda count: np.random.default_rng((seed, 11)).permutation(count).tolist()


def make_plan(
    sources: Sequence[ImageSource], task: Task, wanted: int, draw: Draw, max_images: int
) -> Plan:
    """Take `wanted` subjects in the order of a draw; unusable ones are replaced by later ones."""
    failed: dict[str, str] = {}
    counts = [count_samples(source, failed) for source in sources]
    order = draw(sum(counts))
    starts = np.cumsum([0, *counts]).tolist()
    chosen: dict[str, Subject] = {}
    unusable: list[Unusable] = []
    at = twice = 0
    while len(chosen) < wanted and at < len(order):
        drawn = order[at : at + max(wanted - len(chosen), _MORE)]
        at += len(drawn)
        read = dict(_read(sources, starts, set(drawn), task, max_images, failed))
        for sample in drawn:
            found = read.get(sample, [])
            if isinstance(found, Unusable) and len(chosen) < wanted:
                unusable.append(found)
            for subject in found if isinstance(found, list) else ():
                if len(chosen) < wanted:
                    twice += subject.id in chosen
                    chosen.setdefault(subject.id, subject)
    names = {source.name: number for number, source in enumerate(sources)}
    subjects = sorted(chosen.values(), key=lambda s: (names[s.source], s.index))
    return Plan(tuple(subjects), tuple(unusable), failed, sum(counts), twice)


def count_samples(source: ImageSource, failed: dict[str, str]) -> int:
    """The samples of a source; 0 where it can't be read, which `failed` takes."""
    try:
        return source.count()
    except ShardError as error:
        failed[source.name] = str(error)
        return 0


def _read(
    sources: Sequence[ImageSource],
    starts: Sequence[int],
    drawn: set[int],
    task: Task,
    max_images: int,
    failed: dict[str, str],
) -> Iterator[tuple[int, list[Subject] | Unusable]]:
    """The drawn samples, counted over all sources, with their subjects or why there are none."""
    for source, start, stop in zip(sources, starts[:-1], starts[1:], strict=True):
        wanted = {sample - start for sample in drawn if start <= sample < stop}
        try:
            for raw in source.read(wanted) if wanted else ():
                yield start + raw.index, _usable(source.name, raw, task, max_images)
        except ShardError as error:
            failed[source.name] = str(error)


def _usable(source: str, raw: RawSample, task: Task, most: int) -> list[Subject] | Unusable:
    try:
        if raw.problem is not None:
            raise raw.problem
        return task.subjects(source, raw, most)
    except SampleError as error:
        return Unusable(source, raw.key, error.status.value, str(error))
