"""Rating tables: each capability's ratings, the styles and sources, in the pool and in subsets."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa

from mmsieve import tables
from mmsieve.decisions import KIND as DECISIONS
from mmsieve.errors import RequestError, Status
from mmsieve.reporting import sections
from mmsieve.reporting.inputs import ReportTable
from mmsieve.reporting.selections import SubsetNumbers, SubsetTally, retell

KIND = "ratings"
_MOST_NAMES = 12
_COMMON = ("key", "shard", "status", "error")
_STYLES, _SOURCE = "styles", "image_source"
_ROW = "row"


@dataclass
class RatingTally:
    """What is in some samples: all of a table, or those that a subset keeps."""

    name: str
    rows: int = 0
    ratings: dict[str, Counter[int | None]] = field(default_factory=dict)
    """Capability -> samples of each rating; of None where the model gave none."""
    styles: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)

    def add(self, rows: pl.DataFrame, capabilities: Iterable[str]) -> None:
        """Add rows."""
        self.rows += rows.height
        for name in capabilities:
            self.ratings.setdefault(name, Counter()).update(sections.counted(rows[name]))
        self.styles.update(sections.counted(rows[_STYLES].explode().drop_nulls()))
        self.sources.update(sections.counted(rows[_SOURCE].fill_null("(none)")))

    def mean(self, capability: str) -> float | None:
        """The mean rating of the samples that have one."""
        found = {r: n for r, n in self.ratings.get(capability, {}).items() if r is not None}
        count = sum(found.values())
        return sum(r * n for r, n in found.items()) / count if count else None


@dataclass(frozen=True)
class RatingNumbers:
    """What is said of a rating table."""

    rows: int
    counts: dict[str, int]
    """Status -> samples."""
    capabilities: list[sections.Shares]
    styles: sections.Shares
    sources: sections.Shares
    subsets: list[SubsetNumbers]
    groups: sections.Groups
    template: str = "ratings.html.j2"


def count(table: ReportTable, request: sections.SectionRequest) -> RatingNumbers:
    """The numbers of a rating table, beside those of decisions about the same samples."""
    schema = tables.types_of(table.schema)
    capabilities = [name for name, type_ in schema.items() if pa.types.is_int8(type_)]
    if not capabilities:
        raise RequestError(f"{table.path}: holds no ratings, there is no column of int8")
    types: dict[str, sections.Type] = dict.fromkeys(_COMMON, pl.String)
    types |= dict.fromkeys(capabilities, pl.Int8) | {_SOURCE: pl.String}
    if _STYLES in schema:
        types[_STYLES] = pl.List(pl.String)
    counting = _RatingCounts(table, request.beside(table, DECISIONS), capabilities, types)
    gallery = sections.Gallery(counting.groups, request.gallery)
    counts = sections.count_rows(counting.rows(), gallery, counting.add)
    tallies = counting.tallies
    styles = _most_frequent("Styles", tallies, [tally.styles for tally in tallies])
    sources = _most_frequent("Image sources", tallies, [tally.sources for tally in tallies])
    return RatingNumbers(
        rows=tallies[0].rows,
        counts=counts,
        capabilities=[_capability(name, tallies) for name in capabilities],
        styles=styles,
        sources=sources,
        subsets=[_subset(one, styles.labels, sources.labels) for one in counting.subset_tallies],
        groups=gallery.groups(counting.shown),
    )


class _RatingCounts:
    """Counts the rows of a table, beside those of its subsets and of as many random ones."""

    def __init__(
        self,
        table: ReportTable,
        subsets: list[ReportTable],
        capabilities: list[str],
        types: dict[str, sections.Type],
    ) -> None:
        self._table, self._subsets, self._types = table, subsets, types
        self._capabilities = capabilities
        retold = [retell(table, subset) for subset in subsets]
        names = [subset.name for subset in subsets]
        self.subset_tallies = [
            SubsetTally(name, one, capabilities) for name, one in zip(names, retold, strict=True)
        ]
        self.groups, self._subset_of = _groups(names)
        self._pool = RatingTally("pool")
        self._chosen = [RatingTally(name) for name in names]
        randoms = ["random"] if len(names) == 1 else [f"random for {name}" for name in names]
        self._random = [RatingTally(name) for name in randoms]

    @property
    def tallies(self) -> list[RatingTally]:
        """The pool, the subsets, and what chance would have chosen in their place."""
        return [self._pool, *self._chosen, *self._random]

    def rows(self) -> Iterator[pl.DataFrame]:
        """The rows, some at a time, with every subset's decision and whether chance takes them."""
        start = 0
        extra = [pl.lit(None, pl.List(pl.String)).alias(_STYLES)] * (_STYLES not in self._types)
        for frame in sections.read_rows(self._table.files, sections.typed(self._types)):
            what = pl.col("status").alias("what")
            found = frame.with_columns(what, *extra).with_row_index(_ROW, offset=start)
            end = start + frame.height
            for number, subset in enumerate(self._subsets):
                found = _with_decisions(found, subset, number)
                random = self.subset_tallies[number].retold.random[start:end]
                found = found.with_columns(pl.Series(f"random{number}", random))
            start = end
            yield found

    def add(self, found: pl.DataFrame) -> None:
        """Count rows."""
        self._pool.add(found, self._capabilities)
        for number, tally in enumerate(self.subset_tallies):
            keep, random = f"keep{number}", f"random{number}"
            self._chosen[number].add(found.filter(keep), self._capabilities)
            self._random[number].add(found.filter(random), self._capabilities)
            tally.add(found, keep, random, _STYLES, _SOURCE)

    def shown(self, title: str, row: dict[str, Any]) -> sections.GallerySample:
        """A sample of the gallery."""
        subset = self._subset_of.get(title)
        said = ""
        if subset is not None:
            said = self.subset_tallies[subset].retold.said_of(row[_ROW])
        return _shown(row, subset, self._capabilities, said)


def _subset(tally: SubsetTally, styles: list[str], sources: list[str]) -> SubsetNumbers:
    maps = (
        tally.map_of("styles", styles),
        tally.map_of("sources", sources),
        tally.retold.brought_map(),
    )
    return SubsetNumbers(tally.name, [one for one in maps if one], tally.retold.why_not)


def _groups(subsets: list[str]) -> tuple[dict[str, sections.GalleryGroup], dict[str, int]]:
    """What each subset keeps and leaves, without a subset all; and title -> the subset's number."""
    is_ok = pl.col("status") == Status.OK
    groups = {} if subsets else {"Samples": sections.GalleryGroup(is_ok)}
    subset_of: dict[str, int] = {}
    for number, name in enumerate(subsets):
        keep, title = pl.col(f"keep{number}"), f"Kept in {name}"
        groups[title] = sections.GalleryGroup(keep)
        groups[f"Not kept in {name}"] = sections.GalleryGroup(~keep & is_ok)
        subset_of |= {title: number, f"Not kept in {name}": number}
    return groups | {sections.FAILED: sections.GalleryGroup(~is_ok)}, subset_of


def _shown(
    row: dict[str, Any], subset: int | None, capabilities: list[str], said: str
) -> sections.GallerySample:
    failed = row["status"] if row["status"] != Status.OK else None
    rated = {name: row[name] for name in capabilities if row[name]}
    order = sorted(rated, key=lambda name: -rated[name])
    return sections.GallerySample(
        key=row["key"],
        shard=row["shard"],
        place=row["place"],
        keep=None if subset is None else row[f"keep{subset}"],
        reason=failed if subset is None else row[f"reason{subset}"],
        error=row["error"],
        marks=(
            tuple(f"{name} {rated[name]}" for name in order),
            tuple(row[_STYLES] or ()),
            (said,) if said else (),
        ),
    )


def _with_decisions(rows: pl.DataFrame, subset: ReportTable, number: int) -> pl.DataFrame:
    """The rows with a subset's decision about each: `keep` and `reason`, with its number."""
    shards = rows["shard"].unique().to_list()
    by_name = dict(zip((header.shard for header in subset.headers), subset.files, strict=True))
    files = list(subset.files)
    if not subset.path.is_file():
        files = [by_name[shard] for shard in shards if shard in by_name]
    keep, reason = f"keep{number}", f"reason{number}"
    if not files:
        nothing = {keep: pl.lit(None, pl.Boolean), reason: pl.lit(None, pl.String)}
        return rows.with_columns(**nothing)
    frames = tables.read_frames(files, ("key", "shard", "keep", "reason"))
    decisions = (
        pl.concat(frame.filter(pl.col("shard").is_in(shards)) for frame in frames)
        .rename({"keep": keep, "reason": reason})
        .with_columns(sections.nth_of_key())
    )
    return rows.join(decisions, on=["shard", "key", "nth"], how="left", maintain_order="left")


def _capability(name: str, tallies: list[RatingTally]) -> sections.Shares:
    counts = [tally.ratings.get(name, Counter()) for tally in tallies]
    ratings = [*range(6), *([None] if any(found[None] for found in counts) else [])]
    means = (tally.mean(name) for tally in tallies)
    note = ", ".join("-" if mean is None else f"{mean:.2f}" for mean in means)
    labels = {rating: "null" if rating is None else str(rating) for rating in ratings}
    return _shares(name, tallies, counts, labels, note)


def _most_frequent(
    title: str, tallies: list[RatingTally], counts: list[Counter[str]]
) -> sections.Shares:
    """The most frequent names of the pool; the number of those left out is said."""
    labels = list(sections.most_first(counts[0]))[:_MOST_NAMES]
    left = len(counts[0]) - len(labels)
    note = f"and {left:,} more" if left else ""
    return _shares(title, tallies, counts, dict(zip(labels, labels, strict=True)), note)


def _shares(
    title: str,
    tallies: list[RatingTally],
    counts: Sequence[Counter[Any]],
    labels: dict[Any, str],
    note: str,
) -> sections.Shares:
    return sections.Shares(
        title=title,
        labels=list(labels.values()),
        names=[tally.name for tally in tallies],
        counts=[[found[value] for value in labels] for found in counts],
        totals=[tally.rows for tally in tallies],
        note=note,
    )
