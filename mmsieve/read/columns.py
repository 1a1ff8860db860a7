"""Columns of a Parquet file: which one is the image, the text, the key, by name and type."""

import math
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from mmsieve.errors import RequestError


def pick(
    types: dict[str, pa.DataType],
    asked: str | None,
    usual: tuple[str, ...],
    what: str,
    fits: Callable[[pa.DataType], bool],
) -> str:
    """The column that was asked for, or the first with a usual name; its type must be right."""
    names = ", ".join(f"{name} ({str(type_)[:40]})" for name, type_ in types.items())
    if asked is not None and asked not in types:
        raise RequestError(f"no column {asked!r} for --{what}-column; there are {names}")
    if asked is not None and not fits(types[asked]):
        raise RequestError(f"--{what}-column {asked}: of type {types[asked]}, no {what}")
    found = asked or next((name for name in usual if name in types and fits(types[name])), None)
    if found is None:
        raise RequestError(f"which column is the {what}? Say --{what}-column; there are {names}")
    return found


def is_text(type_: pa.DataType) -> bool:
    """Whether a column of that type holds texts (or nulls only)."""
    plain = _plain(type_)
    tests = (pt.is_string, pt.is_large_string, pt.is_string_view, pt.is_null)
    return any(test(plain) for test in tests)


def is_image(type_: pa.DataType) -> bool:
    """Whether a column of that type can hold images: bytes, a path, both, or a list."""
    plain = _plain(type_)
    if _is_list(plain):
        return is_image(plain.value_type)
    if pt.is_struct(plain):
        return any(field.name in ("bytes", "path") for field in plain)
    return _is_bytes(plain) or is_text(plain)


def is_turns(type_: pa.DataType) -> bool:
    """Whether a column of that type can hold the turns of conversations."""
    plain = _plain(type_)
    return _is_list(plain) and pt.is_struct(_plain(plain.value_type))


def names_paths(type_: pa.DataType) -> bool:
    """Whether a column of images of that type can hold nothing but paths."""
    plain = _plain(type_)
    if _is_list(plain):
        return names_paths(plain.value_type)
    return is_text(plain) and not pt.is_null(plain)


def is_key(type_: pa.DataType) -> bool:
    """Whether a column of that type can name its rows."""
    plain = _plain(type_)
    return pt.is_integer(plain) or (is_text(plain) and not pt.is_null(plain))


def holds_bytes(type_: pa.DataType) -> bool:
    """Whether there are bytes anywhere in a column of that type."""
    plain = _plain(type_)
    if pt.is_struct(plain):
        return any(holds_bytes(field.type) for field in plain)
    if pt.is_map(plain):
        return holds_bytes(plain.key_type) or holds_bytes(plain.item_type)
    return holds_bytes(plain.value_type) if _is_list(plain) else _is_bytes(plain)


def json_value(value: Any) -> Any:
    """A column's value as metadata: NaN, which JSON doesn't have, is null as in a json member."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_bytes(type_: pa.DataType) -> bool:
    tests = (pt.is_binary, pt.is_large_binary, pt.is_fixed_size_binary, pt.is_binary_view)
    return any(test(type_) for test in tests)


def _is_list(type_: pa.DataType) -> bool:
    tests = (pt.is_list, pt.is_large_list, pt.is_fixed_size_list)
    return any(test(type_) for test in tests)


def _plain(type_: pa.DataType) -> pa.DataType:
    """The type under an extension type or a dictionary."""
    if isinstance(type_, pa.BaseExtensionType):
        return _plain(type_.storage_type)
    return _plain(type_.value_type) if pt.is_dictionary(type_) else type_
