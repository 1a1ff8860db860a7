"""A 64-bit hash of strings that is the same on every machine and in every version.

Decisions depend on it, so it never changes: neither Python's nor polars' own hash promises that.
Over a string's UTF-8 bytes, cut into little-endian 8-byte words, the last filled up with zeros:
`h = mix(bytes + 0x9E3779B97F4A7C15)`, then `h = mix(h ^ word)` for each word, modulo 2**64, where
`mix` is the finaliser of SplitMix64.
"""

import numpy as np
import polars as pl
import pyarrow as pa

from mmsieve.filtering.ranking import Numbers

_WORD = 8
_SHARD_BITS = np.uint64(24)
_SEED = np.uint64(0x9E3779B97F4A7C15)


def hash_strings(strings: pl.Series) -> Numbers:
    """One hash per string; a null hashes like an empty string."""
    data, starts, sizes = _buffers(strings)
    hashes = mix(sizes.astype(np.uint64) + _SEED)
    words = np.ndarray((len(data) - _WORD + 1,), "<u8", buffer=data, strides=(1,))
    rows = np.flatnonzero(sizes > 0)
    done = 0
    while len(rows):
        word = words[starts[rows] + done]
        left = sizes[rows] - done
        unused = np.clip(_WORD - left, 0, _WORD - 1).astype(np.uint64) * np.uint64(8)
        hashes[rows] = mix(hashes[rows] ^ (word & (~np.uint64(0) >> unused)))
        rows = rows[left > _WORD]
        done += _WORD
    return hashes


def hash_samples(keys: pl.Series, shards: pl.Series) -> Numbers:
    """One hash per sample, by which ties at a cut are broken: the highest are kept.

    The same key in several shards is told apart by a hash of the shard's name in the last bits.
    """
    last = hash_strings(shards) >> (np.uint64(64) - _SHARD_BITS)
    return hash_strings(keys) >> _SHARD_BITS << _SHARD_BITS | last


def _buffers(strings: pl.Series) -> tuple[bytes, np.ndarray, np.ndarray]:
    """The bytes of all strings, padded by a word, and each string's start and size in them."""
    array = strings.cast(pl.String).fill_null("").to_arrow(compat_level=pl.CompatLevel.oldest())
    array = array.cast(pa.large_string())
    _, offsets, data = array.buffers()
    begin = np.frombuffer(offsets, "<i8", count=len(array) + 1, offset=array.offset * 8)
    padded = (b"" if data is None else data.to_pybytes()) + bytes(_WORD)
    return padded, begin[:-1], np.diff(begin)


def mix(values: Numbers) -> Numbers:
    """The finaliser of SplitMix64: spreads numbers over all of the 64 bits, one to one."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
