"""Scores of one or more models against the true levels, and against the first model's."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mmsieve.errors import Status
from mmsieve.evaluation.bootstrap import Bootstrap, Draws, interval
from mmsieve.evaluation.scoring import Scored, Texts
from mmsieve.evaluation.thresholds import fit_thresholds, half_of_units
from mmsieve.metrics import Interval, Metrics, measure

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
    """All models' numbers over the same texts."""

    models: dict[str, Measured]
    scored: dict[str, Scored]
    """With their thresholds, where they need them."""
    is_measured: Mask
    """Texts [n] that every model could score, and that no threshold was fitted on."""
    is_fitted: Mask
    """Texts [n] that thresholds were fitted on."""
    notes: tuple[str, ...]


def compare(texts: Texts, scored: Mapping[str, Scored], bootstrap: Bootstrap) -> Comparison:
    """Measure every model on the texts that all of them could score.

    Where a score isn't a level, half of the images go to fitting its thresholds, and all models
    are measured on the other half.
    """
    is_scored = np.logical_and.reduce([np.isfinite(one.scores) for one in scored.values()])
    own_scale = [name for name, one in scored.items() if not one.is_level]
    is_fitted = np.zeros_like(is_scored)
    if own_scale:
        is_fitted = is_scored & half_of_units(texts.units, bootstrap.seed)
    is_measured = is_scored & ~is_fitted
    notes = _notes_of_statuses(scored)
    if own_scale and is_scored.any():
        if is_fitted.any() and is_measured.any():
            scored = _with_thresholds(texts, scored, is_fitted)
        else:
            is_measured = np.zeros_like(is_scored)
        notes += _note_of_thresholds(own_scale, is_fitted, is_measured)
    measuring = _Measuring(texts, is_measured, bootstrap)
    return Comparison(
        models={name: measuring.measured(one) for name, one in scored.items()},
        scored=dict(scored),
        is_measured=is_measured,
        is_fitted=is_fitted,
        notes=notes,
    )


class _Measuring:
    """Measures one model after the other; the first is what the others are compared with."""

    def __init__(self, texts: Texts, is_measured: Mask, bootstrap: Bootstrap) -> None:
        self._texts, self._is_measured, self._bootstrap = texts, is_measured, bootstrap
        self._kinds = np.array(texts.kinds)
        self._first: tuple[Metrics, Draws] | None = None

    def measured(self, one: Scored) -> Measured:
        if not self._is_measured.any():
            return Measured(statuses=one.counts)
        overall = self._numbers(one, self._is_measured)
        differences = {} if self._first is None else _differences(overall, self._first)
        self._first = self._first or overall
        kinds = np.unique(self._kinds[self._is_measured]).tolist()
        return Measured(
            overall=overall[0],
            by_kind={
                kind: self._numbers(one, self._is_measured & (self._kinds == kind))[0]
                for kind in kinds
            },
            statuses=one.counts,
            thresholds=one.thresholds,
            differences=differences,
        )

    def _numbers(self, one: Scored, chosen: Mask) -> tuple[Metrics, Draws]:
        scores, levels = one.scores[chosen], self._texts.levels[chosen]
        units = self._texts.units[chosen]
        draws = self._bootstrap.draw(scores, levels, units, one.thresholds)
        intervals = {name: interval(values) for name, values in draws.items()}
        return replace(measure(scores, levels, one.thresholds), intervals=intervals), draws


def _with_thresholds(
    texts: Texts, scored: Mapping[str, Scored], is_fitted: Mask
) -> dict[str, Scored]:
    levels = texts.levels[is_fitted]
    return {
        name: one
        if one.is_level
        else replace(one, thresholds=fit_thresholds(one.scores[is_fitted], levels))
        for name, one in scored.items()
    }


def _differences(one: tuple[Metrics, Draws], first: tuple[Metrics, Draws]) -> dict[str, Difference]:
    found: dict[str, Difference] = {}
    for name in COMPARED:
        value, reference = getattr(one[0], name), getattr(first[0], name)
        less = None if value is None or reference is None else value - reference
        found[name] = Difference(less, interval(one[1][name] - first[1][name]))
    return found


def _notes_of_statuses(scored: Mapping[str, Scored]) -> tuple[str, ...]:
    of_each_text = zip(*(one.statuses for one in scored.values()), strict=True)
    partly = sum(Status.OK in row and set(row) != {Status.OK} for row in of_each_text)
    if not partly:
        return ()
    return (f"{partly:,} texts that not every model could score are left out for all",)


def _note_of_thresholds(
    own_scale: list[str], is_fitted: Mask, is_measured: Mask
) -> tuple[str, ...]:
    names = ", ".join(own_scale)
    if not is_measured.any():
        return (
            f"nothing measured: the scores of {names} aren't levels, and too few images could be "
            "scored to fit thresholds on one half and measure on the other",
        )
    return (
        f"the scores of {names} aren't levels: thresholds were fitted on the {is_fitted.sum():,} "
        f"texts of one half of the images, and everything is measured on the {is_measured.sum():,} "
        "of the other",
    )
