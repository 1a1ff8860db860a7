"""Names of rows: hashes equal what is defined in plain words."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from mmsieve.filtering.ids import hash_strings


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
