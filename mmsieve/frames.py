"""A table or decisions as one frame, for whoever goes on in Python."""

from collections.abc import Sequence
from importlib.util import find_spec
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal, overload

import polars as pl

from mmsieve.errors import RequestError
from mmsieve.options import as_declared
from mmsieve.reports import Report
from mmsieve.tables import column_names, open_tables

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Place = str | PathLike[str] | Report


@overload
def read_table(
    table: Place, columns: str | Sequence[str] | None = None, *, to: Literal["polars"] = ...
) -> pl.DataFrame: ...
@overload
def read_table(
    table: Place, columns: str | Sequence[str] | None = None, *, to: Literal["pandas"]
) -> "pd.DataFrame": ...
@overload
def read_table(
    table: Place, columns: str | Sequence[str] | None = None, *, to: Literal["arrow"]
) -> "pa.Table": ...
def read_table(
    table: Place,
    columns: str | Sequence[str] | None = None,
    *,
    to: Literal["polars", "pandas", "arrow"] = "polars",
) -> Any:
    """A table or decisions as one frame, a row per sample, files in the order of their names.

    Raises RequestError where there is no table, or none of these columns in it.

    Parameters
    ----------
    table
        A folder that score, enhance, rate, filter or select wrote, a Parquet file, or the report
        that the verb returned.
    columns
        Those to read, or the only one; by default all that the table's files agree on.
    to
        What comes back: a DataFrame of polars or of pandas, or a Table of pyarrow.
    """
    if to not in ("polars", "pandas", "arrow"):
        raise RequestError(f"to={to!r}: is not one of polars, pandas, arrow")
    try:
        columns = as_declared(columns, Sequence[str] | None)
    except ValueError as error:
        raise RequestError(f"columns={columns!r}: {error}") from None
    (opened,) = open_tables([fspath(table.out if isinstance(table, Report) else table)])
    names = [name for name in opened.types if name not in opened.mixed]
    if missing := [name for name in columns or () if name not in names]:
        raise RequestError(f"{opened.path}: no column {missing[0]}: {column_names([opened])}")
    pieces = [frame for _, frame in opened.batches(columns or names)]
    frame = pl.concat(pieces)
    if to == "polars":
        return frame
    if to == "arrow":
        return frame.to_arrow()
    if find_spec("pandas") is None:
        raise RequestError("to='pandas' needs a package that is not installed: pip install pandas")
    return frame.to_pandas()
