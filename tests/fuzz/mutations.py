"""Mutations of files: of bytes, and of what a JSON, Parquet or safetensors file says."""

import io
import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_HUGE = (-1, 0, 2**31, 10**9, 2**63, 10**400, 1e308, float("nan"))
_ODD: tuple[Any, ...] = (
    *_HUGE,
    None,
    True,
    "",
    "x",
    "\ud800",
    "../../x",
    "a\x1b[31mb",
    [],
    [[]],
    {},
    {"x": [1]},
    1.5,
)
_DEEP = "@deep@"
_DEPTH = 100_000


def mutate(name: str, data: bytes, random: Random) -> bytes:
    """A file's content, damaged in a way that suits its name, or any file."""
    aware = next((own for suffix, own in _AWARE.items() if name.endswith(suffix)), None)
    if aware is not None and random.random() < 0.75:
        return aware(data, random)
    return random.choice(_BYTES)(bytearray(data), random)


# Any file


def _flip(data: bytearray, random: Random) -> bytes:
    for _ in range(random.choice((1, 1, 2, 8, 64)) if data else 0):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(data)


def _cut(data: bytearray, random: Random) -> bytes:
    return bytes(data[: random.randrange(len(data) + 1)])


def _swap(data: bytearray, random: Random) -> bytes:
    size = random.choice((1, 16, 512))
    one, other = (random.randrange(max(1, len(data) - size)) for _ in range(2))
    data[one : one + size], data[other : other + size] = (
        data[other : other + size],
        data[one : one + size],
    )
    return bytes(data)


def _zero(data: bytearray, random: Random) -> bytes:
    start, size = random.randrange(len(data) + 1), random.choice((1, 16, 512, 4096))
    data[start : start + size] = bytes(len(data[start : start + size]))
    return bytes(data)


def _insert(data: bytearray, random: Random) -> bytes:
    start = random.randrange(len(data) + 1)
    data[start:start] = random.randbytes(random.choice((1, 16, 512)))
    return bytes(data)


def _empty(data: bytearray, random: Random) -> bytes:
    return random.choice((b"", b"\0", b"\n", b"null", b"[]", b"{}"))


_BYTES = (_flip, _flip, _cut, _swap, _zero, _insert, _empty)

# JSON: some values are others, somewhere inside


def _json(data: bytes, random: Random) -> bytes:
    value = json.loads(data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        value = changed(value, random)
    text = json.dumps(value, indent=random.choice((None, 1)))
    return text.replace(f'"{_DEEP}"', "[" * _DEPTH + "]" * _DEPTH).encode()


def _json_lines(data: bytes, random: Random) -> bytes:
    lines = data.split(b"\n")
    place = random.choice([at for at, line in enumerate(lines) if line.strip()] or [0])
    lines[place] = random.choice((_json, _json, _json, _repeat))(lines[place] or b"null", random)
    return b"\n".join(lines)


def _repeat(data: bytes, random: Random) -> bytes:
    return b"\n".join([data] * random.choice((0, 2, 3)))


def changed(value: Any, random: Random) -> Any:
    """A JSON value with one of the values in it dropped, renamed, or put in another's place."""
    places = list(_places(value))
    if not places:
        return _odd_value(random)
    holder, key = random.choice(places)
    change = random.randrange(6)
    if change == 0:
        del holder[key]
    elif change == 1 and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    elif change == 2:
        other, name = random.choice(places)
        holder[key] = json.loads(json.dumps(other[name]))
    elif change == 3 and isinstance(holder[key], int | float):
        holder[key] = random.choice((*_HUGE, -holder[key], holder[key] + 1, str(holder[key])))
    else:
        holder[key] = _odd_value(random)
    return value


def _odd_value(random: Random) -> Any:
    """A value that is not expected, with lists of its own, which later changes may fill."""
    return deepcopy(random.choice((*_ODD, _DEEP)))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    inside = value.items() if isinstance(value, dict) else ()
    inside = enumerate(value) if isinstance(value, list) else inside
    for number, (key, each) in enumerate(inside):
        yield value, key
        if number < 200:
            yield from _places(each)


# Safetensors: a header of JSON behind its length


def _safetensors(data: bytes, random: Random) -> bytes:
    size = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + size]
    header = random.choice((_json, _json, _json, _lied))(header, random)
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def _lied(data: bytes, random: Random) -> bytes:
    """A tensor of another shape with as many bytes, or of another type."""
    header = json.loads(data)
    tensor = header[random.choice([name for name in header if name != "__metadata__"])]
    if random.random() < 0.5:
        tensor["shape"] = random.choice((tensor["shape"][::-1], [*tensor["shape"], 1]))
    else:
        tensor["dtype"] = random.choice(("I16", "I32", "BF16", "F16", "F64", "BOOL"))
    return json.dumps(header).encode()


# Parquet: other columns, types, values, metadata

_TYPES = (
    pa.string(),
    pa.binary(),
    pa.int8(),
    pa.int64(),
    pa.uint64(),
    pa.float32(),
    pa.float64(),
    pa.bool_(),
    pa.null(),
    pa.timestamp("ns"),
    pa.decimal128(38, 2),
    pa.dictionary(pa.int32(), pa.string()),
    pa.list_(pa.string()),
    pa.struct([("x", pa.string())]),
    pa.large_string(),
)
Columns = dict[str, Any]


def _parquet(data: bytes, random: Random) -> bytes:
    table = pq.read_table(io.BytesIO(data))
    metadata = dict(table.schema.metadata or {})
    columns: Columns = dict(zip(table.column_names, table.columns, strict=True))
    if metadata and random.random() < 0.25:
        name = random.choice(list(metadata))
        metadata[name] = mutate(".json", metadata[name], random)
    else:
        for _ in range(random.choice((1, 1, 2))):
            if columns:
                random.choice(_COLUMNS)(columns, random.choice(list(columns)), random)
        if columns and random.random() < 0.05:
            _bomb(columns, random.choice(list(columns)))
    made = pa.table(list(columns.values()), names=list(columns))
    out = io.BytesIO()
    compression = random.choice(("snappy", "zstd", "none"))
    pq.write_table(made.replace_schema_metadata(metadata), out, compression=compression)
    return out.getvalue()


def _values(column: Any) -> list[Any]:
    """A column's values; as bytes where an earlier mutation left text that isn't UTF-8."""
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        values = column.cast(pa.binary()).to_pylist()
    return values


def _drop(columns: Columns, name: str, random: Random) -> None:
    del columns[name]


def _rename(columns: Columns, name: str, random: Random) -> None:
    columns[random.choice((f"{name}x", "", "key", "status", "a.b"))] = columns.pop(name)


def _retype(columns: Columns, name: str, random: Random) -> None:
    kind, values = random.choice(_TYPES), _values(columns[name])
    made = [_as(kind, value) for value in values]
    try:
        columns[name] = pa.array(made, kind)
    except pa.ArrowException:  # an empty list alone passes for a struct
        columns[name] = pa.nulls(len(made), kind)


def _as(kind: pa.DataType, value: Any) -> Any:
    for made in (value, str(value), [str(value)], {"x": str(value)}, 1):
        try:
            pa.array([made], kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            continue
        return made
    return None


def _null(columns: Columns, name: str, random: Random) -> None:
    share, values = random.choice((0.3, 1.0)), _values(columns[name])
    kept = [None if random.random() < share else value for value in values]
    columns[name] = pa.array(kept, columns[name].type)


def _odd(columns: Columns, name: str, random: Random) -> None:
    kind, values = columns[name].type, _values(columns[name])
    odd = [_as(kind, random.choice(_ODD[1:])) for _ in values] or values
    columns[name] = pa.array([random.choice(pair) for pair in zip(odd, values, strict=True)], kind)


def _not_utf8(columns: Columns, name: str, random: Random) -> None:
    count = len(columns[name])
    broken = pa.array([b"\xff\xfe"] * count, pa.binary())
    columns[name] = pa.StringArray.from_buffers(count, broken.buffers()[1], broken.buffers()[2])


def _no_rows(columns: Columns, name: str, random: Random) -> None:
    for each in columns:
        columns[each] = columns[each][:0]


def _twice(columns: Columns, name: str, random: Random) -> None:
    for each in columns:
        columns[each] = pa.array(_values(columns[each]) * 2)


def _bomb(columns: Columns, name: str) -> None:
    """Many rows whose texts take 10 GB once they aren't one text of a dictionary any more."""
    rows = 20_000
    count = len(columns[name])
    for each in columns:
        columns[each] = columns[each].take(pa.array([0] * (rows if count else 0), pa.int32()))
    if count:
        value = pa.array(["x" * 500_000])
        columns[name] = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), value)


_COLUMNS: tuple[Callable[[Columns, str, Random], None], ...] = (
    _drop,
    _rename,
    _retype,
    _retype,
    _retype,
    _null,
    _null,
    _odd,
    _not_utf8,
    _no_rows,
    _twice,
)

_AWARE: dict[str, Callable[[bytes, Random], bytes]] = {
    ".json": _json,
    ".jsonl": _json_lines,
    ".safetensors": _safetensors,
    ".parquet": _parquet,
}
