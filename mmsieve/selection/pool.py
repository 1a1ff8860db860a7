"""Rated samples as columns of small numbers (ranks, codes): all that a selection chooses by."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from mmsieve.errors import RequestError, Status
from mmsieve.filtering.ids import RowIds
from mmsieve.labels import CAPABILITIES
from mmsieve.selection.groups import (
    Bools,
    Grouping,
    Numbers,
    RankedRatings,
    StyleGroups,
    TextCodes,
    by_source_alone,
    label_cleaner,
    narrowed,
    rank,
)
from mmsieve.selection.options import SelectOptions
from mmsieve.tables import Origins, Table, TableFile, column_names, notes_of_unfinished


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Rated samples, row by row; nothing in it depends on how they are split into files."""

    ratings: dict[str, RankedRatings]
    """Capability -> its ratings, in the order in which capabilities choose."""
    groups: StyleGroups
    sources: Numbers
    """The code of each row's image source."""
    source_names: list[str]
    statuses: Numbers
    """The code of each row's status: 0 is ok."""
    status_names: list[str]
    order: Numbers | None = None
    """The order of rows that breaks ties, where it isn't their own."""
    tokens: npt.NDArray[np.int64] | None = None
    """Text and image tokens of each row, 0 where that isn't known."""

    @property
    def rows(self) -> int:
        """All rows."""
        return len(self.statuses)

    @cached_property
    def is_ok(self) -> Bools:
        """Whether each row is ok, so that it can be chosen."""
        return np.equal(self.statuses, 0)

    def means(self, start: int = 0, stop: int | None = None) -> npt.NDArray[np.float64]:
        """The mean of each row's ratings, NaN where it has none."""
        count = len(self.statuses[start:stop])
        total, rated = np.zeros(count), np.zeros(count, np.int32)
        for ratings in self.ratings.values():
            ranks = ratings.ranks[start:stop]
            total += ratings.values[ranks]
            rated += ranks > 0
        with np.errstate(invalid="ignore"):
            return total / rated

    def is_above(self, above: float, start: int = 0, stop: int | None = None) -> Bools:
        """Whether any of each row's ratings is above the number."""
        found = np.zeros(len(self.statuses[start:stop]), bool)
        for ratings in self.ratings.values():
            found |= ratings.ranks[start:stop] > ratings.rank_of(above)
        return found


class RatedSamples(Protocol):
    """Rated samples: the numbers to choose by, and the names of the chosen."""

    name: str
    """What the decisions' headers call it."""
    notes: list[str]
    capabilities: list[str]

    @property
    def files(self) -> Sequence[TableFile]:
        """The files that the rows are from; decisions are split like them."""

    @property
    def pool(self) -> Pool:
        """The numbers to choose by."""

    def named(self) -> Iterator[tuple[Origins, pl.DataFrame]]:
        """`key`, `shard` and `place` of all rows in order, some at a time, and their files."""


# A rating table: Parquet files of `rate`, or anyone's with the same columns

STYLES, SOURCE, TOKENS, STATUS = "styles", "image_source", "num_tokens", "status"
NO_STYLES = "no row has a style: groups are image sources alone (rate with --styler for both)"


class RatingTable:
    """The rows of a rating table; the request is checked when this is made, rows are read later."""

    def __init__(self, table: Table, options: SelectOptions) -> None:
        self.name = table.name
        self.files = table.files
        self.notes = notes_of_unfinished([table])
        self._table = table
        self._options = options
        self._ids = RowIds(table, needs_uid=False)
        self.capabilities = options.names() or [n for n in CAPABILITIES if n in table.types]
        if not self.capabilities:
            raise RequestError(
                f"{table.path}: has no column of a capability ({', '.join(CAPABILITIES)}); name "
                f"yours with --capabilities; {column_names([table])}"
            )
        if not options.names() and {"quality_score", "recaption"} & table.types.keys():
            raise RequestError(
                f"{table.path}: is no table of ratings: `rate` makes one; of scores `filter` keeps "
                "the best"
            )
        for name in self.capabilities:
            kind = self._type(name)
            if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
                fix = "ratings are integers or floating-point numbers"
                raise RequestError(f"--capabilities {name}: holds {kind}, {fix}")
        lacks = [name for name in (STYLES, SOURCE) if name not in (*table.types, *table.mixed)]
        self._lacks = frozenset(lacks)
        self.notes += [f"{table.path}: has no column {name}: no row has any" for name in lacks]
        if STYLES not in lacks:
            self._check_styles(table)
        if SOURCE not in lacks and not _is_text(self._type(SOURCE)):
            raise RequestError(f"{table.path}: column {SOURCE} holds {table.types[SOURCE]}")
        self._check_tokens(table)

    def _check_styles(self, table: Table) -> None:
        styles = self._type(STYLES)
        is_list = pa.types.is_list(styles) or pa.types.is_large_list(styles)
        if not is_list or not _is_text(styles.value_type):
            raise RequestError(f"{table.path}: column {STYLES} holds {styles}, not lists of text")

    def _check_tokens(self, table: Table) -> None:
        if self._options.budget_tokens is None:
            return
        if TOKENS not in table.types:
            raise RequestError(
                f"--budget-tokens: {table.path} has no column {TOKENS} (int: text and image tokens "
                "of each sample); add it to the table, or say --budget"
            )
        if not pa.types.is_integer(self._type(TOKENS)):
            raise RequestError(f"{table.path}: column {TOKENS} must hold integers")

    @cached_property
    def pool(self) -> Pool:
        """The columns as numbers, in one pass over the table."""
        grouping = Grouping(TextCodes(label_cleaner(self._options.styles)), TextCodes())
        statuses = TextCodes()
        statuses.one(Status.OK)
        parts: dict[str, list[pl.Series]] = {name: [] for name in self.capabilities}
        status_parts, source_parts, token_parts = [], [], []
        lacks, has_statuses = self._lacks, STATUS in self._table.types
        needs_tokens = self._options.budget_tokens is not None
        columns = [*self.capabilities, *(name for name in (STYLES, SOURCE) if name not in lacks)]
        columns += [STATUS] * has_statuses + [TOKENS] * needs_tokens
        empty = {SOURCE: pl.lit(None, pl.String), STYLES: pl.lit(None, pl.List(pl.String))}
        added = {name: empty[name] for name in lacks}
        for _, found in self._table.batches(list(dict.fromkeys(columns))):
            frame = found.with_columns(**added)
            given = frame[STATUS] if has_statuses else pl.repeat(None, frame.height, eager=True)
            status_parts.append(statuses.encode(given.cast(pl.String).fill_null(Status.OK.value)))
            source_parts.append(grouping.sources.encode(frame[SOURCE]))
            counts = frame[STYLES].list.len().fill_null(0).cast(pl.Int64).to_numpy()
            flat = frame[STYLES].explode(empty_as_null=False, keep_nulls=False).cast(pl.String)
            styles = grouping.styles.encode(flat)
            styles[flat.is_null().to_numpy()] = -1
            grouping.add(counts, styles, source_parts[-1])
            for name, part in parts.items():
                part.append(frame[name])
            if needs_tokens:
                token_parts.append(frame[TOKENS].cast(pl.Int64).fill_null(0).to_numpy())
        if not grouping.styles.names:
            self.notes += [NO_STYLES] if self._options.strategy == "mmssr" else []
            grouping = by_source_alone(grouping.sources, source_parts)
        return Pool(
            ratings={name: rank(parts.pop(name)) for name in self.capabilities},
            groups=grouping.finish(),
            sources=narrowed(np.concatenate(source_parts), len(grouping.sources.names)),
            source_names=grouping.sources.names,
            statuses=narrowed(np.concatenate(status_parts), len(statuses.names)),
            status_names=statuses.names,
            tokens=np.concatenate(token_parts) if token_parts else None,
        )

    def named(self) -> Iterator[tuple[Origins, pl.DataFrame]]:
        """`key`, `shard` and `place` of all rows in order, some at a time, and their files."""
        for origins, frame in self._table.batches(self._ids.columns):
            yield origins, self._ids.of(origins, frame)

    def _type(self, column: str) -> pa.DataType:
        """The type of a column; raises RequestError where the table lacks it."""
        table = self._table
        if column in table.mixed:
            raise RequestError(
                f"column {column} of {self.name} can't be used: {table.mixed[column]}"
            )
        if column not in table.types:
            raise RequestError(f"{table.path}: has no column {column}; {column_names([table])}")
        return table.types[column]


def _is_text(kind: pa.DataType) -> bool:
    while pa.types.is_dictionary(kind):
        kind = kind.value_type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_text(kind) for is_text in (*texts, pa.types.is_null))
