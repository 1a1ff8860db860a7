"""Row status: for each row why it isn't kept, by a condition or its status, or how it ranks.

All of a table's rows are judged in one pass and kept as a few bytes each on disk. What follows
(finding the cut, breaking ties, writing) reads those, and of the table only keys.
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
from mmsieve.filtering.hashing import hash_samples
from mmsieve.filtering.joins import Column, Joined
from mmsieve.filtering.ranking import RANKED, Counts, Cut, KeptTies, Spool, ordered, records
from mmsieve.tables import column_names

# Conditions: polars SQL expressions over the columns of all tables


class Condition:
    """`--where EXPR`, checked against the columns there are and their types.

    A column that several tables have is written `table.column`. As in SQL, a row for which the
    condition is unknown (null, and not-a-number, which polars would take for the largest number)
    doesn't fulfil it.
    """

    def __init__(self, text: str, joined: Joined) -> None:
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
        tables = [table.name for table in self._joined.tables]
        is_column = any(root in table.types for table in self._joined.tables)
        if root not in tables or is_column:
            try:
                column = self._joined.find(root)
            except RequestError as error:
                raise RequestError(f"--where {self._text!r}: {error}") from error
            self.columns.add(column)
            self._inputs.append(self._input(column).alias(root))
            return
        number = tables.index(root)
        named = [name for name in self._joined.tables[number].types if name in self._text]
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
    """Whether each row's value depends on that row alone, however the rows are cut into pieces."""
    meta = expression.meta
    if meta.is_literal():
        return True
    try:
        alone = meta.is_row_separable() and (not meta.root_names() or meta.is_length_preserving())
    except PolarsError:  # a function (IN) that needs the columns' types to say so: see its inputs
        alone = True
    return alone and all(_row_by_row(part) for part in meta.pop())


# Verdicts: for each row why it isn't kept, or how it ranks; then the cut between those that
# rank

MOST_GROUPS = 1_000_000
_ROW = np.dtype([("reason", "<u2"), ("score", "<f4")])
_BELOW, _TIE, _WHERE, _NO_SCORE = 1, 2, 3, 4


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a row must fulfil, as columns of the joined tables."""

    statuses: Sequence[Column]
    condition: Condition | None
    score: Column | None
    min_score: float | None
    ranked: bool
    """Whether there is a cut between the rows, so that each needs a score."""
    per: Column | None

    @property
    def columns(self) -> set[Column]:
        """All columns that are needed."""
        found = {*self.statuses, *(self.condition.columns if self.condition else ())}
        return found | {column for column in (self.score, self.per) if column is not None}


class Groups:
    """The values of the column of --per, numbered in the order in which they come."""

    def __init__(self, column: str | None) -> None:
        self._column = column
        self._numbers: dict[str | None, int] = {} if column else {None: 0}

    @property
    def names(self) -> list[str]:
        """The groups; rows without a value are a group too."""
        return ["null" if name is None else name for name in self._numbers]

    def number(self, values: pl.Series) -> npt.NDArray[np.uint32]:
        """The number of each value's group; raises RequestError where there are too many."""
        text = values.cast(pl.String)
        unique = text.unique(maintain_order=True)
        own = [self._numbers.setdefault(name, len(self._numbers)) for name in unique]
        if len(self._numbers) > MOST_GROUPS:
            raise RequestError(
                f"--per {self._column}: more than {MOST_GROUPS} different values; choose a column "
                "with fewer"
            )
        local = pl.DataFrame({"name": unique, "number": pl.Series(own, dtype=pl.UInt32)})
        joined = text.to_frame("name").join(
            local, on="name", how="left", nulls_equal=True, maintain_order="left"
        )
        return joined["number"].to_numpy()


class Verdicts:
    """What is known of each row, in the order of the rows."""

    def __init__(self, rules: Rules, folder: Path) -> None:
        self._rules = rules
        self.rows = Spool(folder, _ROW)
        self.ranked = Spool(folder, RANKED)
        self.reasons: list[str | None] = [None, "below_cut", "tie_at_cut", "where", "no_score"]
        self.groups = Groups(rules.per.name if rules.per else None)

    def judge(self, frame: pl.DataFrame) -> None:
        """Judge the next rows."""
        rules = self._rules
        reason = self._statuses(frame)
        if rules.condition is not None:
            reason[(reason == 0) & ~rules.condition.holds(frame).to_numpy()] = _WHERE
        if rules.score is None:
            score = np.full(frame.height, np.nan, np.float32)
        else:
            values = frame[rules.score.inner]
            score = values.cast(pl.Float32).fill_null(float("nan")).to_numpy()
            self._score(values, reason, frame)
        self.rows.append(records(_ROW, reason=reason, score=score))

    def counts(self) -> Counts:
        """The number of ranked rows of each group."""
        groups = len(self.groups.names)
        counts = np.zeros(groups, np.int64)
        for block in self.ranked.blocks():
            counts += np.bincount(block["group"], minlength=groups)
        return counts

    def _statuses(self, frame: pl.DataFrame) -> npt.NDArray[np.uint16]:
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

    def _score(
        self, values: pl.Series, reason: npt.NDArray[np.uint16], frame: pl.DataFrame
    ) -> None:
        """Judge the scores of the rows that are ok so far."""
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
            chosen = values.filter(left)
            group = np.zeros(len(chosen), np.uint32)
            if rules.per is not None:
                group = self.groups.number(frame[rules.per.inner].filter(left))
            self.ranked.append(records(RANKED, value=ordered(chosen), group=group))


class Cursor:
    """Verdicts read back in the order of the rows."""

    def __init__(self, verdicts: Verdicts) -> None:
        self._verdicts = verdicts
        self._row = self._rank = 0

    def take(self, count: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """The next `count` rows, and those of them that rank."""
        rows = self._verdicts.rows.read(self._row, self._row + count)
        ranked = self._verdicts.ranked
        number = int((rows["reason"] == 0).sum()) if ranked.rows else 0
        found = ranked.read(self._rank, self._rank + number)
        self._row += count
        self._rank += number
        return rows, found


class Picks:
    """Verdicts after the cut: why each row isn't kept, ties broken."""

    def __init__(self, verdicts: Verdicts, cut: Cut | None, ties: KeptTies | None) -> None:
        self._cursor = Cursor(verdicts)
        self._cut = cut
        self._ties = ties
        self._reasons = pl.Series(verdicts.reasons, dtype=pl.String)

    def take(self, count: int) -> pl.DataFrame:
        """`keep`, `reason` and `score` of the next `count` rows."""
        rows, ranked = self._cursor.take(count)
        reason = rows["reason"].copy()
        if self._cut is not None and self._ties is not None:
            above, tied = self._cut.above(ranked), self._cut.tied(ranked)
            outcome = np.where(above, 0, _BELOW).astype(np.uint16)
            outcome[tied] = np.where(self._ties.take(int(tied.sum())), 0, _TIE)
            reason[reason == 0] = outcome
        score = pl.Series(rows["score"].copy()).fill_nan(None)
        return pl.DataFrame(
            {"keep": reason == 0, "reason": self._reasons.gather(reason), "score": score}
        )


def break_ties(
    verdicts: Verdicts,
    cut: Cut,
    pieces: Iterable[tuple[int, Callable[[], pl.DataFrame]]],
    folder: Path,
) -> KeptTies:
    """Which rows at the cut are kept where not all can be: by a stable hash of their keys.

    `pieces` are the rows in order: how many, and their `key` and `shard`, read only where needed.
    """
    ties = KeptTies(folder, len(cut.at))
    cursor = Cursor(verdicts)
    for count, read in pieces if cut.is_open().any() else ():
        rows, ranked = cursor.take(count)
        tied = cut.tied(ranked)
        if tied.any():
            rank = np.flatnonzero(rows["reason"] == 0)[tied]
            frame = read()[rank]
            ties.add(hash_samples(frame["key"], frame["shard"]), ranked["group"][tied])
    ties.settle(np.where(cut.is_open(), cut.ties, 0))
    return ties
