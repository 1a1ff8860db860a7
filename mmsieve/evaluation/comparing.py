"""Scores of one or more models against the true levels, and against the first model's."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from mmsieve.errors import Status
from mmsieve.evaluation.bootstrap import Bootstrap, Draws, interval
from mmsieve.evaluation.scoring import Scored, Texts
from mmsieve.evaluation.thresholds import fit_thresholds, half_of_units
from mmsieve.metrics import Interval, Metrics, measure, predict

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

    overall: Metrics | None
    by_kind: dict[str, Metrics] = field(default_factory=dict)
    statuses: dict[str, int]
    """Of all texts, measured or not."""
    thresholds: list[float] | None = None
    """For a score that isn't a level: where levels 1, 2 and 3 begin."""
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
        }


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All models' numbers over the same texts, and each text's outcome."""

    models: dict[str, Measured]
    predictions: pl.DataFrame
    texts: int
    """Measured: scored by every model, and not used to fit thresholds."""
    images: int
    fitted: int
    """Texts that thresholds were fitted on."""
    notes: tuple[str, ...] = ()


def compare(texts: Texts, scored: Mapping[str, Scored], bootstrap: Bootstrap) -> Comparison:
    """Measure every model on the texts that all of them could score.

    Where a score isn't a level, half of the images go to fitting its thresholds, and all models
    are measured on the other half.
    """
    is_scored = np.logical_and.reduce([np.isfinite(one.scores) for one in scored.values()])
    needs_thresholds = any(not one.is_level for one in scored.values())
    is_fitted = np.zeros(len(is_scored), bool)
    if needs_thresholds:
        is_fitted = half_of_units(texts.units, bootstrap.seed) & is_scored
    is_measured = is_scored & ~is_fitted
    if needs_thresholds and not is_fitted.any():
        is_measured[:] = False
    thresholds = {
        name: None
        if one.is_level or not is_measured.any()
        else fit_thresholds(one.scores[is_fitted], texts.levels[is_fitted])
        for name, one in scored.items()
    }
    return Comparison(
        models=_measure(texts, scored, thresholds, is_measured, bootstrap),
        predictions=_predictions(texts, scored, thresholds, is_measured),
        texts=int(is_measured.sum()),
        images=len(np.unique(texts.units[is_measured])),
        fitted=int(is_fitted.sum()),
        notes=_notes(scored, is_scored, is_fitted, is_measured),
    )


def _measure(
    texts: Texts,
    scored: Mapping[str, Scored],
    thresholds: Mapping[str, list[float] | None],
    is_measured: Mask,
    bootstrap: Bootstrap,
) -> dict[str, Measured]:
    kinds = np.array(texts.kinds)
    models: dict[str, Measured] = {}
    first: tuple[Metrics, Draws] | None = None
    for name, one in scored.items():

        def numbers(
            chosen: Mask, scores: Any = one.scores, cuts: Any = thresholds[name]
        ) -> tuple[Metrics, Draws]:
            given = scores[chosen], texts.levels[chosen]
            draws = bootstrap.draw(*given, texts.units[chosen], cuts)
            intervals = {name: interval(values) for name, values in draws.items()}
            return replace(measure(*given, cuts), intervals=intervals), draws

        if not is_measured.any():
            models[name] = Measured(overall=None, statuses=one.counts)
            continue
        found = numbers(is_measured)
        models[name] = Measured(
            overall=found[0],
            by_kind={
                kind: numbers(is_measured & (kinds == kind))[0]
                for kind in np.unique(kinds[is_measured]).tolist()
            },
            statuses=one.counts,
            thresholds=thresholds[name],
            differences={} if first is None else _differences(found, first),
        )
        first = first or found
    return models


def _differences(
    one: tuple[Metrics, Draws], first: tuple[Metrics, Draws]
) -> dict[str, Difference]:
    found: dict[str, Difference] = {}
    for name in COMPARED:
        value, reference = getattr(one[0], name), getattr(first[0], name)
        less = None if value is None or reference is None else value - reference
        found[name] = Difference(less, interval(one[1][name] - first[1][name]))
    return found


def _predictions(
    texts: Texts,
    scored: Mapping[str, Scored],
    thresholds: Mapping[str, list[float] | None],
    is_measured: Mask,
) -> pl.DataFrame:
    """A row per text; `score` and `level`, or with several models `NAME.score`, `NAME.level`."""
    records = texts.records
    columns: dict[str, pl.Series] = {
        "key": pl.Series([_key(i, record.id) for i, record in enumerate(records)], dtype=pl.String),
        "kind": pl.Series(texts.kinds, dtype=pl.String),
        "image": pl.Series([record.images for record in records], dtype=pl.List(pl.String)),
        "text": pl.Series([record.text for record in records], dtype=pl.String),
        "label": pl.Series(texts.levels, dtype=pl.Int8),
        "measured": pl.Series(is_measured),
    }
    for name, one in scored.items():
        prefix = f"{name}." if len(scored) > 1 else ""
        score = pl.Series(one.scores, dtype=pl.Float64).fill_nan(None)
        columns[f"{prefix}status"] = pl.Series(one.statuses, dtype=pl.String)
        columns[f"{prefix}score"] = score.cast(pl.Float32)
        cuts = thresholds[name]
        if one.is_level or cuts is not None:
            level = pl.Series(predict(np.nan_to_num(one.scores), cuts), dtype=pl.Int8)
        else:
            level = pl.Series([None] * len(records), dtype=pl.Int8)
        columns[f"{prefix}level"] = level.set(score.is_null(), None)
    return pl.DataFrame(columns)


def _key(index: int, given: str | int | None) -> str:
    return str(index if given is None else given)


def _notes(
    scored: Mapping[str, Scored], is_scored: Mask, is_fitted: Mask, is_measured: Mask
) -> tuple[str, ...]:
    notes = []
    partly = int(sum(not all(s == Status.OK for s in row) and Status.OK in row for row in zip(
        *(one.statuses for one in scored.values()), strict=True
    )))
    if partly:
        notes.append(f"{partly} texts that not every model could score are left out for all")
    own_scale = [name for name, one in scored.items() if not one.is_level]
    if own_scale and is_measured.any():
        notes.append(
            f"the scores of {', '.join(own_scale)} aren't levels: three thresholds are fitted on "
            f"the {is_fitted.sum():,} texts of one half of the images, and everything is measured "
            f"on the {is_measured.sum():,} texts of the other half"
        )
    elif own_scale and is_scored.any():
        notes.append(
            f"nothing measured: {', '.join(own_scale)} needs thresholds, and too few images could "
            "be scored to fit them on one half and measure on the other"
        )
    return tuple(notes)
