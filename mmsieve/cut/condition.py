"""Conditions: polars SQL expressions over the columns of all tables."""

import polars as pl
from polars.exceptions import PolarsError

from mmsieve.cut.inputs import column_names
from mmsieve.cut.joined import Column, Joined
from mmsieve.errors import RequestError


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
