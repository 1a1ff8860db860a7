"""Models against labelled texts: their scores, their metrics, their differences."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from mmsieve.engine.annotator import Annotator, RunnerOptions, make_runner
from mmsieve.engine.workers import Preparation, Prepared, PreparePool
from mmsieve.errors import RequestError, SampleError, Status
from mmsieve.evaluation.metrics import (
    Bootstrap,
    Draws,
    Floats,
    Interval,
    Ints,
    Metrics,
    ScoreTies,
    count_ties,
    fit_thresholds,
    half_of_units,
    interval,
    measure,
    predict,
)
from mmsieve.generation.files import (
    TrainingRecord,
    kind_of,
    parse_training_entry,
    parse_training_record,
    tie_by_image,
)
from mmsieve.labels import LEVELS
from mmsieve.progress import show_progress
from mmsieve.read import Record
from mmsieve.reports import commonest_reasons
from mmsieve.tables import SCORE, find_score
from mmsieve.wording import counted


def units_of(images: Iterable[list[str]]) -> Ints:
    """The number [n] of each text's unit, from its image paths: texts that share one are a unit."""
    _, units = np.unique(tie_by_image(list(images)), return_inverse=True)
    return units


# Labelled texts, and the scores that an annotator gives them

_CHUNK = 64


@dataclass(frozen=True)
class LabelledTexts:
    """The entries of a training file, in its order."""

    records: Sequence[TrainingRecord]
    images: Path
    """Folder that their image paths are relative to."""

    @cached_property
    def keys(self) -> list[str]:
        """The entry's id, or its number, each."""
        ids = enumerate(record.id for record in self.records)
        return [str(i if given is None else given) for i, given in ids]

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
        """The number [n] of each text's unit."""
        return units_of(record.images for record in self.records)

    def check_scores(self, annotators: Mapping[str, Annotator]) -> None:
        """Raise RequestError for the first annotator whose scores these texts can't measure."""
        for name, annotator in annotators.items():
            if find_score(annotator.schema) is None:
                columns = ", ".join(annotator.schema.names)
                raise RequestError(f"model {name} gives no {SCORE} to evaluate, only {columns}")
            if not annotator.score_is_level and len(np.unique(self.units)) < 2:
                raise RequestError(
                    f"the scores of {name} aren't levels, and thresholds are fitted on one half of "
                    "the images: give texts over at least 2 images that they don't share"
                )


def parse_level(index: int, entry: Any) -> TrainingRecord:
    """The record of an entry of a training file; raises ValueError where its label is no level."""
    record = parse_training_entry(index, entry)
    if record.label not in LEVELS:
        raise ValueError(f"label {record.label:g} is not a level 0-3")
    return record


@dataclass(frozen=True)
class Scored:
    """The scores of one model for the texts."""

    scores: Floats
    """[n]; NaN where there is none."""
    statuses: list[str]
    """`ok`, or why there is no score."""
    is_level: bool
    """Whether the score is on the scale of the levels."""
    thresholds: list[float] | None = None
    """Where it isn't: where levels 1, 2 and 3 begin, once that is known."""
    examples: dict[str, str] = field(default_factory=dict)
    """Status -> key and reason of the first text that has it."""

    def reasons(self) -> list[str]:
        """The commonest reasons why texts have no score, with an example each."""
        return commonest_reasons(Counter(self.statuses), self.examples)


def score_texts(
    label: str,
    annotator: Annotator,
    texts: LabelledTexts,
    workers: int,
    batch_tokens: int | None,
    quiet: bool,
) -> Scored:
    """Score every text with an annotator; a text that can't be scored has its reason."""
    column = find_score(annotator.schema) or SCORE
    scores = np.full(len(texts.records), np.nan)
    statuses = [Status.OK.value] * len(scores)
    examples: dict[str, str] = {}

    def fail(index: int, problem: SampleError) -> None:
        statuses[index] = problem.status.value
        examples.setdefault(statuses[index], f"{texts.keys[index]!r}: {problem}")

    pool = PreparePool(Preparation(preparer=annotator.preparer()), workers)
    try:
        runner = make_runner(annotator, RunnerOptions(annotator.device, batch_tokens))
        with show_progress(label, len(scores), quiet, "texts") as advance:

            def items() -> Iterator[tuple[int, Any]]:
                for index, one in enumerate(_prepared(pool, texts)):
                    if one.problem is None:
                        yield index, one.item
                    else:
                        fail(index, one.problem)
                        advance(1, 1)

            for index, row in runner.run(items()):
                if isinstance(row, SampleError):
                    fail(index, row)
                elif row[column] is None or not np.isfinite(row[column]):
                    fail(index, SampleError(Status.SCORE_NOT_FINITE, f"{column} is {row[column]}"))
                else:
                    scores[index] = row[column]
                advance(1, 1)
    finally:
        pool.close()
    return Scored(scores, statuses, annotator.score_is_level, examples=examples)


def _prepared(pool: PreparePool, texts: LabelledTexts) -> Iterator[Prepared]:
    """What the pool makes of the texts, in order, a bounded number of chunks ahead."""
    parse = partial(parse_training_record, texts.images)
    records = [Record(str(i), {"text": text}) for i, text in enumerate(texts.records)]
    ahead: deque[Callable[[], list[Prepared]]] = deque()
    for start in range(0, len(records), _CHUNK):
        ahead.append(pool.submit(parse, records[start : start + _CHUNK]))
        while len(ahead) > 2 * pool.workers:
            yield from ahead.popleft()()
    for prepared in ahead:
        yield from prepared()


# Scores of one or more models against the true levels, and against the first model's

Mask: TypeAlias = npt.NDArray[np.bool_]

COMPARED = ("accuracy", "f1", "spearman")
"""The numbers whose differences between models are given."""


@dataclass(frozen=True)
class Difference:
    """A model's number less the first model's, and its interval from the same draws of both."""

    value: float | None
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One model's numbers; without metrics where no text could be measured."""

    overall: Metrics | None = None
    by_kind: dict[str, Metrics] = field(default_factory=dict)
    statuses: dict[str, int]
    """Of all texts, measured or not."""
    thresholds: list[float] | None = None
    """For a score that isn't a level: where levels 1, 2 and 3 begin."""
    ties: ScoreTies | None = None
    """How far the scores tell the measured texts apart."""
    differences: dict[str, Difference] = field(default_factory=dict)
    """To the first model; empty for that one."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as metrics.json has them."""
        overall = {} if self.overall is None else self.overall.as_dict()
        return {
            **overall,
            "by_kind": {kind: metrics.as_dict() for kind, metrics in self.by_kind.items()},
            "statuses": self.statuses,
            "thresholds": self.thresholds,
            "ties": None if self.ties is None else asdict(self.ties),
        }


@dataclass(frozen=True)
class Comparison:
    """All models' numbers over the same texts."""

    models: dict[str, Measured]
    scored: dict[str, Scored]
    """With their thresholds, where they need them."""
    is_measured: Mask
    """Texts [n] that every model could score, and that no threshold was fitted on."""
    is_fitted: Mask
    """Texts [n] that thresholds were fitted on."""
    notes: tuple[str, ...]

    def as_dict(self, origins: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        """Plain values, with each model's origin: of several models below `models`."""
        models = {name: one.as_dict() | origins[name] for name, one in self.models.items()}
        if len(models) == 1:
            return next(iter(models.values()))
        first, *others = self.models
        differences = {
            name: {key: asdict(one) for key, one in self.models[name].differences.items()}
            for name in others
        }
        return {"models": models, "reference": first, "differences": differences}

    def notes_of_intervals(self, units: int, resamples: int) -> list[str]:
        """What the intervals mean; `units` are the images, or sets of them, that were drawn."""
        if not units:
            return []
        if units == 1:
            return ["no intervals: all texts share images"]
        notes = [
            f"intervals: 95%, from {resamples:,} draws of {units:,} images or sets of images, "
            "each with all of its texts"
        ]
        measured = {name: one.overall for name, one in self.models.items()}
        faultless = [name for name, one in measured.items() if one and one.accuracy == 1]
        if faultless:
            notes.append(
                f"{', '.join(faultless)}: no error in {units:,} of them, so the share with one may "
                f"still be up to {min(1, 3 / units):.1%}"
            )
        return notes


def compare(texts: LabelledTexts, scored: Mapping[str, Scored], bootstrap: Bootstrap) -> Comparison:
    """Measure every model on the texts that all of them could score.

    Where a score isn't a level, half of the images go to fitting its thresholds, and all models
    are measured on the other half.
    """
    has_score = [np.isfinite(one.scores) for one in scored.values()]  # statuses ok, that is
    is_scored: Mask = np.all(has_score, axis=0)
    own_scale = [name for name, one in scored.items() if not one.is_level]
    is_fitted = np.zeros_like(is_scored)
    if own_scale:
        is_fitted = is_scored & half_of_units(texts.units, bootstrap.seed)
    is_measured = is_scored & ~is_fitted
    notes = []
    partly = np.any(has_score, axis=0).sum() - is_scored.sum()
    if partly:
        notes.append(f"left out: {counted(partly, 'texts')} that not every model could score")
    if own_scale and is_scored.any():
        names = ", ".join(own_scale)
        if is_fitted.any() and is_measured.any():
            levels = texts.levels[is_fitted]
            fitted = {
                name: fit_thresholds(scored[name].scores[is_fitted], levels) for name in own_scale
            }
            scored = {n: replace(one, thresholds=fitted.get(n)) for n, one in scored.items()}
            notes.append(
                f"the scores of {names} aren't levels: thresholds were fitted on the "
                f"{counted(is_fitted.sum(), 'texts')} of one half of the images, and all is "
                f"measured on the {is_measured.sum():,} of the other"
            )
        else:
            is_measured = np.zeros_like(is_scored)
            notes.append(
                f"nothing measured: the scores of {names} aren't levels, and too few images could "
                "be scored to fit thresholds on one half and measure on the other"
            )
    models: dict[str, Measured] = {}
    first = None
    for name, one in scored.items():
        models[name], numbers = _measure_one(texts, is_measured, bootstrap, one, first)
        first = first or numbers
    return Comparison(models, dict(scored), is_measured, is_fitted, tuple(notes))


_Numbers: TypeAlias = tuple[Metrics, Draws]


def _measure_one(
    texts: LabelledTexts,
    is_measured: Mask,
    bootstrap: Bootstrap,
    one: Scored,
    first: _Numbers | None,
) -> tuple[Measured, _Numbers | None]:
    """A model's numbers, beside the first model's where there is one; and those over all texts."""
    statuses = dict(Counter(one.statuses))
    if not is_measured.any():
        return Measured(statuses=statuses), None

    def numbers(chosen: Mask) -> _Numbers:
        scores, levels = one.scores[chosen], texts.levels[chosen]
        draws = bootstrap.draw(scores, levels, texts.units[chosen], one.thresholds)
        intervals = {name: interval(values) for name, values in draws.items()}
        return replace(measure(scores, levels, one.thresholds), intervals=intervals), draws

    overall = numbers(is_measured)
    kinds = np.array(texts.kinds)
    there = np.unique(kinds[is_measured]).tolist()
    measured = Measured(
        overall=overall[0],
        by_kind={kind: numbers(is_measured & (kinds == kind))[0] for kind in there},
        statuses=statuses,
        thresholds=one.thresholds,
        ties=count_ties(one.scores[is_measured]),
        differences={} if first is None else _differences(overall, first),
    )
    return measured, overall


def _differences(one: _Numbers, first: _Numbers) -> dict[str, Difference]:
    found: dict[str, Difference] = {}
    for name in COMPARED:
        value, reference = getattr(one[0], name), getattr(first[0], name)
        less = None if value is None or reference is None else value - reference
        found[name] = Difference(less, interval(one[1][name] - first[1][name]))
    return found


# predictions.parquet: each model's score of each text, so that errors can be looked at


def predictions(texts: LabelledTexts, comparison: Comparison) -> pl.DataFrame:
    """A row per text, in the file's order.

    Columns: key (the entry's id, or its number), kind, image, text, label, measured; and `status`,
    `score`, `level`, with several models each as `NAME.status`, `NAME.score`, `NAME.level`.
    """
    records = texts.records
    columns = [
        pl.Series("key", texts.keys, pl.String),
        pl.Series("kind", texts.kinds, pl.String),
        pl.Series("image", [record.images for record in records], pl.List(pl.String)),
        pl.Series("text", [record.text for record in records], pl.String),
        pl.Series("label", texts.levels, pl.Int8),
        pl.Series("measured", comparison.is_measured),
    ]
    for name, one in comparison.scored.items():
        prefix = f"{name}." if len(comparison.scored) > 1 else ""
        columns += [column.alias(prefix + column.name) for column in _model_columns(one)]
    return pl.DataFrame(columns)


def _model_columns(one: Scored) -> list[pl.Series]:
    score = pl.Series("score", one.scores, pl.Float64).fill_nan(None).cast(pl.Float32)
    level = pl.Series("level", [None] * len(score), pl.Int8)
    if one.is_level or one.thresholds is not None:
        found = predict(np.nan_to_num(one.scores), one.thresholds)
        level = pl.Series("level", found, pl.Int8).set(score.is_null(), None)
    return [pl.Series("status", one.statuses, pl.String), score, level]
