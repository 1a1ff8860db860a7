"""How a decision names a row, key, shard and uid, and the stable hash that breaks its ties."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from mmsieve.errors import RequestError
from mmsieve.tables import Origins, Table, can_name, column_names

Numbers: TypeAlias = npt.NDArray[np.uint64]
Counts: TypeAlias = npt.NDArray[np.int64]


class RowIds:
    """The columns of a table that say which sample a row is."""

    def __init__(self, table: Table, needs_uid: bool) -> None:
        """Raise RequestError where the table lacks them; a uid serves as key where that is all."""
        is_text = table.types.get("shard") in (pa.string(), pa.large_string())
        has_shard = is_text or (table.is_ours and "shard" in table.types)
        self._shard = "shard" if has_shard else None
        self._uid = "uid" if needs_uid else None
        self._key = "key" if "key" in table.types or not needs_uid else "uid"
        self._place = "place" if table.types.get("place") == pa.int64() else None
        names = (self._key, self._shard, self._uid, self._place)
        self.columns = list(dict.fromkeys(name for name in names if name))
        for column in self.columns:
            if column not in table.types or column in table.mixed:
                raise RequestError(
                    f"{table.name} has no usable column {column} to name samples by: put the "
                    f"table that has it first; {column_names([table])}"
                )
            kind = table.types[column]
            if not can_name(kind):
                raise RequestError(f"{table.name}: column {column} is {kind}: it can't be a name")

    def of(self, origins: Origins, frame: pl.DataFrame) -> pl.DataFrame:
        """`key`, `shard`, `place` (null where that isn't known) and, where asked for, `uid`."""
        key = frame[self._key].cast(pl.String)
        if self._key == "uid":
            key = key.fill_null("")  # checked where the row is kept
        if key.has_nulls():
            ends = np.cumsum([rows for _, rows in origins])
            first = int(key.is_null().arg_true()[0])
            file = origins[int(np.searchsorted(ends, first, side="right"))][0]
            raise RequestError(f"{file.path}: a row has no {self._key}, so it can't be named")
        names = pl.Series([file.shard for file, _ in origins], dtype=pl.String)
        shard = names.gather(np.repeat(np.arange(len(origins)), [rows for _, rows in origins]))
        if self._shard is not None:
            shard = frame[self._shard].cast(pl.String).fill_null(shard)
        unknown = pl.repeat(None, frame.height, dtype=pl.Int64, eager=True)
        place = unknown if self._place is None else frame[self._place]
        columns = {"key": key, "shard": shard, "place": place}
        if self._uid is not None:
            columns["uid"] = frame[self._uid].cast(pl.String)
        return pl.DataFrame(columns)


# A hash of strings that is the same on every machine and in every version

_WORD = 8
_SHARD_BITS = np.uint64(24)
_SEED = np.uint64(0x9E3779B97F4A7C15)


def hash_strings(strings: pl.Series) -> Numbers:
    """One hash per string; a null hashes like an empty string.

    Decisions depend on it, so it never changes: neither Python's nor polars' own hash promises
    that. Over a string's UTF-8 bytes as little-endian 8-byte words, the last filled up with zeros:
    `h = mix(bytes + 0x9E3779B97F4A7C15)`, then `h = mix(h ^ word)` for each word, modulo 2**64.
    """
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
    """One hash per sample, by which ties at a threshold are broken: the highest are kept.

    The same key in several shards is told apart by a hash of the shard's name in the last bits.
    """
    last = hash_strings(shards) >> (np.uint64(64) - _SHARD_BITS)
    return hash_strings(keys) >> _SHARD_BITS << _SHARD_BITS | last


def _buffers(strings: pl.Series) -> tuple[bytes, np.ndarray, np.ndarray]:
    """The bytes of all strings and a word of zeros, and each string's start and size in them."""
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
