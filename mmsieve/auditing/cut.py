"""The cut that labels allow: the lowest one whose precision is surely high enough."""

from collections.abc import Sequence
from pathlib import Path

from mmsieve.auditing.form import column_of, scores_of
from mmsieve.auditing.labels import find_rows, read_labels
from mmsieve.auditing.precision import CutEstimate, Precision, check_scipy
from mmsieve.errors import RequestError
from mmsieve.filtering.request import CutOptions
from mmsieve.reporting.inputs import find_table
from mmsieve.tables import open_tables
from mmsieve.wording import counted


def cut_of_labels(tables: Sequence[str], options: CutOptions) -> CutEstimate:
    """The cut for `--min-precision`; raises RequestError where the labels allow none."""
    check_scipy()
    table = find_table(Path(tables[0])) if len(tables) == 1 else None
    if table is None:
        raise RequestError("--min-precision cuts one table that mmsieve made: give it alone")
    by = column_of(table, options.by)
    labels = read_labels(options.labels or ())
    precision = Precision(scores_of(table, by, 1), find_rows(open_tables(tables)[0], by, labels))
    wanted = options.min_precision or 0.0
    found = precision.lowest(wanted)
    if found is None:
        best = precision.best()
        raise RequestError(
            f"--min-precision {wanted:g}: {counted(len(labels), 'labels')} can't show so much of "
            f"any cut; the best is {best.precision} at --min-score {best.threshold:g}: judge more "
            "samples, or ask for less"
        )
    return found
