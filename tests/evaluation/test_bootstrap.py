"""Intervals: every draw against the plain metrics of the drawn texts, and their width."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsieve.evaluation.metrics import Bootstrap, interval, measure


def _noisy(count: int, units: int, seed: int = 0):
    random = np.random.default_rng(seed)
    levels = random.integers(0, 4, count)
    return levels + random.normal(0, 0.6, count), levels, random.integers(0, units, count)


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.integers(-4, 16).map(lambda n: n / 4), st.integers(0, 3), st.integers(0, 6)),
        min_size=2,
        max_size=30,
    ),
    st.booleans(),
)
def test_a_draw_has_the_metrics_of_its_texts(rows, with_thresholds):
    scores, levels, units = (np.array(column) for column in zip(*rows, strict=True))
    cuts = [0.3, 0.8, 2.1] if with_thresholds else None
    bootstrap = Bootstrap(resamples=20, seed=1)
    draws = bootstrap.draw(scores, levels, units, cuts)
    names, numbers = np.unique(units, return_inverse=True)
    if len(names) == 1:
        assert all(np.isnan(values).all() for values in draws.values())
        return
    counts = np.concatenate(list(bootstrap.counts(len(names), len(rows))))
    assert counts.sum(1).tolist() == [len(names)] * 20
    for draw, drawn in enumerate(counts.astype(int)):
        texts = np.repeat(np.arange(len(rows)), drawn[numbers])
        found = measure(scores[texts], levels[texts], cuts)
        for name, values in draws.items():
            expected = getattr(found, name)
            if expected is None:
                assert np.isnan(values[draw])
            else:
                assert values[draw] == pytest.approx(expected, abs=1e-9)


def test_an_interval_is_as_wide_as_theory_says():
    scores, levels, _ = _noisy(2000, 1)
    draws = Bootstrap(2000, 0).draw(scores, levels, np.arange(2000))
    low, high = interval(draws["accuracy"])
    share = measure(scores, levels).accuracy
    assert low < share < high
    assert high - low == pytest.approx(2 * 1.96 * (share * (1 - share) / 2000) ** 0.5, rel=0.1)


def test_texts_that_fail_together_count_as_one_accident():
    scores, levels, _ = _noisy(500, 1)
    alone = interval(Bootstrap(2000, 0).draw(scores, levels, np.arange(500))["accuracy"])
    four = (np.repeat(values, 4) for values in (scores, levels))
    together = interval(Bootstrap(2000, 0).draw(*four, np.repeat(np.arange(500), 4))["accuracy"])
    assert together == pytest.approx(alone)


def test_the_same_seed_gives_the_same_draws():
    texts = _noisy(200, 50)
    one, again, other = (Bootstrap(50, seed).draw(*texts) for seed in (0, 0, 1))
    assert all((one[name] == again[name]).all() for name in one)
    assert (one["accuracy"] != other["accuracy"]).any()


def test_what_is_never_defined_has_no_interval():
    draws = Bootstrap(20, 0).draw(np.ones(6), np.array([0, 1, 2, 3, 0, 1]), np.arange(6))
    assert interval(draws["spearman"]) is None
    assert interval(draws["accuracy"]) is not None


def test_a_thousand_draws_of_four_thousand_texts_take_seconds():
    texts = _noisy(4000, 1000)
    started = time.process_time()
    Bootstrap(1000, 0).draw(*texts)
    assert time.process_time() - started < 4
