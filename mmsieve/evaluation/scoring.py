"""Labelled texts, and the scores that an annotator gives them."""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmsieve.annotator import QualityAnnotator, Row, RunnerOptions
from mmsieve.errors import SampleError, Status
from mmsieve.evaluation.units import units_of
from mmsieve.generate.files import TrainingRecord, parse_training_record
from mmsieve.generate.groups import kind_of
from mmsieve.metrics import Floats, Ints
from mmsieve.progress import show_progress
from mmsieve.read import Parse, Record
from mmsieve.shard_job import Progress as Advance
from mmsieve.workers import Prepared, PreparePool

SCORE = "quality_score"
"""The column of an annotator's rows that is evaluated."""

_CHUNK = 64


@dataclass(frozen=True)
class Texts:
    """The entries of a training file, in its order."""

    records: Sequence[TrainingRecord]
    images: Path
    """Folder that their image paths are relative to."""

    @cached_property
    def levels(self) -> Ints:
        """True levels [n]."""
        return np.array([int(record.label) for record in self.records], np.int64)

    @cached_property
    def kinds(self) -> list[str]:
        """caption or document, each."""
        return [kind_of(record.text) for record in self.records]

    @cached_property
    def units(self) -> Ints:
        """The number [n] of each text's unit: texts that share an image belong together."""
        return units_of(record.images for record in self.records)

    def count_units(self, chosen: npt.NDArray[np.bool_]) -> int:
        """How many units the chosen texts [n] are of."""
        return len(np.unique(self.units[chosen]))


@dataclass(frozen=True)
class Scored:
    """What one model made of the texts."""

    scores: Floats
    """[n]; NaN where there is none."""
    statuses: list[str]
    """`ok`, or why there is no score."""
    is_level: bool
    """Whether the score is on the scale of the levels."""
    thresholds: list[float] | None = None
    """Where it isn't: where levels 1, 2 and 3 begin, once that is known."""

    @property
    def counts(self) -> dict[str, int]:
        """How many texts have each status."""
        return dict(Counter(self.statuses))


@dataclass(frozen=True)
class ScoreOptions:
    """Where scores are made."""

    device: str
    workers: int
    batch_tokens: int | None
    quiet: bool


def score_texts(
    name: str, annotator: QualityAnnotator, texts: Texts, options: ScoreOptions
) -> Scored:
    """Score every text with an annotator; a text that can't be scored has its reason."""
    rows: list[Row | SampleError | None] = [None] * len(texts.records)
    pool = PreparePool(annotator.preparer(), options.workers, keep_metadata=False)
    parse = partial(parse_training_record, texts.images)
    try:
        runner = annotator.runner(RunnerOptions(options.device, options.batch_tokens))
        with show_progress(name, len(rows), options.quiet, "texts") as advance:
            stream = _items(_prepared(pool, parse, texts.records), rows, advance)
            for index, row in runner.run(stream):
                rows[index] = row
                advance(1, 1)
    finally:
        pool.close()
    scores, statuses = zip(*map(_outcome, rows), strict=True)
    return Scored(np.array(scores, np.float64), list(statuses), annotator.score_is_level)


def _outcome(row: Row | SampleError | None) -> tuple[float, str]:
    if isinstance(row, dict):
        score = row[SCORE]
        if score is not None and np.isfinite(score):
            return float(score), Status.OK.value
        return np.nan, Status.SCORE_NOT_FINITE.value
    assert row is not None  # a runner answers for each index
    return np.nan, row.status.value


def _prepared(
    pool: PreparePool, parse: Parse, texts: Sequence[TrainingRecord]
) -> Iterator[Prepared]:
    """What the pool makes of the texts, in order, a bounded number of chunks ahead."""
    ahead: deque[Future[list[Prepared]]] = deque()
    for start in range(0, len(texts), _CHUNK):
        chunk = texts[start : start + _CHUNK]
        records = [Record(str(start + i), {"text": text}) for i, text in enumerate(chunk)]
        ahead.append(pool.submit(parse, records))
        while len(ahead) > 2 * pool.workers:
            yield from ahead.popleft().result()
    for future in ahead:
        yield from future.result()


def _items(
    prepared: Iterator[Prepared], rows: list[Row | SampleError | None], advance: Advance
) -> Iterator[tuple[int, Any]]:
    """The runner's stream; what can't be scored goes to `rows` at once."""
    for index, one in enumerate(prepared):
        if one.problem is None:
            yield index, one.item
        else:
            rows[index] = one.problem
            advance(1, 1)
