"""What the explorer shows of tables about the same samples: counts at every edge, and a sample.

Two passes over the rows: the first finds each column's edges and each facet's labels, the second
counts. A *cell* is a combination of labels that occurs; of each column it is counted how many of a
cell's rows lie between two edges, so that any cut of one column with any choice of labels is exact.
Anything else is estimated by the page from the stratified sample.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from mmsieve.decisions import KIND as DECISIONS
from mmsieve.errors import Status
from mmsieve.filtering.decide import JoinedRows
from mmsieve.filtering.request import Column, JoinedTables
from mmsieve.reporting.explorer.edges import Edges, choose_edges
from mmsieve.reporting.explorer.facets import Facet, find_facets, written
from mmsieve.reporting.explorer.stratified import StratifiedSample
from mmsieve.reporting.inputs import ReportTable
from mmsieve.reporting.sections import GallerySample
from mmsieve.tables import COMMON, find_score, open_tables

MOST_CELLS = 4096
_MOST_COLUMNS = 24
_SAMPLED = 400_000
"""Rows whose values the edges are chosen from."""
_BANDS = 10
"""Strata of a source: by the first column's value, each with about as many rows."""
_OF_A_FAILURE = 8
"""Samples of each status other than ok."""
_NOT_NUMBERS = {*COMMON.names, "quality_level", "keep"}


@dataclass(frozen=True)
class NumberColumn:
    """A column to cut by."""

    column: Column
    name: str
    """As an SQL condition of `filter` names it."""
    by: str
    """As `filter --by` names it."""
    edges: Edges


@dataclass
class Histogram:
    """Rows of a column between its edges, by cell."""

    width: int
    counts: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros((0, self.width), np.int64)

    def add(self, cells: npt.NDArray[np.int64], places: npt.NDArray[np.int64], most: int) -> None:
        """Add rows of these cells, of which there are `most`, at these edges."""
        if most > len(self.counts):
            more = np.zeros((most - len(self.counts), self.width), np.int64)
            self.counts = np.concatenate([self.counts, more])
        flat = np.bincount(cells * self.width + places, minlength=self.counts.size)
        self.counts += flat.reshape(self.counts.shape)


@dataclass(frozen=True)
class Explorer:
    """The numbers of an explorer, and the samples that it shows."""

    tables: tuple[ReportTable, ...]
    joined: JoinedTables
    columns: list[NumberColumn]
    facets: list[Facet]
    cells: list[tuple[int, ...]]
    """Of each cell the number of its label of each facet."""
    cell_rows: list[int]
    """Of each cell its rows that are ok in all tables."""
    histograms: list[Histogram]
    """Of each column."""
    failed: dict[str, list[int]]
    """Status -> rows of each source that are not ok."""
    sample: pl.DataFrame
    strata: list[tuple[int, int]]
    """Rows of each stratum, and of the sample those that are of it."""
    decided: tuple[int, ...]
    """Numbers of the tables that hold decisions."""

    def cuts(self) -> dict[int, list[tuple[str, int]]]:
        """Column -> who cut it, and at which edge, for each of the decisions that did."""
        made: dict[int, list[tuple[str, int]]] = {}
        for number, one in enumerate(self.columns):
            edges = one.edges.values
            for name, least in cuts_of(self.tables, self.joined.label(one.column)):
                edge = int(np.searchsorted(edges, np.array(least).astype(edges.dtype)))
                made.setdefault(number, []).append((name, min(edge, len(edges) - 1)))
        return made

    @property
    def rows(self) -> int:
        """All rows."""
        return sum(self.cell_rows) + sum(map(sum, self.failed.values()))

    def samples(self) -> list[GallerySample]:
        """The sample's rows by place, to be read from their shards."""
        rows = self.sample.select("key", "shard", "place", "error").iter_rows(named=True)
        return [GallerySample(**row) for row in rows]


def cuts_of(tables: Iterable[ReportTable], label: str) -> list[tuple[str, float]]:
    """Name of the decisions, and the lowest value that they kept, of those that cut a column."""
    found = []
    for table in tables:
        header = table.headers[0]
        if table.kind == DECISIONS and header.fingerprint.get("by") == label:
            least = header.notes.get("lowest", header.fingerprint.get("min_score"))
            found += [] if least is None else [(table.name, float(least))]
    return found


def find_explorers(tables: Sequence[ReportTable], cards: int) -> tuple[list[Explorer], list[str]]:
    """An explorer of each set of tables about the same shards; and notes on what is in none.

    `cards`: samples of each. Raises RequestError for tables that can't be read.
    """
    groups: list[list[ReportTable]] = []
    for one in tables:
        if one.kind == DECISIONS:
            continue
        having = (group for group in groups if _go_together(group[0], one))
        if group := next(having, None):
            group.append(one)
        else:
            groups.append([one])
    notes = []
    for one in tables:
        if one.kind == DECISIONS:
            about = [group for group in groups if _go_together(group[0], one)]
            for group in about:
                group.append(one)
            if not about:
                notes.append(f"{one.name}: decisions of other shards than a table's: not explored")
    made = [explore(group, cards) for group in groups]
    return [one for one in made if one is not None], notes


def _go_together(first: ReportTable, other: ReportTable) -> bool:
    """Whether the other table has a file for each of the first's, about the same samples."""
    if other.path.is_file() != first.path.is_file():
        return False
    return first.sources.keys() == other.sources.keys() and first.shares_shards(other)


def explore(tables: Sequence[ReportTable], cards: int, by: str | None = None) -> Explorer | None:
    """The explorer of tables that go together; None where they hold no number to cut by.

    `by` names a column to look at alone, without facets; raises RequestError where there is none.
    """
    joined = JoinedTables(open_tables([one.path for one in tables]), None)
    decided = [number for number, one in enumerate(tables) if one.kind == DECISIONS]
    facets = find_facets(joined, decided) if by is None else []
    chosen = _number_columns(joined, decided) if by is None else [joined.find(by)]
    wanted = _Wanted(joined, facets, chosen, tables)
    columns = _first_pass(wanted)
    if not columns:
        return None
    kept = _within_limit(facets)
    counting = _Counting(joined, kept, columns, cards)
    for frame in wanted.frames():
        counting.add(frame)
    return counting.explorer(tuple(tables), tuple(decided))


def _number_columns(joined: JoinedTables, decided: Sequence[int]) -> list[Column]:
    """The columns of numbers, the score of the first table first."""
    found = []
    for number, table in enumerate(joined.tables):
        if number in decided:
            continue
        numeric = [
            name
            for name, kind in table.types.items()
            if (pa.types.is_integer(kind) or pa.types.is_floating(kind))
            and name not in _NOT_NUMBERS
            and name not in table.mixed
        ]
        score = find_score({name: table.types[name] for name in numeric})
        floats = [name for name in numeric if pa.types.is_floating(table.types[name])]
        ordered = dict.fromkeys([*([score] if score else []), *floats, *numeric])
        found += [joined.column(number, name) for name in ordered]
    return found[:_MOST_COLUMNS]


@dataclass(frozen=True)
class _Wanted:
    """What is read of the tables."""

    joined: JoinedTables
    facets: list[Facet]
    numbers: list[Column]
    tables: Sequence[ReportTable]

    def cuts(self, column: Column) -> list[tuple[str, float]]:
        """Who cut a column, and where."""
        return cuts_of(self.tables, self.joined.label(column))

    def frames(self) -> Iterator[pl.DataFrame]:
        """All rows, some at a time, with `status`: the first that is not ok, or ok."""
        named = _names(self.joined).values()
        statuses = self.joined.statuses()
        others = [column for facet in self.facets for column in facet.columns]
        failed = [
            pl.when(pl.col(column.inner) != Status.OK.value).then(pl.col(column.inner))
            for column in statuses
        ]
        status = pl.coalesce(*failed, pl.lit(Status.OK.value)).alias("status")
        for frame in JoinedRows(self.joined, {*named, *statuses, *others, *self.numbers}):
            yield frame.with_columns(status)


def _names(joined: JoinedTables) -> dict[str, Column]:
    """The columns that say which sample a row is; a table of before has no place."""
    names = ("key", "shard", "error", "place")
    return {name: joined.column(0, name) for name in names if name in joined.tables[0].types}


def _first_pass(wanted: _Wanted) -> list[NumberColumn]:
    """Find the edges of all columns that hold a number, and the labels of all facets."""
    step = max(1, wanted.joined.tables[0].rows // _SAMPLED)
    sampled: dict[Column, list[pl.Series]] = {column: [] for column in wanted.numbers}
    ends: dict[Column, list[Any]] = {column: [] for column in wanted.numbers}
    labels: list[Counter[str | None]] = [Counter() for _ in wanted.facets]
    start = 0
    for frame in wanted.frames():
        ok = frame.filter(pl.col("status") == Status.OK.value)
        for column in wanted.numbers:
            values = _finite(ok[column.inner])
            if len(values):
                ends[column] += [values.min(), values.max()]
                sampled[column].append(values.gather_every(step, -start % step))
        for facet, counted in zip(wanted.facets, labels, strict=True):
            found = facet.label(ok).cast(pl.String).alias("label")
            counted.update(dict(found.value_counts(name="rows").iter_rows()))
        start += frame.height
    for facet, counted in zip(wanted.facets, labels, strict=True):
        facet.settle(counted)
    return [
        NumberColumn(
            column,
            written(wanted.joined, column),
            written(wanted.joined, column, quote=False),
            _edges(parts, ends[column], [least for _, least in wanted.cuts(column)]),
        )
        for column, parts in sampled.items()
        if ends[column]
    ]


def _edges(parts: Iterable[pl.Series], ends: Sequence[Any], cuts: Sequence[float]) -> Edges:
    values = pl.concat(parts).to_numpy()
    low, high = np.array([min(ends), max(ends)], values.dtype)
    return choose_edges(values if len(values) else np.array([low]), low, high, cuts)


def _finite(values: pl.Series) -> pl.Series:
    return values.filter(values.is_finite()) if values.dtype.is_float() else values.drop_nulls()


def _within_limit(facets: Sequence[Facet]) -> list[Facet]:
    """The facets that say more than one thing, as many as have few combinations."""
    kept, combinations = [], 1
    for facet in facets:
        if len(facet.values) > 1 and combinations * len(facet.values) <= MOST_CELLS:
            kept.append(facet)
            combinations *= len(facet.values)
    return kept


class _Counting:
    """The second pass."""

    def __init__(
        self, joined: JoinedTables, facets: list[Facet], columns: list[NumberColumn], cards: int
    ) -> None:
        self._joined, self._facets, self._columns = joined, facets, columns
        self._histograms = [Histogram(len(column.edges.values)) for column in columns]
        self._sizes = [len(facet.values) for facet in facets]
        self._numbers = np.full(int(np.prod(self._sizes, dtype=np.int64)), -1, np.int64)
        self._cells: list[tuple[int, ...]] = []
        self._cell_rows = np.zeros(0, np.int64)
        self._failed: dict[str, Counter[int]] = {}
        edges = columns[0].edges.values
        self._bands = band_of_edges(edges)
        self._sources = self._sizes[0] if facets and facets[0].name == "source" else 1
        self._sample = StratifiedSample(cards, self._sources * (_BANDS + 1))
        self._failures = StratifiedSample(_OF_A_FAILURE * len(Status), len(Status))
        self._statuses = {status.value: number for number, status in enumerate(Status)}

    def add(self, frame: pl.DataFrame) -> None:
        """Count rows."""
        is_ok = frame["status"] == Status.OK.value
        ok, failed = frame.filter(is_ok), frame.filter(~is_ok)
        if failed.height:
            self._add_failed(failed)
        if not ok.height:
            return
        codes = [facet.codes(ok).to_numpy() for facet in self._facets]
        cells = self._cells_of(codes, ok.height)
        self._cell_rows = _grown(self._cell_rows, len(self._cells))
        self._cell_rows += np.bincount(cells, minlength=len(self._cells))
        places = [self._places(column, ok) for column in self._columns]
        for found, histogram in zip(places, self._histograms, strict=True):
            has = found >= 0
            histogram.add(cells[has], found[has], len(self._cells))
        bands = np.where(places[0] < 0, _BANDS, self._bands[places[0]])
        source = codes[0] if self._sources > 1 else 0
        self._sample.add(self._named(ok, cells, source * (_BANDS + 1) + bands, places))

    @staticmethod
    def _places(column: NumberColumn, ok: pl.DataFrame) -> npt.NDArray[np.int64]:
        """The highest edge that each row reaches; -1 where it has no number."""
        values, has = _numbers(ok[column.column.inner])
        places = np.full(ok.height, -1, np.int64)
        places[has] = np.searchsorted(column.edges.values, values[has], side="right") - 1
        return places

    def _cells_of(self, codes: list[npt.NDArray[np.int64]], rows: int) -> npt.NDArray[np.int64]:
        """The number of each row's cell; new cells get the next numbers."""
        if not codes:
            self._cells = [()]
            return np.zeros(rows, np.int64)
        flat = np.ravel_multi_index(tuple(codes), self._sizes)
        for one in np.unique(flat):
            if self._numbers[one] < 0:
                self._numbers[one] = len(self._cells)
                labels = np.unravel_index(one, self._sizes)
                self._cells.append(tuple(int(label) for label in labels))
        return self._numbers[flat]

    def _add_failed(self, failed: pl.DataFrame) -> None:
        sources = np.zeros(failed.height, np.int64)
        if self._sources > 1:
            sources = self._facets[0].codes(failed).to_numpy()
        counted = failed.select("status", source=pl.Series(sources)).group_by("status", "source")
        for status, source, rows in counted.len().iter_rows():
            self._failed.setdefault(status, Counter())[source] += rows
        last = self._statuses[Status.OK.value]  # for one that this version does not know
        numbers = failed["status"].replace_strict(
            self._statuses, default=last, return_dtype=pl.Int64
        )
        none = np.full(failed.height, -1, np.int64)
        places = [none] * len(self._columns)
        self._failures.add(self._named(failed, none, numbers.to_numpy(), places))

    def _named(
        self,
        frame: pl.DataFrame,
        cells: npt.NDArray[np.int64],
        strata: npt.NDArray[np.int64],
        places: Sequence[npt.NDArray[np.int64]],
    ) -> pl.DataFrame:
        """What the sample keeps of rows."""
        names = _names(self._joined)
        values = [
            pl.col(column.column.inner).cast(pl.Float64).alias(f"value{number}")
            for number, column in enumerate(self._columns)
        ]
        return frame.select(
            *(pl.col(column.inner).alias(name) for name, column in names.items()),
            *(pl.lit(None, pl.Int64).alias("place") for _ in range("place" not in names)),
            "status",
            pl.Series("cell", cells),
            pl.Series("stratum", strata),
            *values,
            *(pl.Series(f"place{number}", found) for number, found in enumerate(places)),
        )

    def explorer(self, tables: tuple[ReportTable, ...], decided: tuple[int, ...]) -> Explorer:
        """What was counted."""
        taken = []
        if self._cell_rows.sum():
            taken.append(self._sample.take())
        if self._failed:
            taken.append(self._failures.take().with_columns(stratum=pl.lit(-1, pl.Int64)))
        sample = pl.concat(taken)
        counts = Counter(sample["stratum"].to_list())
        for histogram in self._histograms:
            histogram.add(np.zeros(0, np.int64), np.zeros(0, np.int64), len(self._cells))
        return Explorer(
            tables=tables,
            joined=self._joined,
            columns=self._columns,
            facets=self._facets,
            cells=self._cells,
            cell_rows=self._cell_rows.tolist(),
            histograms=self._histograms,
            failed={
                status: [counted[source] for source in range(self._sources)]
                for status, counted in sorted(self._failed.items())
            },
            sample=sample,
            strata=[(int(n), counts[number]) for number, n in enumerate(self._sample.sizes)],
            decided=decided,
        )


def _grown(counts: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    return np.concatenate([counts, np.zeros(size - len(counts), np.int64)])


def _numbers(values: pl.Series) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_]]:
    """Values, and which of them are numbers."""
    if values.dtype.is_float():
        found = values.fill_null(float("nan")).to_numpy()
        return found, np.isfinite(found)
    return values.fill_null(0).to_numpy(), values.is_not_null().to_numpy()


def band_of_edges(edges: npt.NDArray[np.generic]) -> npt.NDArray[np.int64]:
    """Edge -> band: edges lie at quantiles, so that so many edges have about as many rows."""
    return np.arange(len(edges)) * _BANDS // len(edges)
