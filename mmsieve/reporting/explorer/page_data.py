"""An explorer as the JSON that its page holds; `page/*.js` reads it.

Counts are sparse: of each cell the pairs (edges passed since the last one, rows), one after the
other. Nothing in the text can end the element that it stands in.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from mmsieve.reporting.explorer.explorer import Explorer
from mmsieve.reporting.explorer.facets import Facet
from mmsieve.reporting.inputs import ReportTable

_DIGITS = 6
"""Significant digits of a value that is shown; what is kept goes by its place."""


def page_data(one: Explorer) -> dict[str, Any]:
    """All numbers of an explorer; the samples' texts and pictures are apart, as they are large."""
    return {
        "name": " and ".join(table.name for n, table in enumerate(one.tables) if not _is(one, n)),
        "rows": one.rows,
        "tables": [_table(table, _is(one, n)) for n, table in enumerate(one.tables)],
        "columns": [
            {
                "name": column.name,
                "by": column.by,
                "single": column.edges.values.dtype == np.float32,
                "edges": column.edges.numbers(),
                "bars": list(column.edges.bars),
                "counts": [_sparse(cell) for cell in histogram.counts],
            }
            for column, histogram in zip(one.columns, one.histograms, strict=True)
        ],
        "facets": [_facet(facet) for facet in one.facets],
        "cells": [list(cell) for cell in one.cells],
        "cellRows": one.cell_rows,
        "failed": one.failed,
        "cuts": one.cuts(),
        "renamed": len({table.path.stem for table in one.tables}) < len(one.tables),
        "strata": [list(stratum) for stratum in one.strata],
        "samples": _samples(one),
    }


def _is(one: Explorer, table: int) -> bool:
    return table in one.decided


def _table(table: ReportTable, is_decided: bool) -> dict[str, Any]:
    return {"name": table.name, "path": str(table.path), "decided": is_decided}


def _facet(facet: Facet) -> dict[str, Any]:
    return {
        "name": facet.name,
        "note": facet.note,
        "values": facet.values,
        "where": facet.conditions(),
        "table": facet.decided,
    }


def _sparse(counts: npt.NDArray[np.int64]) -> list[int]:
    places = np.flatnonzero(counts)
    gaps = np.diff(places, prepend=0)
    return [int(number) for number in np.column_stack([gaps, counts[places]]).ravel()]


def _samples(one: Explorer) -> dict[str, Any]:
    rows = one.sample
    values = [
        [
            None if value is None or not math.isfinite(value) else float(f"{value:.{_DIGITS}g}")
            for value in rows[f"value{number}"]
        ]
        for number in range(len(one.columns))
    ]
    statuses = rows["status"].to_list()
    return {
        "key": rows["key"].to_list(),
        "shard": _coded(rows["shard"]),
        "place": rows["place"].to_list(),
        "status": statuses,
        "error": rows["error"].to_list(),
        "cell": rows["cell"].to_list(),
        "stratum": rows["stratum"].to_list(),
        "values": values,
        "places": [rows[f"place{number}"].to_list() for number in range(len(one.columns))],
    }


def _coded(names: pl.Series) -> dict[str, Any]:
    """Names that come often, as numbers among the different ones."""
    different = names.unique().sort()
    numbers = {name: number for number, name in enumerate(different)}
    return {"names": different.to_list(), "of": [numbers[name] for name in names]}


def to_script(value: Mapping[str, Any] | Sequence[Any]) -> str:
    """JSON that may stand in a script element: nothing in it is taken for HTML."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    clean = text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "\\u0000")
    return clean.translate({ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"})


def contents_data(contents: Iterable[Sequence[tuple[str, str]]]) -> list[list[list[str]]]:
    """Of each sample its parts: what each is (text, picture, problem), and it."""
    return [[list(part) for part in parts] for parts in contents]
