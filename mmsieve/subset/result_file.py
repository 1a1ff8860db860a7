"""A result file of the published code: JSON lines of `idx` and `pred_response`.

Lines whose response is a text, as nearly all are, are read by polars; blocks that hold any other
line are read one line at a time, so that a number in JSON is told from a number in a text.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
from pydantic_core import from_json

from mmsieve.errors import RequestError

KEY, RESPONSE = "idx", "pred_response"
_BLOCK = 1 << 24
_TEXT = f'"{RESPONSE}": "'.encode()
_MOST = 1 << 63


def read_scores(path: Path) -> tuple[pl.Series, pl.Series]:
    """Keys (Int64 or String) and scores (Int64; null: can't be read as a number).

    A score is what Python's `int` makes of the response, as in the published code.
    """
    return _read(path, _score, pl.Int64())


def read_texts(path: Path) -> tuple[pl.Series, pl.Series]:
    """Keys (Int64 or String) and texts (String; null: not a text)."""
    return _read(path, lambda value: value if isinstance(value, str) else None, pl.String())


def _read(path: Path, convert: Any, dtype: pl.DataType) -> tuple[pl.Series, pl.Series]:
    keys: list[pl.Series] = [pl.Series(KEY, [], pl.Int64)]
    values: list[pl.Series] = [pl.Series(RESPONSE, [], dtype)]
    line = 1
    for block in _blocks(path):
        lines = block.count(b"\n")
        frame = _texts(block) if block.count(_TEXT) == lines else None
        if frame is not None and frame.height == lines and not frame[KEY].has_nulls():
            values.append(_converted(frame[RESPONSE], convert, dtype))
            keys.append(frame[KEY])
        else:
            own = list(_parsed(path, line, block))
            keys.append(_keys([key for key, _ in own]))
            values.append(pl.Series(RESPONSE, [convert(v) for _, v in own], dtype))
        line += lines
    kind = pl.String if any(part.dtype == pl.String for part in keys) else pl.Int64
    return pl.concat([part.cast(kind) for part in keys]), pl.concat(values)


def _blocks(path: Path) -> Iterator[bytes]:
    """The file in pieces of whole lines, each with its end."""
    rest = b""
    try:
        with path.open("rb") as file:
            while chunk := file.read(_BLOCK):
                whole, mark, after = chunk.rpartition(b"\n")
                if mark:
                    yield rest + whole + mark
                    rest = after
                else:
                    rest += chunk
    except OSError as error:
        raise RequestError(f"{path}: can't be read: {error}") from error
    if rest.strip():
        yield rest + b"\n"


def _texts(block: bytes) -> pl.DataFrame | None:
    """The block's lines, or None where they aren't all an integer and a text."""
    try:
        return pl.read_ndjson(block, schema={KEY: pl.Int64, RESPONSE: pl.String})
    except pl.exceptions.ComputeError:
        return None


def _converted(texts: pl.Series, convert: Any, dtype: pl.DataType) -> pl.Series:
    """What each text is converted to, every distinct text once."""
    if dtype == pl.String:
        return texts
    array = texts.to_arrow(compat_level=pl.CompatLevel.oldest()).dictionary_encode()
    known = pl.Series([convert(text) for text in array.dictionary.to_pylist()], dtype=dtype)
    return known.gather(pl.Series(array.indices)).alias(texts.name)


def _parsed(path: Path, first: int, block: bytes) -> Iterator[tuple[int | str, Any]]:
    """Key and response of each line; raises RequestError for one that has no key."""
    for number, line in enumerate(block.splitlines(), first):
        if not line.strip():
            continue
        try:
            item = from_json(line)
        except ValueError as error:
            raise RequestError(f"{path} line {number}: no JSON ({error})") from error
        key = item.get(KEY) if isinstance(item, dict) else None
        if isinstance(key, bool) or not isinstance(key, int | str):
            raise RequestError(f"{path} line {number}: has no {KEY} that is a number or a text")
        yield key, item.get(RESPONSE)


def _keys(keys: Iterable[int | str]) -> pl.Series:
    listed = list(keys)
    if all(isinstance(key, int) and -_MOST <= key < _MOST for key in listed):
        return pl.Series(KEY, listed, pl.Int64)
    return pl.Series(KEY, [str(key) for key in listed], pl.String)


def _score(value: Any) -> int | None:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if -_MOST <= number < _MOST else None
