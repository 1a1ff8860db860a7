"""Which module makes the section of which kind of table."""

from collections.abc import Callable, Sequence

import polars as pl

from mmsieve.decisions import KIND as DECISIONS
from mmsieve.errors import RequestError
from mmsieve.page import assessments, ratings, scores
from mmsieve.page.inputs import Judged
from mmsieve.page.samples import Numbers, Request

COUNTS: dict[str, Callable[[Judged, Request], Numbers]] = {
    "quality": scores.count,
    DECISIONS: scores.count,
    ratings.KIND: ratings.count,
    "assessment": assessments.count,
}
"""Kind of a table -> what counts it."""


def count_all(judged: Sequence[Judged], gallery: int) -> list[Numbers]:
    """The numbers of all tables, with up to `gallery` samples in each group.

    Raises RequestError for a table of another kind, or without the columns of its kind.
    """
    for one in judged:
        if one.kind not in COUNTS:
            raise RequestError(
                f"{one.path}: holds {one.kind}, which is not shown; {', '.join(COUNTS)} are"
            )
    request = Request(tuple(judged), gallery)
    return [_count(one, request) for one in judged]


def _count(judged: Judged, request: Request) -> Numbers:
    try:
        return COUNTS[judged.kind](judged, request)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise RequestError(
            f"{judged.path}: can't be read as a table of {judged.kind} ({reason}); make it again"
        ) from error
