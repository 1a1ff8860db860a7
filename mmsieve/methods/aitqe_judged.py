"""`--accept-if-better`: a quality classifier compares caption and rewrite, and the better stays.

A composition: the enhancer's rows, then the classifier's for the two texts of each rewritten pair.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from mmsieve.annotator import (
    Annotator,
    Preparer,
    QualityAnnotator,
    Row,
    Runner,
    RunnerOptions,
)
from mmsieve.errors import SampleError
from mmsieve.methods.rewrites import Refused
from mmsieve.models.batching import Window
from mmsieve.sample import Image, Part, Sample, Text

COLUMNS = pa.schema([("caption_quality", pa.float32()), ("recaption_quality", pa.float32())])
"""What the classifier says of the two texts; null where no rewrite was to be used."""

Result: TypeAlias = tuple[int, Row | SampleError]

_WINDOW = Window(items=4096, tokens=4096, nbytes=192 * 2**20)
"""Samples whose rewrites are judged together, and what they may weigh."""


class Judged:
    """An enhancer whose rewrites are judged by a quality classifier, as an annotator."""

    kind: Literal["assessment"] = "assessment"

    def __init__(self, enhancer: Annotator, judge: QualityAnnotator) -> None:
        """The enhancer's items must carry their samples."""
        self._enhancer, self._judge = enhancer, judge
        self.device = enhancer.device
        self.schema = pa.schema([*enhancer.schema, *COLUMNS])
        told = {f"better by: {name}": value for name, value in judge.fingerprint.items()}
        self.fingerprint = enhancer.fingerprint | told

    def preparer(self) -> Preparer:
        """The enhancer's own CPU half."""
        return self._enhancer.preparer()

    def runner(self, options: RunnerOptions) -> Runner:
        """Both device halves."""
        judge = self._judge.runner(options)
        return JudgedRunner(self._enhancer.runner(options), self._judge.preparer(), judge)


class JudgedRunner:
    """Rows of an enhancer, their rewrites taken back where a classifier likes them no better."""

    def __init__(self, enhancer: Runner, preparer: Preparer, judge: Runner) -> None:
        self._enhancer, self._preparer, self._judge = enhancer, preparer, judge
        self.notes = enhancer.notes | {f"judge {k}": v for k, v in judge.notes.items()}

    def run(self, items: Iterable[tuple[int, Any]]) -> Iterator[Result]:
        """Rows for a stream of (index, item), in any order."""
        for window in _WINDOW.split(items, _size):
            rows = dict(self._enhancer.run(window))
            samples = {index: item.sample for index, item in window}
            rewritten = [
                (index, row)
                for index, row in rows.items()
                if not isinstance(row, SampleError) and row["rewritten"]
            ]
            texts = [
                (index, side, row[used])
                for index, row in rewritten
                for side, used in (("caption", "caption"), ("recaption", "final_caption"))
            ]
            scores = self._score([_retold(samples[index], text) for index, _, text in texts])
            for (index, side, _), score in zip(texts, scores, strict=True):
                rows[index][f"{side}_quality"] = score  # type: ignore[index]
            for _, row in rewritten:
                _decide(row)
            yield from rows.items()

    def _score(self, samples: list[Sample]) -> list[float | None]:
        """Scores in order; None where a text has none."""
        ready: list[tuple[int, Any]] = []
        for place, sample in enumerate(samples):
            try:
                ready.append((place, self._preparer.prepare(sample)))
            except SampleError:
                continue
        scores: list[float | None] = [None] * len(samples)
        for place, row in self._judge.run(ready):
            scores[place] = None if isinstance(row, SampleError) else row["quality_score"]
        return scores


def _decide(row: Row) -> None:
    """Take a rewrite back unless it is better: than a caption without a score, any with one is."""
    before, after = row["caption_quality"], row["recaption_quality"]
    if after is None or (before is not None and after <= before):
        refused = str(Refused.NOT_BETTER)
        row.update(final_caption=row["caption"], rewritten=False, rewrite_refused=refused)


def _retold(sample: Sample, text: str) -> Sample:
    parts: tuple[Part, ...] = tuple(part for part in sample.parts if isinstance(part, Image))
    return replace(sample, parts=(*parts, Text(text)))


def _size(indexed: tuple[int, Any]) -> tuple[int, int]:
    item = indexed[1]
    return 1, item.nbytes + sum(len(image.data) for image in item.sample.images)
