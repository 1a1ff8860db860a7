"""Facets: what a page groups samples by, with the SQL condition that `filter` takes for each value.

A facet has a label for every row: the source that it is from, its level, what was decided of it.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from mmsieve.filtering.request import Column, JoinedTables

MOST_VALUES = 64
"""Labels of a facet; the rarest of more are one."""
NONE, OTHER = "(none)", "(other)"
_LABELLED = ("quality_level", "image_source")
"""Columns of few values that are facets, where a table has them."""
_NOTES = {
    "quality_level": "As the model sees it: 0 the text is about something else, 1 it has "
    "conspicuous mistakes, 2 one wrong property, 3 it is right."
}


@dataclass(frozen=True)
class Facet:
    """What rows are grouped by."""

    name: str
    columns: tuple[Column, ...]
    """That its labels are made of."""
    label: Callable[[pl.DataFrame], pl.Series]
    """Labels of a joined frame's rows; null where there is none."""
    where: Callable[[str], str]
    """The SQL condition of a label."""
    decided: int | None = None
    """The table with the decisions that it is of."""
    note: str = ""
    """What its labels mean, where that isn't plain."""
    values: list[str] = field(default_factory=list)
    """Its labels as they are shown, set once they are counted."""

    def settle(self, found: Mapping[str | None, int]) -> None:
        """Take the labels that were found, the most frequent ones where there are too many."""
        common = sorted(found, key=lambda label: (-found[label], label or ""))
        named = sorted((one for one in common[:MOST_VALUES] if one is not None), key=_natural)
        none = [NONE] if None in common[:MOST_VALUES] else []
        rest = [OTHER] if len(common) > MOST_VALUES else []
        self.values[:] = [*named, *none, *rest]

    def codes(self, frame: pl.DataFrame) -> pl.Series:
        """The number of each row's label among the values."""
        last = len(self.values) - 1
        numbers = {value: number for number, value in enumerate(self.values)}
        labels = self.label(frame).cast(pl.String).fill_null(NONE)
        return labels.replace_strict(numbers, default=last, return_dtype=pl.Int64)

    def conditions(self) -> list[str]:
        """The SQL condition of each value."""
        named = [value for value in self.values if value not in (NONE, OTHER)]
        made = [self.where(value) for value in named]
        if NONE in self.values:
            made.append(self.where(NONE))
        if OTHER in self.values:
            made.append(f"NOT ({' OR '.join(made)})")
        return made


def _natural(label: str) -> tuple[int, str]:
    """Numbers by their value, before names."""
    return (int(label), "") if label.lstrip("-").isdigit() else (1 << 62, label)


def find_facets(joined: JoinedTables, decided: Sequence[int]) -> list[Facet]:
    """The facets of joined tables; `decided` are the numbers of those with decisions."""
    facets = [_by_source(joined)]
    for name in _LABELLED:
        tables = (n for n, table in enumerate(joined.tables) if n not in decided)
        having = [n for n in tables if name in joined.tables[n].types]
        facets += [_by_column(joined, joined.column(number, name)) for number in having]
    facets += [_by_decision(joined, number) for number in decided]
    shards = joined.tables[0].by_shard
    if len(shards) <= MOST_VALUES and any("/" in shard for shard in shards):
        facets.append(_by_column(joined, joined.column(0, "shard")))
    return facets


def _by_source(joined: JoinedTables) -> Facet:
    """By the folder, below the one that all have in common, that a shard lies in."""
    shards = list(joined.tables[0].by_shard)
    common = os.path.commonpath(shards) if len(shards) > 1 else os.path.dirname(shards[0])  # noqa: PTH120 - a name
    prefix = f"{common}/" if common else ""
    labels = {shard: shard.removeprefix(prefix).partition("/")[0] for shard in shards}
    folders = {labels[shard] for shard in shards if "/" in shard.removeprefix(prefix)}
    column = joined.column(0, "shard")

    def where(label: str) -> str:
        if label in folders:
            return f"STARTS_WITH(shard, {text(prefix + label + '/')})"
        return f"shard = {text(prefix + label)}"

    def label(frame: pl.DataFrame) -> pl.Series:
        return frame[column.inner].replace_strict(labels, default=None, return_dtype=pl.String)

    return Facet("source", (column,), label, where)


def _by_column(joined: JoinedTables, column: Column) -> Facet:
    shared = "shard"  # of which all tables have the same
    name = shared if column.name == shared else written(joined, column)
    quoted = joined.dtype(column) == pl.String

    def where(label: str) -> str:
        if label == NONE:
            return f"{name} IS NULL"
        return f"{name} = {text(label) if quoted else label}"

    note = _NOTES.get(column.name, "")
    return Facet(column.name, (column,), lambda frame: frame[column.inner], where, note=note)


def _by_decision(joined: JoinedTables, number: int) -> Facet:
    keep, reason = (joined.column(number, name) for name in ("keep", "reason"))

    def label(frame: pl.DataFrame) -> pl.Series:
        kept = pl.when(pl.col(keep.inner)).then(pl.lit("kept")).otherwise(pl.col(reason.inner))
        return frame.select(kept.alias("label"))["label"]

    def where(label: str) -> str:
        if label == "kept":
            return written(joined, keep)
        named = written(joined, reason)
        return f"{named} IS NULL" if label == NONE else f"{named} = {text(label)}"

    return Facet(joined.tables[number].name, (keep, reason), label, where, decided=number)


def written(joined: JoinedTables, column: Column, quote: bool = True) -> str:
    """A column as an SQL condition of `filter` names it, or as `--by` does: without quotes."""
    shared = sum(column.name in table.types for table in joined.tables) > 1
    names = [joined.tables[column.table].name] if shared else []
    words = [*names, column.name]
    return ".".join(map(_identifier, words) if quote else words)


def _identifier(name: str) -> str:
    return name if name.isidentifier() else '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A text as SQL writes it."""
    return "'" + value.replace("'", "''") + "'"
