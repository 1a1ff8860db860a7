"""The published code's result files as a pool, and instruction files in and out.

A folder has one result file per capability, named after it or after the keyword that the model was
asked about, and style.jsonl. Rows are the items of
the question file in their order; ties are broken by the order in which the result files name them:
that of the first file by name, then what the next ones add.

Files of any size are read through a window of a few megabytes. Lines whose response is a text, as
nearly all are, are read by polars; blocks that hold any other line are read one line at a time, so
that a number in JSON is told from a number in a text.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from pydantic_core import from_json

from mmsieve.errors import RequestError, SampleError, ShardError, Status
from mmsieve.identity import TableSource, identify
from mmsieve.labels import CAPABILITIES, capability_name
from mmsieve.read.instructions import image_source, item_key
from mmsieve.read.json_items import read_file
from mmsieve.selection.groups import (
    Grouping,
    Numbers,
    RankedRatings,
    TextCodes,
    label_cleaner,
    narrowed,
    rank,
    split_styles,
)
from mmsieve.selection.options import SelectOptions
from mmsieve.selection.pool import Pool
from mmsieve.tables import CHUNK, Origins, TableFile
from mmsieve.wording import counted

# The items of an instruction file (JSON list or JSONL)


def read_items(data: Path) -> Iterator[tuple[int, str, str | None, SampleError | None]]:
    """Place, key and image source of each item in order, or why it can't be read; RequestError."""
    for number, _, item in _items_of(data):
        problem = item if isinstance(item, SampleError) else None
        known: dict[str, Any] = {} if isinstance(item, SampleError) else item
        yield number, item_key(known, data.stem, number), image_source(known), problem


def _items_of(data: Path) -> Iterator[tuple[int, bytes, dict[str, Any] | SampleError]]:
    """Each item's number in the file, as keys count them, its bytes and what they hold."""
    try:
        yield from read_file(data)
    except ShardError as error:
        raise RequestError(f"--data {data}: {error}") from error


# A result file of the published code: JSON lines of `idx` and `pred_response`

KEY, RESPONSE = "idx", "pred_response"
_BLOCK = 1 << 24
_TEXT = f'"{RESPONSE}": "'.encode()
_MOST = 1 << 63


def read_scores(path: Path) -> tuple[pl.Series, pl.Series]:
    """Keys (Int64 or String) and scores: as published, what `int` makes of a response, or null."""
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
        frame = None
        if block.count(_TEXT) == lines:  # else some aren't an integer and a text
            with suppress(pl.exceptions.ComputeError):
                frame = pl.read_ndjson(block, schema={KEY: pl.Int64, RESPONSE: pl.String})
        if frame is not None and frame.height == lines and not frame[KEY].has_nulls():
            values.append(_converted(frame[RESPONSE], convert, dtype))
            keys.append(frame[KEY])
        else:
            own = list(_parsed_result_file(path, line, block))
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


def _converted(texts: pl.Series, convert: Any, dtype: pl.DataType) -> pl.Series:
    """What each text is converted to, every distinct text once."""
    if dtype == pl.String:
        return texts
    array = texts.to_arrow(compat_level=pl.CompatLevel.oldest()).dictionary_encode()
    known = pl.Series([convert(text) for text in array.dictionary.to_pylist()], dtype=dtype)
    return known.gather(pl.Series(array.indices)).alias(texts.name)


def _parsed_result_file(path: Path, first: int, block: bytes) -> Iterator[tuple[int | str, Any]]:
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


def _keys(keys: list[int | str]) -> pl.Series:
    if all(isinstance(key, int) and -_MOST <= key < _MOST for key in keys):
        return pl.Series(KEY, keys, pl.Int64)
    return pl.Series(KEY, [str(key) for key in keys], pl.String)


def _score(value: Any) -> int | None:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if -_MOST <= number < _MOST else None


# A folder of result files, with its question file

STYLE = "style"


def is_result_folder(path: Path) -> bool:
    """Whether a folder holds result files, and no table."""
    return path.is_dir() and any(path.glob("*.jsonl")) and not any(path.rglob("*.parquet"))


def _by_capability(path: Path, asked: Sequence[str]) -> dict[str, Path]:
    """Name -> result file, in the order of the files' names; raises RequestError for two of a name.

    A file that is named by its keyword has the short name, unless its own is asked for.
    """
    found: dict[str, Path] = {}
    for file in sorted(path.glob("*.jsonl")):
        name = file.stem if file.stem in asked else capability_name(file.stem)
        if name in found:
            raise RequestError(f"{path}: {found[name].name} and {file.name} are both {name}'s")
        found[name] = file
    return found


class _Items(NamedTuple):
    """Places, keys (Int64 or String) and image sources of the question file's items."""

    places: pl.Series
    keys: pl.Series
    sources: Numbers
    source_codes: TextCodes


class ResultFolder:
    """Result files and the items that they are about."""

    def __init__(self, path: Path, data: Sequence[Path], options: SelectOptions) -> None:
        """Raise RequestError where files are missing; none is read yet."""
        if len(data) != 1 or data[0].suffix == ".parquet":
            raise RequestError(
                f"{path}: holds result files: say --data FILE, the JSON or JSONL that they are "
                "about"
            )
        if options.budget_tokens is not None:
            fix = "give a rating table that has it, or say --budget"
            raise RequestError(f"--budget-tokens: {path} has no column num_tokens; {fix}")
        self.name = path.resolve().name
        self.notes: list[str] = []
        self._data = data[0]
        self._options = options
        self._scores = _by_capability(path, options.names() or ())
        style = self._scores.pop(STYLE, None)
        if style is None:
            raise RequestError(f"{path}: has no {STYLE}.jsonl; add the styler's results")
        self._style = style
        self.capabilities = options.names() or [n for n in CAPABILITIES if n in self._scores]
        missing = [name for name in self.capabilities if name not in self._scores]
        if missing or not self.capabilities:
            raise RequestError(
                f"{path}: no {missing[0] if missing else 'capability'}.jsonl; there are "
                f"{', '.join(self._scores) or 'none'}: name some of them with --capabilities"
            )

    @cached_property
    def files(self) -> tuple[TableFile, ...]:
        """The question file as the one shard that there is."""
        rows, identity = len(self._items.keys), identify(str(self._data.absolute()))
        source = TableSource(self._data.stem, 0, identity.size, identity)
        whole = source.name, self._data, rows, source.size
        return (TableFile(*whole, complete=True, source=source, kind="ratings"),)

    @cached_property
    def pool(self) -> Pool:
        """The ratings of all files, in the order of the items."""
        items, join = self._items, _KeyJoin(self._items.keys)
        rows = len(items.keys)
        seen, order = np.zeros(rows, bool), []
        ratings: dict[str, RankedRatings] = {}
        for name, path in self._scores.items():
            keys, scores = read_scores(path)
            at = join.rows(path, keys, self.notes)
            named = at[at >= 0]
            order.append(named[~seen[named]])
            seen[named] = True
            if name in self.capabilities:
                self._note(path, scores)
                ratings[name] = rank([_placed(scores, at, rows)])
        keys, texts = read_texts(self._style)
        at = join.rows(self._style, keys, self.notes)
        if texts.null_count():
            count = texts.null_count()
            self.notes.append(f"{self._style}: no style in {counted(count, 'responses')}: no text")
        grouping = self._grouped(_placed(texts, at, rows))
        ties = np.concatenate([*order, np.flatnonzero(~seen)]).astype(np.int32)
        return Pool(
            ratings={name: ratings[name] for name in self.capabilities},
            groups=grouping.finish(),
            sources=items.sources,
            source_names=items.source_codes.names,
            statuses=np.zeros(rows, np.uint8),
            status_names=[Status.OK],
            order=None if (np.diff(ties) == 1).all() else ties,
        )

    def named(self) -> Iterator[tuple[Origins, pl.DataFrame]]:
        """`key`, `shard` and `place` of all items in order, some at a time."""
        (file,) = self.files
        for start in range(0, file.rows, CHUNK):
            keys = self._items.keys.slice(start, CHUNK).cast(pl.String).alias("key")
            places = self._items.places.slice(start, CHUNK)
            named = keys.to_frame().with_columns(shard=pl.lit(file.shard), place=places)
            yield [(file, len(keys))], named

    @cached_property
    def _items(self) -> _Items:
        codes = TextCodes()
        keys, sources = [pl.Series("key", [], pl.String)], [np.zeros(0, np.int32)]
        places = [pl.Series("place", [], pl.Int64)]
        without, bad = 0, list[str]()
        items = read_items(self._data)
        while part := list(islice(items, CHUNK)):
            numbers, own, found, problems = zip(*part, strict=True)
            places.append(pl.Series("place", numbers, pl.Int64))
            keys.append(pl.Series("key", own, pl.String))
            without += found.count(None)
            sources.append(codes.encode(pl.Series(found, dtype=pl.String)))
            named = zip(own, problems, strict=True)
            bad += [f"{key}: {problem}" for key, problem in named if problem is not None]
        if bad:
            self.notes.append(f"{self._data}: {counted(len(bad), 'items')} can't be read; {bad[0]}")
        if without:
            self.notes.append(f"{self._data}: {counted(without, 'items')} without an image source")
        joined = pl.concat(keys)
        if joined.n_unique() < len(joined):
            twice = joined.filter(joined.is_duplicated())[0]
            raise RequestError(f"--data {self._data}: the key {twice!r} comes twice")
        whole = joined.cast(pl.Int64, strict=False)
        if not whole.has_nulls() and whole.cast(pl.String).equals(joined):
            joined = whole
        return _Items(
            pl.concat(places), joined, narrowed(np.concatenate(sources), len(codes.names)), codes
        )

    def _grouped(self, texts: pl.Series) -> Grouping:
        spelling = self._options.styles
        grouping = Grouping(TextCodes(label_cleaner(spelling)), self._items.source_codes)
        distinct = TextCodes()
        codes = pl.Series(distinct.encode(texts)).set(texts.is_null(), None)
        split = [split_styles(text, spelling) for text in distinct.names]
        numbers = [[grouping.styles.one(label) for label in labels] for labels in split]
        labels = pl.Series(numbers, dtype=pl.List(pl.Int32))
        for start in range(0, len(texts), CHUNK):
            own = labels.gather(codes.slice(start, CHUNK))
            counts = own.list.len().fill_null(0).cast(pl.Int64).to_numpy()
            flat = own.explode(keep_nulls=False).to_numpy()
            grouping.add(counts, flat, self._items.sources[start : start + CHUNK])
        return grouping

    def _note(self, path: Path, scores: pl.Series) -> None:
        if scores.null_count():
            unread = counted(scores.null_count(), "scores")
            self.notes.append(f"{path}: {unread} can't be read: no rating")
        outside = int((~scores.is_between(0, 5)).sum())
        if outside:
            self.notes.append(f"{path}: {counted(outside, 'scores')} outside of 0-5: used as is")


class _KeyJoin:
    """Finds the rows of keys; files that name the same keys in the same order cost nothing."""

    def __init__(self, keys: pl.Series) -> None:
        self._rows = pl.DataFrame({"key": keys, "row": np.arange(len(keys), dtype=np.int32)})
        self._last: tuple[pl.Series, Numbers] | None = None

    def rows(self, path: Path, keys: pl.Series, notes: list[str]) -> Numbers:
        """The row of each key, -1 where the pool has none; raises RequestError for a repeat."""
        if keys.dtype != self._rows["key"].dtype:  # "5" and 5 are the same key
            keys = keys.cast(pl.String)
            self._rows = self._rows.cast({"key": pl.String})
        if self._last is None or not keys.equals(self._last[0]):
            if keys.n_unique() < len(keys):
                twice = keys.filter(keys.is_duplicated())[0]
                raise RequestError(f"{path}: idx {twice} comes twice: keep one of the lines")
            frame = keys.to_frame("key")
            found = frame.join(self._rows, on="key", how="left", maintain_order="left")
            self._last = keys, found["row"].fill_null(-1).to_numpy()
        rows = self._last[1]
        unknown = int((rows < 0).sum())
        if unknown:
            notes.append(f"{path}: {unknown:,} of its lines are about no item of --data: left out")
        return rows


def _placed(values: pl.Series, at: Numbers, rows: int) -> pl.Series:
    inside = at >= 0
    if len(at) == rows and (at == np.arange(rows)).all():
        return values
    source = np.full(rows, -1, np.int64)
    source[at[inside]] = np.flatnonzero(inside)
    taken = pl.Series(source)
    return values.gather(taken.set(taken < 0, None))
