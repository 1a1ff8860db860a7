"""The published code's folder of result files, with its question file -> Pool.

One file per capability, named after it, and style.jsonl. Rows are the items of the question file
in their order; ties are broken by the order in which the files name them: that of the first file
by name, then what the next ones add.
"""

from collections.abc import Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl

from mmsieve.capabilities import CAPABILITIES
from mmsieve.cut.inputs import CHUNK, TableFile
from mmsieve.errors import RequestError, Status
from mmsieve.subset.groups import Grouping
from mmsieve.subset.items import read_items
from mmsieve.subset.numbering import Numbers, Ratings, Texts, narrowed, rank
from mmsieve.subset.options import SelectOptions
from mmsieve.subset.pool import Pool
from mmsieve.subset.rated import Origins
from mmsieve.subset.result_file import read_scores, read_texts
from mmsieve.subset.styles import label_cleaner, split_styles

STYLE = "style"


def is_result_folder(path: Path) -> bool:
    """Whether a folder holds result files, and no table."""
    return path.is_dir() and any(path.glob("*.jsonl")) and not any(path.rglob("*.parquet"))


class ResultFolder:
    """Result files and the items that they are about."""

    def __init__(self, path: Path, data: Path | None, options: SelectOptions) -> None:
        """Raise RequestError where files are missing; none is read yet."""
        if data is None:
            raise RequestError(f"{path}: holds result files: say --data FILE, what they are about")
        if options.budget_tokens is not None:
            raise RequestError(
                f"--budget-tokens: {path} has no column num_tokens; give a rating table that has "
                "it, or say --budget"
            )
        self.name = path.resolve().name
        self.path = path
        self.notes: list[str] = []
        self._data = data
        self._options = options
        self._scores = {file.stem: file for file in sorted(path.glob("*.jsonl"))}
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
        size = self._data.stat().st_size
        return (TableFile(self._data.stem, self._data, len(self._keys), size, complete=True),)

    @cached_property
    def pool(self) -> Pool:
        """The numbers of all files, in the order of the items."""
        rows, order = len(self._keys), _Order(len(self._keys))
        join = _Join(self._keys)
        ratings: dict[str, Ratings] = {}
        for name, path in self._scores.items():
            keys, scores = read_scores(path)
            at = join.rows(path, keys, self.notes)
            order.add(at[at >= 0])
            if name in self.capabilities:
                self._note(path, scores)
                ratings[name] = rank([_placed(scores, at, rows)])
        keys, texts = read_texts(self._style)
        at = join.rows(self._style, keys, self.notes)
        if texts.null_count():
            self.notes.append(
                f"{self._style}: {texts.null_count()} responses aren't text: no style"
            )
        grouping = self._grouped(_placed(texts, at, rows))
        return Pool(
            ratings={name: ratings[name] for name in self.capabilities},
            groups=grouping.finish(),
            sources=self._sources,
            source_names=self._source_names.names,
            statuses=np.zeros(rows, np.uint8),
            status_names=[Status.OK],
            order=order.finish(),
        )

    def named(self) -> Iterator[tuple[Origins, pl.DataFrame]]:
        """`key` and `shard` of all items in order, some at a time."""
        (file,) = self.files
        for start in range(0, len(self._keys), CHUNK):
            keys = self._keys.slice(start, CHUNK).cast(pl.String).alias("key")
            yield (
                [(file, len(keys))],
                keys.to_frame().with_columns(pl.lit(file.shard).alias("shard")),
            )

    @cached_property
    def _items(self) -> tuple[pl.Series, Numbers, Texts]:
        names = Texts()
        keys, sources = [pl.Series("key", [], pl.String)], [np.zeros(0, np.int32)]
        without = 0
        items = read_items(self._data)
        while part := list(islice(items, CHUNK)):
            keys.append(pl.Series("key", [key for key, _ in part], pl.String))
            without += sum(source is None for _, source in part)
            sources.append(names.number(pl.Series([source for _, source in part], dtype=pl.String)))
        if without:
            self.notes.append(f"{self._data}: {without} items have no image source")
        joined = pl.concat(keys)
        if joined.n_unique() < len(joined):
            twice = joined.filter(joined.is_duplicated())[0]
            raise RequestError(f"--data {self._data}: the key {twice!r} comes twice")
        numbers = joined.cast(pl.Int64, strict=False)
        if not numbers.has_nulls() and numbers.cast(pl.String).equals(joined):
            joined = numbers
        return joined, narrowed(np.concatenate(sources), len(names.names)), names

    @property
    def _keys(self) -> pl.Series:
        return self._items[0]

    @property
    def _sources(self) -> Numbers:
        return self._items[1]

    @property
    def _source_names(self) -> Texts:
        return self._items[2]

    def _grouped(self, texts: pl.Series) -> Grouping:
        """The groups of rows with these texts of styles."""
        spelling = self._options.styles
        grouping = Grouping(Texts(label_cleaner(spelling)), self._source_names)
        distinct = Texts()
        numbers = distinct.number(texts)
        labels = [
            [grouping.styles.one(label) for label in split_styles(text, spelling)]
            for text in distinct.names
        ]
        sizes = np.array([len(each) for each in labels], np.int64)
        starts = np.cumsum(sizes) - sizes
        flat = np.array([label for each in labels for label in each], np.int32)
        counts = np.where(texts.is_null().to_numpy(), 0, sizes[numbers])
        for start in range(0, len(texts), CHUNK):
            part = slice(start, start + CHUNK)
            own = counts[part]
            at = np.repeat(starts[numbers[part]] - (np.cumsum(own) - own), own)
            grouping.add(own, flat[at + np.arange(len(at))], self._sources[part])
        return grouping

    def _note(self, path: Path, scores: pl.Series) -> None:
        """Say which scores can't be read, and which are outside of the scale."""
        if scores.null_count():
            self.notes.append(f"{path}: {scores.null_count()} scores can't be read: no rating")
        outside = int((~scores.is_between(0, 5)).sum())
        if outside:
            self.notes.append(f"{path}: {outside} scores are outside of 0-5: used as they are")


class _Join:
    """Finds the rows of keys; files that name the same keys in the same order cost nothing."""

    def __init__(self, keys: pl.Series) -> None:
        self._rows = pl.DataFrame({"key": keys, "row": np.arange(len(keys), dtype=np.int32)})
        self._last: tuple[pl.Series, Numbers] | None = None

    def rows(self, path: Path, keys: pl.Series, notes: list[str]) -> Numbers:
        """The row of each key, -1 where the pool has none; raises RequestError for a repeat."""
        kind = self._rows["key"].dtype
        if keys.dtype != kind:  # "5" and 5 are the same key
            keys = keys.cast(kind, strict=False) if keys.dtype == pl.Int64 else keys
            if keys.dtype != kind:
                self._rows = self._rows.cast({"key": pl.String})
        if self._last is None or not keys.equals(self._last[0]):
            if keys.n_unique() < len(keys):
                twice = keys.filter(keys.is_duplicated())[0]
                raise RequestError(f"{path}: idx {twice} comes twice: keep one of the lines")
            found = keys.to_frame("key").join(
                self._rows, on="key", how="left", maintain_order="left"
            )
            self._last = keys, found["row"].fill_null(-1).to_numpy()
        rows = self._last[1]
        unknown = int((rows < 0).sum())
        if unknown:
            notes.append(f"{path}: {unknown} of its lines are about no item of --data: left out")
        return rows


class _Order:
    """Rows in the order in which files name them first."""

    def __init__(self, rows: int) -> None:
        self._seen = np.zeros(rows, bool)
        self._parts: list[Numbers] = []

    def add(self, rows: Numbers) -> None:
        """Take in the rows of the next file."""
        new = rows[~self._seen[rows]]
        self._seen[new] = True
        self._parts.append(new)

    def finish(self) -> Numbers | None:
        """All rows, those that no file names last; None where that is their own order."""
        order = np.concatenate([*self._parts, np.flatnonzero(~self._seen)]).astype(np.int32)
        return None if (np.diff(order) == 1).all() else order


def _placed(values: pl.Series, at: Numbers, rows: int) -> pl.Series:
    """The values at their rows, null elsewhere."""
    inside = at >= 0
    if len(at) == rows and (at == np.arange(rows)).all():
        return values
    source = np.full(rows, -1, np.int64)
    source[at[inside]] = np.flatnonzero(inside)
    taken = pl.Series(source)
    return values.gather(taken.set(taken < 0, None))
