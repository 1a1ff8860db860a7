"""Row status: for each row why it isn't kept, or the value that it is ranked by.

One pass over the joined tables leaves a few bytes for each row on disk. What follows (thresholds,
ties, writing) reads those, and of the tables only the columns that name a row.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from polars.exceptions import PolarsError

from mmsieve.errors import RequestError, Status
from mmsieve.filtering.joins import Column, JoinedTables
from mmsieve.filtering.ranking import (
    RANKED,
    ColumnFile,
    Counts,
    KeptTies,
    Thresholds,
    hash_samples,
    ordered,
)
from mmsieve.tables import column_names

# Conditions: polars SQL expressions over the columns of all tables


class Condition:
    """`--where EXPR`, checked against the columns there are and their types.

    A column that several tables have is written `table.column`. As in SQL, a row for which the
    condition is unknown (null, and not-a-number, which polars would take for the largest number)
    doesn't fulfil it.
    """

    def __init__(self, text: str, joined: JoinedTables) -> None:
        self._text = text
        self._joined = joined
        try:
            self._expression = pl.sql_expr(text)
        except PolarsError as error:
            raise self._wrong(str(error)) from error
        if not _row_by_row(self._expression):
            raise self._wrong("it may look at one row only: no aggregate, window or UNNEST")
        self._inputs: list[pl.Expr] = []
        self.columns: set[Column] = set()
        for root in dict.fromkeys(self._expression.meta.root_names()):
            self._add(root)
        self._check()

    def holds(self, frame: pl.DataFrame) -> pl.Series:
        """Whether each row of a joined frame fulfils the condition."""
        try:
            result = frame.select(self._inputs).select(self._expression.alias("holds"))["holds"]
        except PolarsError as error:
            raise self._wrong(str(error)) from error
        return result.fill_null(False) if result.dtype == pl.Boolean else result

    def _add(self, root: str) -> None:
        """Make a name of the expression available: a column, or a table as `table.column`."""
        tables = self._joined.tables
        names = [table.name for table in tables]
        if root not in names or any(root in table.types for table in tables):
            try:
                column = self._joined.find(root)
            except RequestError as error:
                raise RequestError(f"--where {self._text!r}: {error}") from error
            self.columns.add(column)
            self._inputs.append(self._input(column).alias(root))
            return
        number = names.index(root)
        named = [name for name in tables[number].types if name in self._text]
        if not named:
            raise self._wrong(f"no column of {root} is named as {root}.column")
        columns = [self._joined.column(number, name) for name in named]
        self.columns.update(columns)
        fields = [self._input(column).alias(column.name) for column in columns]
        self._inputs.append(pl.struct(fields).alias(root))

    def _input(self, column: Column) -> pl.Expr:
        value = pl.col(column.inner)
        return value.fill_nan(None) if self._joined.dtype(column).is_float() else value

    def _check(self) -> None:
        """Raise unless the expression can be computed and says yes or no."""
        if not self.columns:
            raise self._wrong("it names no column")
        dtype = self.holds(self._joined.empty(self.columns)).dtype
        if dtype != pl.Boolean:
            raise self._wrong(f"it gives {dtype}, not yes or no: compare it with something")

    def _wrong(self, reason: str) -> RequestError:
        line = " ".join(reason.split("\n\n")[0].split())
        return RequestError(
            f"--where {self._text!r}: {line}; an SQL condition over these columns is needed: "
            f"{column_names(self._joined.tables)}"
        )


def _row_by_row(expression: pl.Expr) -> bool:
    """Whether each row's value depends on that row alone, however the rows are split."""
    meta = expression.meta
    if meta.is_literal():
        return True
    try:
        alone = meta.is_row_separable() and (not meta.root_names() or meta.is_length_preserving())
    except PolarsError:  # a function (IN) that needs the columns' types to say so: see its inputs
        alone = True
    return alone and all(_row_by_row(part) for part in meta.pop())


# Rows: judged in one pass, then read back in their order

MOST_GROUPS = 1_000_000
_ROW = np.dtype([("reason", "<u2"), ("score", "<f4")])
_REASONS = [None, "below_cut", "tie_at_cut", "where", "no_score"]
_BELOW, _TIE, _WHERE, _NO_SCORE = 1, 2, 3, 4


@dataclass(frozen=True, kw_only=True)
class RowRules:
    """What a row must fulfil, as columns of the joined tables."""

    statuses: Sequence[Column]
    condition: Condition | None
    score: Column | None
    min_score: float | None
    ranked: bool
    """Whether the highest rows are kept, so that each needs a score."""
    per: Column | None

    @property
    def columns(self) -> set[Column]:
        """All columns that are needed."""
        found = {*self.statuses, *(self.condition.columns if self.condition else ())}
        return found | {column for column in (self.score, self.per) if column is not None}


class GroupCodes:
    """Categorical codes of the values of --per: 0, 1, ... in the order in which they come."""

    def __init__(self, column: str | None) -> None:
        self._column = column
        self._codes: dict[str | None, int] = {} if column else {None: 0}

    @property
    def names(self) -> list[str]:
        """The groups; rows without a value are a group too."""
        return ["null" if name is None else name for name in self._codes]

    def encode(self, values: pl.Series) -> npt.NDArray[np.uint32]:
        """The code of each value; raises RequestError where there are too many groups."""
        text = values.cast(pl.String)
        unique = text.unique(maintain_order=True)
        own = [self._codes.setdefault(name, len(self._codes)) for name in unique]
        if len(self._codes) > MOST_GROUPS:
            raise RequestError(
                f"--per {self._column}: more than {MOST_GROUPS} different values; choose a column "
                "with fewer"
            )
        local = pl.DataFrame({"name": unique, "code": pl.Series(own, dtype=pl.UInt32)})
        joined = text.to_frame("name").join(
            local, on="name", how="left", nulls_equal=True, maintain_order="left"
        )
        return joined["code"].to_numpy()


class RowStatuses:
    """Why each row isn't kept, or its value and group, in the order of the rows."""

    def __init__(self, rules: RowRules, folder: Path) -> None:
        self._rules = rules
        self.rows = ColumnFile(folder, _ROW)
        self.ranked = ColumnFile(folder, RANKED)
        """Of the rows that nothing speaks against, where the highest are kept."""
        self.reasons: list[str | None] = [*_REASONS]
        self.groups = GroupCodes(rules.per.name if rules.per else None)

    def add(self, frame: pl.DataFrame) -> None:
        """Judge the next rows of the joined tables."""
        rules = self._rules
        reason = self._bad_statuses(frame)
        if rules.condition is not None:
            reason[(reason == 0) & ~rules.condition.holds(frame).to_numpy()] = _WHERE
        if rules.score is None:
            score = np.full(frame.height, np.nan, np.float32)
        else:
            values = frame[rules.score.inner]
            score = values.cast(pl.Float32).fill_null(float("nan")).to_numpy()
            self._judge_scores(values, reason, frame)
        self.rows.append(np.rec.fromarrays([reason, score], dtype=_ROW))

    def counts(self) -> Counts:
        """The number of ranked rows of each group."""
        groups = len(self.groups.names)
        counts = np.zeros(groups, np.int64)
        for block in self.ranked.blocks():
            counts += np.bincount(block["group"], minlength=groups)
        return counts

    def _bad_statuses(self, frame: pl.DataFrame) -> npt.NDArray[np.uint16]:
        """The first status that isn't ok, of any table, as the number of a reason."""
        reason = np.zeros(frame.height, np.uint16)
        for column in reversed(self._rules.statuses):
            statuses = frame[column.inner].cast(pl.String)
            bad = statuses.filter((statuses != Status.OK.value).fill_null(False))
            for status in bad.unique(maintain_order=True):
                if status not in self.reasons:
                    self.reasons.append(status)
                is_it = (statuses == status).fill_null(False).to_numpy()
                reason[is_it] = self.reasons.index(status)
        return reason

    def _judge_scores(
        self, values: pl.Series, reason: npt.NDArray[np.uint16], frame: pl.DataFrame
    ) -> None:
        """Judge the scores of the rows that nothing speaks against so far."""
        rules = self._rules
        if not rules.ranked and rules.min_score is None:
            return
        scored = values.is_not_null()
        if values.dtype.is_float():
            scored &= values.is_not_nan().fill_null(False)
        reason[(reason == 0) & ~scored.to_numpy()] = _NO_SCORE
        if rules.min_score is not None:
            least = np.float32(rules.min_score) if values.dtype == pl.Float32 else rules.min_score
            enough = (values.cast(pl.Float64) >= float(least)).fill_null(False)
            reason[(reason == 0) & ~enough.to_numpy()] = _BELOW
        if rules.ranked:
            left = pl.Series(reason == 0)
            value = ordered(values.filter(left))
            group = np.zeros(len(value), np.uint32)
            if rules.per is not None:
                group = self.groups.encode(frame[rules.per.inner].filter(left))
            self.ranked.append(np.rec.fromarrays([value, group], dtype=RANKED))


class _Cursor:
    """Row statuses read back in the order of the rows."""

    def __init__(self, statuses: RowStatuses) -> None:
        self._statuses = statuses
        self._row = self._rank = 0

    def take(self, count: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """The next `count` rows, and those of them that are ranked."""
        rows = self._statuses.rows.read(self._row, self._row + count)
        ranked = self._statuses.ranked
        number = int((rows["reason"] == 0).sum()) if ranked.rows else 0
        found = ranked.read(self._rank, self._rank + number)
        self._row += count
        self._rank += number
        return rows, found


class KeptRows:
    """Which rows are kept, and why the others aren't, by status, threshold and tie."""

    def __init__(
        self, statuses: RowStatuses, thresholds: Thresholds | None, ties: KeptTies | None
    ) -> None:
        self._cursor = _Cursor(statuses)
        self._thresholds = thresholds
        self._ties = ties
        self._reasons = pl.Series(statuses.reasons, dtype=pl.String)

    def take(self, count: int) -> pl.DataFrame:
        """`keep`, `reason` and `score` of the next `count` rows."""
        rows, ranked = self._cursor.take(count)
        reason = rows["reason"].copy()
        if self._thresholds is not None and self._ties is not None:
            above, tied = self._thresholds.above(ranked), self._thresholds.tied(ranked)
            outcome = np.where(above, 0, _BELOW).astype(np.uint16)
            outcome[tied] = np.where(self._ties.take(int(tied.sum())), 0, _TIE)
            reason[reason == 0] = outcome
        score = pl.Series(rows["score"].copy()).fill_nan(None)
        return pl.DataFrame(
            {"keep": reason == 0, "reason": self._reasons.gather(reason), "score": score}
        )


def break_ties(
    statuses: RowStatuses,
    thresholds: Thresholds,
    pieces: Iterable[tuple[int, Callable[[], pl.DataFrame]]],
    folder: Path,
) -> KeptTies:
    """Which rows at a threshold are kept where not all are: by a stable hash of their keys.

    `pieces` are the rows in order: how many, and their `key` and `shard`, read only where needed.
    """
    ties = KeptTies(folder)
    cursor = _Cursor(statuses)
    is_open = thresholds.is_open()
    for count, read in pieces if is_open.any() else ():
        rows, ranked = cursor.take(count)
        tied = thresholds.tied(ranked)
        if tied.any():
            names = read()[np.flatnonzero(rows["reason"] == 0)[tied]]
            ties.add(hash_samples(names["key"], names["shard"]), ranked["group"][tied])
    ties.settle(np.where(is_open, thresholds.ties, 0))
    return ties
