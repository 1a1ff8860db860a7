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

KIND = "ratings"
_MOST_NAMES = 12
_COMMON = ("key", "shard", "status", "error")
_STYLES, _SOURCE = "styles", "image_source"


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
    subsets = request.beside(table, DECISIONS)
    tallies = [RatingTally(name) for name in ("pool", *(subset.name for subset in subsets))]

    def rows() -> Iterator[pl.DataFrame]:
        for frame in sections.read_rows(table.files, sections.typed(types)):
            extra = [] if _STYLES in schema else [pl.lit(None, pl.List(pl.String)).alias(_STYLES)]
            found = frame.with_columns(pl.col("status").alias("what"), *extra)
            for number, subset in enumerate(subsets):
                found = _with_decisions(found, subset, number)
            yield found

    def add(found: pl.DataFrame) -> None:
        tallies[0].add(found, capabilities)
        for number, tally in enumerate(tallies[1:]):
            tally.add(found.filter(f"keep{number}"), capabilities)

    groups, subset_of = _groups([subset.name for subset in subsets])
    gallery = sections.Gallery(groups, request.gallery)
    counts = sections.count_rows(rows(), gallery, add)
    return RatingNumbers(
        rows=tallies[0].rows,
        counts=counts,
        capabilities=[_capability(name, tallies) for name in capabilities],
        styles=_most_frequent("Styles", tallies, [tally.styles for tally in tallies]),
        sources=_most_frequent("Image sources", tallies, [tally.sources for tally in tallies]),
        groups=gallery.groups(lambda title, row: _shown(row, subset_of.get(title), capabilities)),
    )


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
    row: dict[str, Any], subset: int | None, capabilities: list[str]
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
        marks=(tuple(f"{name} {rated[name]}" for name in order), tuple(row[_STYLES] or ())),
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
