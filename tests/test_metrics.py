"""Metrics against their definitions, counted one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsieve.metrics import measure

TENTHS = st.integers(-20, 50).map(lambda n: n / 10)
PAIRS = st.lists(st.tuples(TENTHS, st.integers(0, 3)), min_size=1, max_size=60)


def _measure(pairs):
    scores, levels = zip(*pairs, strict=True)
    return measure(np.array(scores, np.float64), np.array(levels, np.int64))


@given(PAIRS)
def test_metrics_are_their_definitions(pairs):
    found = _measure(pairs)
    predicted = [min(3, max(0, round(score))) for score, _ in pairs]  # both round half to even
    levels = [level for _, level in pairs]
    both = list(zip(levels, predicted, strict=True))
    assert found.count == len(pairs)
    assert found.confusion == [[both.count((t, p)) for p in range(4)] for t in range(4)]
    assert found.accuracy == pytest.approx(sum(t == p for t, p in both) / len(both))
    precision, recall, f1 = [], [], []
    for level in range(4):
        hits = both.count((level, level))
        told, there = predicted.count(level), levels.count(level)
        precision.append(hits / told if told else 0.0)
        recall.append(hits / there if there else 0.0)
        f1.append(2 * hits / (told + there) if hits else 0.0)
    assert found.precision == pytest.approx(np.mean(precision))
    assert found.recall == pytest.approx(np.mean(recall))
    assert found.f1_per_level == pytest.approx(f1)
    assert found.f1 == pytest.approx(np.mean(f1))
    assert found.mse == pytest.approx(np.mean([(score - level) ** 2 for score, level in pairs]))


@given(PAIRS)
def test_spearman_only_looks_at_the_order(pairs):
    found = _measure(pairs).spearman
    stretched = _measure([(score * 2 + 1, level) for score, level in pairs]).spearman
    if found is None:
        scores, levels = zip(*pairs, strict=True)
        assert len(set(scores)) == 1 or len(set(levels)) == 1
    else:
        assert -1 - 1e-9 <= found <= 1 + 1e-9
        assert found == pytest.approx(stretched)


def test_spearman_of_known_orders():
    assert _measure([(0.1, 0), (0.9, 1), (2.2, 2), (3.0, 3)]).spearman == pytest.approx(1)
    assert _measure([(3, 0), (2, 1), (1, 2), (0, 3)]).spearman == pytest.approx(-1)
    # ranks 0.5 0.5 2 3 against 0 1 2.5 2.5
    assert _measure([(1, 0), (1, 1), (2, 3), (3, 3)]).spearman == pytest.approx(8 / 9)
