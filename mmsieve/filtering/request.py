"""A filter request: its options, what they mean for the tables given, and every row's decision."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from cyclopts import Parameter

from mmsieve.decisions import DecisionRows
from mmsieve.errors import RequestError
from mmsieve.filtering.joins import Column, JoinedTables, On, RowIds
from mmsieve.filtering.ranking import (
    BLOCK,
    ColumnFile,
    Counts,
    Records,
    Thresholds,
    find_thresholds,
    from_ordered,
)
from mmsieve.filtering.rows import Condition, KeptRows, RowRules, RowStatuses, break_ties
from mmsieve.options import Finite, Options, Positive, Share
from mmsieve.progress import Advance
from mmsieve.tables import CHUNK, SCORE, Origins, Table, column_names, find_score

# Options, checked, and what they mean for the tables given


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CutOptions(Options):
    """Which samples are kept: one of the cuts, a condition, or both."""

    min_score: Finite | None = None
    """Keep samples with at least this score."""
    top_fraction: Share | None = None
    """Keep this share (0.3: 30%) of the samples with the highest scores, rounded down."""
    top_count: Positive | None = None
    """Keep so many samples with the highest scores."""
    where: str | None = None
    """Keep only samples that fulfil this SQL condition over the tables' columns; where tables
    share a column's name, write table.column. A cut is made between those that fulfil it."""
    by: str | None = None
    """Column with the score; by default quality_score, or else a table's only column of
    floating-point numbers."""
    per: str | None = None
    """Cut within each group of samples that have the same value in this column."""
    on: On | None = None
    """Join tables by this column's values; by default shard by shard, as one run's sources."""

    @property
    def is_ranked(self) -> bool:
        """Whether the highest rows are kept."""
        return self.top_fraction is not None or self.top_count is not None

    def check(self) -> None:
        """Refuse what can't be meant, from the request alone."""
        names = ("min_score", "top_fraction", "top_count")
        cuts = [f"--{n.replace('_', '-')}" for n in names if getattr(self, n) is not None]
        if len(cuts) > 1 or not (cuts or self.where is not None):
            raise RequestError(
                f"{' and '.join(cuts) or 'no cut'} given: say one of --min-score X, "
                "--top-fraction F, --top-count N, and --where EXPR with it or alone"
            )
        if self.per is not None and not self.is_ranked:
            raise RequestError("--per cuts within groups: say --top-fraction or --top-count too")

    def wanted(self, counts: Counts) -> Counts:
        """How many rows of each group are kept, where it has so many scored ones."""
        if self.top_fraction is None:
            return np.minimum(counts, self.top_count or 0)
        share = Fraction(repr(float(self.top_fraction)))  # as it was typed: 0.29 of 100 is 29
        return np.array([math.floor(share * count) for count in counts.tolist()], np.int64)


class FilterPlan:
    """A request that fits its tables; raises RequestError where it doesn't."""

    def __init__(self, options: CutOptions, tables: Sequence[Table], needs_uid: bool) -> None:
        self.options = options
        self.joined = JoinedTables(tables, options.on)
        self.first = tables[0]
        """The table whose rows are decided."""
        self.ids = RowIds(self.first, needs_uid)
        where = options.where
        self.rules = RowRules(
            statuses=self.joined.statuses(),
            condition=None if where is None else Condition(where, self.joined),
            score=_score(options, self.joined),
            min_score=options.min_score,
            ranked=options.is_ranked,
            per=None if options.per is None else _group(options.per, self.joined),
        )

    @property
    def fingerprint(self) -> dict[str, str]:
        """What was asked for: decisions of another request aren't replaced by accident."""
        asked = {name: str(v) for name, v in asdict(self.options).items() if v is not None}
        score = self.rules.score
        by = {} if score is None else {"by": self.joined.label(score)}
        return asked | by | {"tables": ", ".join(table.name for table in self.joined.tables)}


def _score(options: CutOptions, joined: JoinedTables) -> Column | None:
    """The column of the score; None where a condition alone decides and there is none."""
    if options.by is not None:
        column = joined.find(options.by)
    else:
        having = [i for i, table in enumerate(joined.tables) if SCORE in table.types]
        if not options.is_ranked and options.min_score is None:
            return joined.column(having[0], SCORE) if having else None
        column = joined.find(SCORE) if having else _only_score(joined)
    dtype = joined.dtype(column)
    if not dtype.is_numeric():
        raise RequestError(f"--by {joined.label(column)}: holds {dtype}, a cut needs numbers")
    return column


def _only_score(joined: JoinedTables) -> Column:
    """The score where no table has a quality_score; raises RequestError that names the columns."""
    found = [(i, find_score(table.types)) for i, table in enumerate(joined.tables)]
    named = [(i, name) for i, name in found if name is not None]
    if len(named) != 1:
        raise RequestError(
            f"which column is the score? Say --by COLUMN; {column_names(joined.tables)}"
        )
    return joined.column(*named[0])


def _group(name: str, joined: JoinedTables) -> Column:
    column = joined.find(name)
    dtype = joined.dtype(column)
    if dtype.is_nested():
        raise RequestError(f"--per {name}: holds {dtype}, groups need single values")
    return column


# DataComp's subset file: a sorted array of the kept samples' uids, each as two 64-bit integers

UID = np.dtype([("f0", "<u8"), ("f1", "<u8")])
_PARTS = 256


class UidFile:
    """Collects uids in any order, and writes them sorted, with a part of them in memory."""

    def __init__(self, folder: Path) -> None:
        self._parts = [ColumnFile(folder, UID) for _ in range(_PARTS)]
        self._waiting: list[Records] = []

    def add(self, uids: pl.Series, keys: pl.Series) -> None:
        """Add the uids of kept samples; raises RequestError for one that DataComp can't read."""
        text = uids.cast(pl.String)
        wrong = ~text.str.contains("^[0-9a-fA-F]{32}$").fill_null(False)
        if wrong.any():
            first = int(wrong.arg_true()[0])
            raise RequestError(
                f"--format datacomp: {keys[first]!r} is kept and its uid is {uids[first]!r}, "
                "not 32 hexadecimal digits: leave such samples out with --where, or use "
                "--format parquet"
            )
        f0, f1 = (
            text.str.slice(at, 16).str.to_integer(base=16, dtype=pl.UInt64).to_numpy()
            for at in (0, 16)
        )
        self._waiting.append(np.rec.fromarrays([f0, f1], dtype=UID))
        if sum(map(len, self._waiting)) >= BLOCK:
            self._flush()

    def write(self, path: Path) -> None:
        """Write the file as `numpy.save` would."""
        self._flush()
        count = sum(part.rows for part in self._parts)
        header = {"descr": UID.descr, "fortran_order": False, "shape": (count,)}
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for part in self._parts:
                uids = part.read(0, part.rows)
                uids[np.lexsort((uids["f1"], uids["f0"]))].tofile(file)

    def _flush(self) -> None:
        if self._waiting:
            uids = np.concatenate(self._waiting)
            part = uids["f0"] >> np.uint64(56)
            for number in np.unique(part):
                self._parts[int(number)].append(uids[part == number])
        self._waiting = []


# Decisions of all rows


def judge(plan: FilterPlan, folder: Path, advance: Advance) -> RowStatuses:
    """The status of every row, in one pass over the joined tables."""
    statuses = RowStatuses(plan.rules, folder)
    for frame in plan.joined.scan(plan.rules.columns, folder):
        statuses.add(frame)
        advance(0, frame.height)
    return statuses


class FilterDecisions(DecisionRows):
    """The decisions of a request, and what there is to say of its thresholds."""

    def __init__(
        self, plan: FilterPlan, statuses: RowStatuses, folder: Path, advance: Advance
    ) -> None:
        self._plan = plan
        self.threshold: float | None = None
        """The lowest value that is kept, where there is one group."""
        self.groups: dict[str, tuple[int, int]] = {}
        """With --per: group -> kept and scored rows."""
        self.notes: list[str] = []
        found: dict[str, str] = {}
        thresholds = ties = None
        if plan.rules.ranked:
            thresholds = self._find(statuses, found)
            ties = break_ties(statuses, thresholds, self._pieces(), folder)
        rows = self._decided(KeptRows(statuses, thresholds, ties))
        super().__init__(rows, plan.first.files, plan.fingerprint, found, advance)

    def _decided(self, kept: KeptRows) -> Iterator[tuple[Origins, pl.DataFrame]]:
        ids = self._plan.ids
        for origins, frame in self._plan.first.batches(ids.columns):
            yield origins, ids.of(origins, frame).hstack(kept.take(frame.height))

    def _find(self, statuses: RowStatuses, found: dict[str, str]) -> Thresholds:
        """Find the thresholds between the ranked rows."""
        options, rules = self._plan.options, self._plan.rules
        assert rules.score is not None, "ranked rows have a score"
        counts = statuses.counts()
        wanted = options.wanted(counts)
        thresholds = find_thresholds(statuses.ranked.blocks, wanted)
        found |= {"scored": str(counts.sum()), "wanted": str(wanted.sum())}
        if rules.per is not None:
            pairs = zip(wanted.tolist(), counts.tolist(), strict=True)
            self.groups = dict(zip(statuses.groups.names, pairs, strict=True))
        elif wanted.sum():
            dtype = self._plan.joined.dtype(rules.score)
            lowest = from_ordered(thresholds.at, dtype).to_numpy()[0]
            self.threshold, found["lowest"] = float(lowest), str(lowest)
        few = 0 if options.top_count is None else int((counts < options.top_count).sum())
        if few:
            who = "there are" if rules.per is None else f"{few} groups have"
            fewer = f"{who} fewer than {options.top_count} scored rows"
            self.notes.append(f"{fewer}: all of them are kept")
        return thresholds

    def _pieces(self) -> Iterator[tuple[int, Callable[[], pl.DataFrame]]]:
        """The names of all rows in order, of most files read only where they are asked for."""
        ids = self._plan.ids
        for file in self._plan.first.files:
            frames = self._plan.first.read(file, ids.columns, whole=False)
            named = (ids.of([(file, frame.height)], frame) for frame in frames)
            if file.rows <= CHUNK:
                yield file.rows, partial(next, named)
            else:
                for frame in named:
                    yield frame.height, partial(next, iter([frame]))
