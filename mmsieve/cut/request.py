"""A filter request: the options of a cut, checked, and what they mean for the tables given."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction

import numpy as np
from cyclopts import Parameter

from mmsieve.cut.condition import Condition
from mmsieve.cut.identity import Identity
from mmsieve.cut.inputs import Table, column_names
from mmsieve.cut.joined import Column, Joined, On
from mmsieve.cut.ranking import Counts
from mmsieve.cut.verdicts import Rules
from mmsieve.errors import RequestError

_SCORE = "quality_score"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CutOptions:
    """Which samples are kept: one of the cuts, a condition, or both."""

    min_score: float | None = None
    """Keep samples with at least this score."""
    top_fraction: float | None = None
    """Keep this share (0.3: 30%) of the samples with the highest scores, rounded down."""
    top_count: int | None = None
    """Keep so many samples with the highest scores."""
    where: str | None = None
    """Keep only samples that fulfil this SQL condition over the tables' columns; where tables
    share a column's name, write table.column. A cut is made between those that fulfil it."""
    by: str | None = None
    """Column with the score; quality_score by default."""
    per: str | None = None
    """Cut within each group of samples that have the same value in this column."""
    on: On | None = None
    """Join tables by this column's values; by default shard by shard, as one run's sources."""

    @property
    def is_ranked(self) -> bool:
        """Whether rows are cut by their rank."""
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
        if self.top_fraction is not None and not 0 < self.top_fraction <= 1:
            raise RequestError(
                f"--top-fraction {self.top_fraction}: must be above 0 and at most 1 (0.3: 30%)"
            )
        if self.top_count is not None and self.top_count < 1:
            raise RequestError(f"--top-count {self.top_count}: must be at least 1")
        if self.min_score is not None and not math.isfinite(self.min_score):
            raise RequestError(f"--min-score {self.min_score}: must be a finite number")
        if self.per is not None and not self.is_ranked:
            raise RequestError("--per cuts within groups: say --top-fraction or --top-count too")

    def wanted(self, counts: Counts) -> Counts:
        """How many rows of each group are kept, where it has so many scored ones."""
        if self.top_fraction is None:
            return np.minimum(counts, self.top_count or 0)
        share = Fraction(repr(float(self.top_fraction)))  # as it was typed: 0.29 of 100 is 29
        return np.array([math.floor(share * count) for count in counts.tolist()], np.int64)


class Plan:
    """A request that fits its tables; raises RequestError where it doesn't."""

    def __init__(self, options: CutOptions, tables: Sequence[Table], needs_uid: bool) -> None:
        self.options = options
        self.joined = Joined(tables, options.on)
        self.first = tables[0]
        """The table whose rows are decided."""
        self.identity = Identity(self.first, needs_uid)
        where = options.where
        self.rules = Rules(
            statuses=self.joined.statuses(),
            condition=None if where is None else Condition(where, self.joined),
            score=_score(options, self.joined),
            min_score=options.min_score,
            ranked=options.is_ranked,
            per=None if options.per is None else _group(options.per, self.joined),
        )

    @property
    def fingerprint(self) -> dict[str, str]:
        """The cut as it was asked for: decisions of another one aren't replaced by accident."""
        asked = {name: str(v) for name, v in asdict(self.options).items() if v is not None}
        score = self.rules.score
        by = {} if score is None else {"by": self.joined.label(score)}
        return asked | by | {"tables": ", ".join(table.name for table in self.joined.tables)}


def _score(options: CutOptions, joined: Joined) -> Column | None:
    """The column of the score; None where a condition alone decides and there is none."""
    is_cut = options.is_ranked or options.min_score is not None
    if options.by is not None:
        column = joined.find(options.by)
    else:
        having = [i for i, table in enumerate(joined.tables) if _SCORE in table.types]
        if not is_cut:
            return joined.column(having[0], _SCORE) if having else None
        if not having:
            raise RequestError(
                f"which column is the score? Say --by COLUMN; {column_names(joined.tables)}"
            )
        column = joined.find(_SCORE)
    dtype = joined.dtype(column)
    if not dtype.is_numeric():
        raise RequestError(f"--by {joined.label(column)}: holds {dtype}, a cut needs numbers")
    return column


def _group(name: str, joined: Joined) -> Column:
    column = joined.find(name)
    dtype = joined.dtype(column)
    if dtype.is_nested():
        raise RequestError(f"--per {name}: holds {dtype}, groups need single values")
    return column
