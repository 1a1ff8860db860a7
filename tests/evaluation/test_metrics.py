"""Metrics against scikit-learn and scipy; calibration, thresholds and kappa by their meaning."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import (
    accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    mean_squared_error,
    precision_recall_fscore_support,
)

from mmsieve.evaluation.agreement import kappa
from mmsieve.evaluation.comparing import units_of
from mmsieve.evaluation.metrics import fit_thresholds, half_of_units, measure, pearson, predict

LEVELS = [0, 1, 2, 3]
TENTHS = st.integers(-20, 50).map(lambda n: n / 10)
FLOATS = st.floats(-5, 8, allow_subnormal=False)
PAIRS = st.lists(st.tuples(TENTHS | FLOATS, st.integers(0, 3)), min_size=1, max_size=60)


def _arrays(pairs):
    scores, levels = zip(*pairs, strict=True)
    return np.array(scores, np.float64), np.array(levels, np.int64)


@given(PAIRS)
def test_metrics_are_those_of_scikit_learn(pairs):
    scores, levels = _arrays(pairs)
    found = measure(scores, levels)
    predicted = [min(3, max(0, round(score))) for score in scores.tolist()]  # half to even too
    precision, recall, f1, _ = precision_recall_fscore_support(
        levels, predicted, labels=LEVELS, zero_division=0
    )
    assert found.count == len(pairs)
    assert found.confusion == confusion_matrix(levels, predicted, labels=LEVELS).tolist()
    assert found.accuracy == pytest.approx(accuracy_score(levels, predicted))
    assert found.precision == pytest.approx(precision.mean())
    assert found.recall == pytest.approx(recall.mean())
    assert found.recall_per_level == pytest.approx(recall)
    assert found.f1_per_level == pytest.approx(f1)
    assert found.f1 == pytest.approx(f1.mean())
    assert found.mse == pytest.approx(mean_squared_error(levels, scores))


@given(PAIRS)
def test_correlations_are_those_of_scipy(pairs):
    scores, levels = _arrays(pairs)
    found = measure(scores, levels).spearman
    if len(set(scores.tolist())) == 1 or len(set(levels.tolist())) == 1:
        assert found is None
        return
    assert found == pytest.approx(spearmanr(scores, levels).statistic, abs=1e-9)
    assume(scores.std() > 1e-6)
    assert pearson(scores, levels * 1.0) == pytest.approx(pearsonr(scores, levels)[0], abs=1e-6)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_kappa_is_that_of_scikit_learn(pairs):
    one, other = np.array(pairs, np.int64).T
    found = kappa(one, other)
    if len({*one.tolist(), *other.tolist()}) == 1:
        assert found is None  # agreement by chance is certain
        return
    expected = cohen_kappa_score(one, other, labels=LEVELS, weights="quadratic")
    assert found == pytest.approx(expected, abs=1e-9)


@given(PAIRS)
def test_calibration_is_its_definition(pairs):
    scores, levels = _arrays(pairs)
    found = measure(scores, levels).calibration
    predicted = predict(scores)
    for level in LEVELS:
        there = levels[predicted == level]
        assert found.share[level] == pytest.approx(len(there) / len(levels))
        mean = found.mean_level[level]
        assert mean == (pytest.approx(there.mean()) if len(there) else None)
    error = 0.0
    bins = np.minimum(np.floor(np.clip(scores, 0, 3) * 4), 11)
    for one in set(bins.tolist()):
        inside = bins == one
        error += inside.sum() * abs(scores[inside].mean() - levels[inside].mean())
    assert found.expected_error == pytest.approx(error / len(levels), abs=1e-9)
    assert sum(one["count"] for one in found.bins) == len(levels)


def test_a_shifted_score_is_badly_calibrated_by_its_shift():
    levels = np.array(LEVELS * 10)
    assert measure(levels * 1.0, levels).calibration.expected_error == 0
    found = measure(levels + 0.4, levels)
    assert found.accuracy == 1
    assert found.calibration.expected_error == pytest.approx(0.4)


SCORES = st.integers(-3, 6).map(float) | st.floats(-2, 2, allow_subnormal=False)


@given(st.lists(st.tuples(SCORES, st.integers(0, 3)), min_size=1, max_size=9))
def test_no_thresholds_are_better_than_the_fitted_ones(pairs):
    scores, levels = _arrays(pairs)
    cuts = fit_thresholds(scores, levels)
    assert cuts == sorted(cuts)
    assert np.isfinite(cuts).all()
    found = measure(scores, levels, cuts)
    edges = [*np.unique(scores), np.inf]
    best = max(
        (predict(scores, cut) == levels).mean()
        for cut in itertools.combinations_with_replacement(edges, 3)
    )
    assert found.accuracy == pytest.approx(best)
    assert found.mse is None
    assert found.calibration.expected_error is None


def test_thresholds_lie_between_the_levels():
    scores = np.array([-9.0, -8.0, 0.1, 0.2, 0.6, 0.7, 40.0, 50.0])
    cuts = fit_thresholds(scores, np.array([0, 0, 1, 1, 2, 2, 3, 3]))
    assert cuts == pytest.approx([-3.95, 0.4, 20.35])


def test_halves_keep_texts_of_one_image_together():
    units = np.repeat(np.arange(101), 4)
    half = half_of_units(units, seed=3)
    assert half.sum() == 200
    assert set(units[half]).isdisjoint(units[~half])
    assert (half == half_of_units(units, seed=3)).all()
    assert (half != half_of_units(units, seed=4)).any()


def test_texts_that_share_an_image_are_one_unit():
    images = [["a"], ["b", "c"], ["c", "b"], ["a"], [], ["d"], ["e", "d"], [], ["c", "f"], ["f"]]
    assert units_of(images).tolist() == [0, 1, 1, 0, 2, 3, 3, 4, 1, 1]
    chain = [[str(i), str(i + 1)] for i in range(5000)]
    assert set(units_of(chain).tolist()) == {0}
