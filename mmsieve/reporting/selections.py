"""A subset of rated samples beside its pool and chance: what it holds more of, and what brought it.

Decisions say which rows were chosen, not by which capability. That is found by making the same
choice again from the table, and told only where it comes out to the row.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from mmsieve import tables
from mmsieve.errors import RequestError, Status
from mmsieve.reporting.heatmaps import TIMES, Against, HeatMap, counted_map
from mmsieve.reporting.inputs import ReportTable
from mmsieve.reporting.sections import most_first
from mmsieve.selection.choosing import EXCLUDED, Brought, choose_among, in_random_order
from mmsieve.selection.groups import Bools
from mmsieve.selection.options import SelectOptions
from mmsieve.selection.pool import RatingTable
from mmsieve.stores.asking import one_line
from mmsieve.tables import open_tables

_MOST_NAMES = 12
_SEED = 0
"""Of the rows that chance would have chosen: those of `select --strategy random`."""


@dataclass(frozen=True)
class Retold:
    """How a subset came about, as far as table and decisions say it."""

    random: Bools
    """As many rows of the table, chosen blindly [rows]."""
    share: float
    """The chosen part of the rows that are ok."""
    above: float = 0.0
    """Only ratings above it counted."""
    brought: Brought | None = None
    capabilities: tuple[str, ...] = ()
    groups: tuple[tuple[str, str], ...] = ()
    """Style and source of each group."""
    why_not: str = ""
    """Why it can't be told which capability brought a sample; empty where it can."""

    def said_of(self, row: int) -> str:
        """What brought a row, for its card."""
        if self.brought is None or self.brought.capabilities[row] < 0:
            return ""
        style, source = self.groups[self.brought.groups[row]]
        capability = self.capabilities[self.brought.capabilities[row]]
        return f"chosen by {capability}, among {style} of {source or 'no source'}"

    def brought_map(self) -> HeatMap | None:
        """How many samples each capability chose of each style."""
        if self.brought is None:
            return None
        chosen, width = self.brought.capabilities >= 0, len(self.groups)
        of_capability = self.brought.capabilities[chosen].astype(np.int64)
        flat = of_capability * width + self.brought.groups[chosen]
        found = np.bincount(flat, minlength=len(self.capabilities) * width)
        counts: Counter[tuple[int, str]] = Counter()
        for place in np.flatnonzero(found).tolist():
            capability, group = divmod(place, width)
            counts[capability, self.groups[group][0]] += int(found[place])
        by_style: Counter[str] = Counter()
        for (_, style), n in counts.items():
            by_style[style] += n
        styles = list(most_first(by_style))[:_MOST_NAMES]
        rows = [[counts[number, s] for s in styles] for number in range(len(self.capabilities))]
        totals = [sum(counts[number, s] for s in by_style) for number in range(len(rows))]
        numbers = [[*row, total] for row, total in zip(rows, totals, strict=True)]
        title = "Which capability and style brought the samples"
        made = counted_map(title, self.capabilities, [*styles, "all styles"], numbers)
        left = len(by_style) - len(styles)
        note = f"{left:,} more styles are in the last column alone." if left else ""
        return HeatMap(made.title, made.rows, made.columns, made.cells, note)


def retell(table: ReportTable, subset: ReportTable) -> Retold:
    """What chance would have chosen, and, where it can be told, what chose each row."""
    frames = tables.read_frames(table.files, ("status",))
    ok = np.concatenate([(frame["status"] == Status.OK.value).to_numpy() for frame in frames])
    keep, excluded = _decisions(table, subset)
    count = int(keep.sum())
    random = np.zeros(len(ok), bool)
    random[in_random_order(np.flatnonzero(ok), _SEED)[:count]] = True
    share = count / max(1, int(ok.sum()))
    fingerprint = subset.headers[0].fingerprint
    strategy = fingerprint.get("strategy")
    above = float(fingerprint.get("above", "0")) if strategy else 0.0
    why_not = ""
    if strategy is None:
        why_not = "these decisions are not a selection's: no capability chose"
    elif strategy != "mmssr":
        why_not = f"the strategy {strategy} asks no capability"
    elif "require" in fingerprint:
        why_not = "decisions don't say which samples --require brought"
    if why_not:
        return Retold(random, share, above, why_not=why_not)
    is_same = False
    try:
        options = SelectOptions.of_fingerprint(fingerprint)
        rated = RatingTable(open_tables([table.path])[0], options)
        brought = Brought(rated.pool.rows)
        if len(keep) == rated.pool.rows:
            nothing = np.zeros(rated.pool.rows, bool)
            again = choose_among(rated.pool, options, nothing, excluded, brought)
            is_same = bool((keep == again.chosen).all())
    except (RequestError, ValueError, SyntaxError) as error:
        return Retold(random, share, above, why_not=f"it can't be chosen again: {one_line(error)}")
    if not is_same:
        other = "the same request chooses other samples of this table: it was made of another one"
        return Retold(random, share, above, why_not=other)
    groups = zip(rated.pool.groups.names, rated.pool.groups.styles, strict=True)
    named = tuple((style, name.removeprefix(f"{style}+")) for name, style in groups)
    return Retold(random, share, above, brought, tuple(rated.pool.ratings), named)


def _decisions(table: ReportTable, subset: ReportTable) -> tuple[Bools, Bools]:
    """Whether each row of the table's shards is kept, and whether it was excluded."""
    shards = pl.Series([header.shard for header in table.headers]).implode()
    files = subset.files
    if not subset.path.is_file():
        by_name = dict(zip((header.shard for header in subset.headers), files, strict=True))
        files = tuple(by_name[one.shard] for one in table.headers if one.shard in by_name)
    frames = [
        frame.filter(pl.col("shard").is_in(shards)).select("keep", pl.col("reason") == EXCLUDED)
        for frame in tables.read_frames(files, ("shard", "keep", "reason"))
    ]
    both = pl.concat(frames)
    return both["keep"].to_numpy(), both["reason"].fill_null(value=False).to_numpy()


# Capability x style, capability x source: pool, subset and chance in every cell


@dataclass
class SubsetTally:
    """Counts what a subset and as many random rows hold of the pool."""

    name: str
    retold: Retold
    capabilities: Sequence[str]
    styles: dict[str, list[Against]] = field(default_factory=dict)
    """Style -> of each capability the samples that have the style and are rated for it."""
    sources: dict[str, list[Against]] = field(default_factory=dict)

    def add(self, rows: pl.DataFrame, keep: str, random: str, style: str, source: str) -> None:
        """Add rows; the names are those of columns."""
        above = self.retold.above
        parts = {"pool": pl.lit(value=True), "chosen": pl.col(keep), "random": pl.col(random)}
        counts = [
            ((pl.col(name) > above) & mask).sum().alias(f"{part}-{number}")
            for number, name in enumerate(self.capabilities)
            for part, mask in parts.items()
        ]
        self._add_to(self.sources, rows.group_by(pl.col(source).fill_null("(none)")).agg(counts))
        exploded = rows.explode(style).drop_nulls(style)
        self._add_to(self.styles, exploded.group_by(style).agg(counts))

    def _add_to(self, found: dict[str, list[Against]], counted: pl.DataFrame) -> None:
        for name, *numbers in counted.iter_rows():
            before = found.get(name, [Against(0, 0, 0)] * len(self.capabilities))
            triples = zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
            found[name] = [
                Against(old.pool + pool, old.chosen + chosen, old.random + random)
                for old, (pool, chosen, random) in zip(before, triples, strict=True)
            ]

    def map_of(self, what: str, names: Sequence[str]) -> HeatMap | None:
        """The heat map of capabilities and `styles` or `sources`, of these names."""
        found: dict[str, list[Against]] = getattr(self, what)
        if not found:
            return None
        shown = [name for name in names if name in found]
        cells = [
            [found[name][number].cell(row, name, self.retold.share) for name in shown]
            for number, row in enumerate(self.capabilities)
        ]
        left = len(found) - len(shown)
        note = (
            f"Chosen samples that are rated above {self.retold.above:g}; below each number that of "
            f"as many random samples{f'; {left:,} more {what} are not shown' if left else ''}."
        )
        title = f"Capability and {what.removesuffix('s')}"
        return HeatMap(title, list(self.capabilities), shown, cells, note, TIMES)


@dataclass(frozen=True)
class SubsetNumbers:
    """What is said of a subset."""

    name: str
    maps: list[HeatMap]
    why_not: str
    """Why it isn't told which capability brought a sample."""
