"""Ranking: thresholds, ties, temporary files and hashes equal what is defined in plain words."""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmsieve.filtering import ranking
from mmsieve.filtering.ranking import (
    RANKED,
    ColumnFile,
    KeptTies,
    find_thresholds,
    from_ordered,
    hash_strings,
    ordered,
)

HIGHEST = 2**64 - 1
VALUES = st.one_of(st.integers(0, HIGHEST), st.integers(0, 5), st.just(HIGHEST))
ROWS = st.lists(st.tuples(VALUES, st.integers(0, 3)), max_size=60)
WANTED = st.lists(st.integers(0, 40), min_size=4, max_size=4)
MEMORY = st.sampled_from([(1 << 21, 1 << 21), (8, 1), (64, 5)])
"""Cells of a pass and rows that are sorted: all at once, or narrowed down pass by pass."""


def ranked(rows: list[tuple[int, int]]) -> np.ndarray:
    return np.array(rows, RANKED)


def in_blocks(rows: np.ndarray, size: int = 7) -> Callable[[], Iterator[Any]]:
    return lambda: (rows[at : at + size] for at in range(0, len(rows), size))


@given(ROWS, WANTED, MEMORY)
@settings(max_examples=300)
def test_thresholds_keep_what_a_sort_would(
    rows: list[tuple[int, int]], wanted: list[int], memory: tuple[int, int]
) -> None:
    all_rows = ranked(rows)
    with patch.multiple(ranking, CELLS=memory[0], COLLECT=memory[1]):
        found = find_thresholds(in_blocks(all_rows), np.array(wanted))
    above, tied = found.above(all_rows), found.tied(all_rows)
    for group in range(4):
        mine = all_rows["group"] == group
        expected = sorted(all_rows["value"][mine].tolist(), reverse=True)[: wanted[group]]
        sure = all_rows["value"][mine & above].tolist()
        at_threshold = all_rows["value"][mine & tied].tolist()
        missing = int(found.ties[group]) if at_threshold else 0
        assert len(set(at_threshold)) <= 1
        assert missing < len(at_threshold) or not at_threshold
        assert sorted(sure + at_threshold[:missing], reverse=True) == expected
        if expected:
            assert found.at[group] == expected[-1]


@given(st.lists(VALUES, max_size=30), st.integers(0, 30), st.integers(1, 5))
@settings(max_examples=50)
def test_ties_keep_the_highest_then_the_first(values: list[int], wanted: int, step: int) -> None:
    wanted, count = min(wanted, len(values)), len(values)
    with TemporaryDirectory() as folder:
        ties = KeptTies(Path(folder))
        ties.add(np.array(values, np.uint64), np.zeros(count, np.uint32))
        ties.settle(np.array([wanted]))
        kept = [x for at in range(0, count, step) for x in ties.take(min(step, count - at))]
    best = sorted(range(len(values)), key=lambda row: (-values[row], row))[:wanted]
    assert [row for row, keep in enumerate(kept) if keep] == sorted(best)


@pytest.mark.parametrize(
    ("dtype", "elements"),
    [
        (pl.Float64, st.floats(allow_nan=False)),
        (pl.Float32, st.floats(allow_nan=False, width=32)),
        (pl.Int64, st.integers(-(2**63), 2**63 - 1)),
        (pl.Int8, st.integers(-128, 127)),
        (pl.UInt64, st.integers(0, HIGHEST)),
    ],
)
def test_integers_have_the_order_of_the_numbers(dtype: Any, elements: Any) -> None:
    @given(st.lists(elements, min_size=1))
    def check(values: list[float]) -> None:
        series = pl.Series(values, dtype=dtype)
        keys = ordered(series)
        for a, key_a in zip(values, keys, strict=True):
            for b, key_b in zip(values, keys, strict=True):
                assert (a < b) == (key_a < key_b)
        assert from_ordered(keys, series.dtype).to_list() == series.to_list()

    check()


def test_hashes_never_change() -> None:
    words = ["", "a", "000000001", "12345678", "123456789", "\u00e9\u4e2d\U0001f600", "x" * 1000]
    assert [f"{h:016x}" for h in hash_strings(pl.Series(words))] == [
        "e220a8397b1dcdaf",
        "3e506e5796335af0",
        "b211129995c3a226",
        "82177327e1e4daac",
        "b0f00539162b363b",
        "c0c76427597324f6",
        "875e4d249041ee0d",
    ]


@given(st.lists(st.text(max_size=40), max_size=20), st.integers(0, 5))
def test_hashes_are_those_of_the_definition(words: list[str], cut: int) -> None:
    hashed = hash_strings(pl.Series(words, dtype=pl.String).slice(min(cut, len(words))))
    assert hashed.tolist() == [defined_hash(word) for word in words[cut:]]


def defined_hash(word: str) -> int:
    """The hash as `hash_strings` defines it, a word at a time."""
    data = word.encode()
    mixed = mix(len(data) + 0x9E3779B97F4A7C15)
    for at in range(0, len(data), 8):
        mixed = mix(mixed ^ int.from_bytes(data[at : at + 8], "little"))
    return mixed


def mix(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def test_a_column_file_gives_back_what_it_took(tmp_path: Path) -> None:
    file = ColumnFile(tmp_path, RANKED)
    rows = ranked([(n * 7, n % 3) for n in range(100)])
    for at in range(0, 100, 9):
        file.append(rows[at : at + 9])
    assert file.rows == 100
    assert np.concatenate(list(file.blocks(13))).tolist() == rows.tolist()
    assert file.read(95, 200).tolist() == rows[95:].tolist()
    assert len(file.read(100, 110)) == 0
