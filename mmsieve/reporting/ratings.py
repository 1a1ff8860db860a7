"""Rating tables: each capability's ratings, the styles and sources, in the pool and in subsets."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from mmsieve.decisions import KIND as DECISIONS
from mmsieve.errors import RequestError, Status
from mmsieve.reporting.charts import Shares
from mmsieve.reporting.inputs import Judged
from mmsieve.reporting.samples import (
    FAILED,
    Draw,
    Groups,
    Request,
    Shown,
    Types,
    frames,
    most_first,
    nth_of_key,
)
from mmsieve.tables import scan_files

KIND = "ratings"
_RATINGS = range(6)
_MOST_NAMES = 12
_COMMON: Types = {"key": pl.String, "shard": pl.String, "status": pl.String, "error": pl.String}
_STYLES, _SOURCE = "styles", "image_source"


@dataclass
class Tally:
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
            self.ratings.setdefault(name, Counter()).update(_counted(rows[name]))
        self.styles.update(_counted(rows[_STYLES].explode().drop_nulls()))
        self.sources.update(_counted(rows[_SOURCE].fill_null("(none)")))

    def mean(self, capability: str) -> float | None:
        """The mean rating of the samples that have one."""
        found = {r: n for r, n in self.ratings.get(capability, {}).items() if r is not None}
        count = sum(found.values())
        return sum(r * n for r, n in found.items()) / count if count else None


@dataclass(frozen=True)
class Ratings:
    """What is said of a rating table."""

    rows: int
    counts: dict[str, int]
    """Status -> samples."""
    capabilities: list[Shares]
    styles: Shares
    sources: Shares
    groups: Groups
    template: str = "ratings.html.j2"


def count(judged: Judged, request: Request) -> Ratings:
    """The numbers of a rating table, beside those of decisions about the same samples."""
    schema = scan_files(judged.files[:1]).collect_schema()
    capabilities = [name for name, type_ in schema.items() if type_ == pl.Int8]
    if not capabilities:
        raise RequestError(f"{judged.path}: holds no ratings, there is no column of int8")
    styles: Types = {_STYLES: pl.List(pl.String)} if _STYLES in schema else {}
    ratings = dict.fromkeys(capabilities, pl.Int8)
    types: Types = {**_COMMON, **ratings, **styles, _SOURCE: pl.String}
    subsets = request.beside(judged, DECISIONS)
    tallies = [Tally("pool"), *(Tally(subset.name) for subset in subsets)]
    statuses: Counter[str] = Counter()
    gallery = _Gallery(capabilities, [subset.name for subset in subsets], request.gallery)
    for frame in frames(judged, types):
        rows = frame if _STYLES in schema else frame.with_columns(_no_styles())
        for number, subset in enumerate(subsets):
            rows = _decided(rows, subset, number)
        statuses.update(_counted(rows["status"]))
        tallies[0].add(rows, capabilities)
        for number, tally in enumerate(tallies[1:]):
            tally.add(rows.filter(f"keep{number}"), capabilities)
        gallery.add(rows)
    return Ratings(
        rows=tallies[0].rows,
        counts=most_first(statuses),
        capabilities=[_capability(name, tallies) for name in capabilities],
        styles=_shares("Styles", tallies, [tally.styles for tally in tallies]),
        sources=_shares("Image sources", tallies, [tally.sources for tally in tallies]),
        groups=gallery.groups(),
    )


class _Gallery:
    """Samples of each subset and of what it leaves; without a subset, of the whole table."""

    def __init__(self, capabilities: list[str], subsets: list[str], most: int) -> None:
        self._capabilities = capabilities
        self._draws: list[tuple[str, pl.Expr, int | None, Draw]] = []
        """Title, which rows, number of the subset, and what was drawn."""
        is_ok = pl.col("status") == Status.OK
        for number, name in enumerate(subsets):
            keep = pl.col(f"keep{number}")
            self._draws.append((f"Kept in {name}", keep, number, Draw(most)))
            self._draws.append((f"Not kept in {name}", ~keep & is_ok, number, Draw(most)))
        if not subsets:
            self._draws.append(("Samples", is_ok, None, Draw(most)))
        self._draws.append((FAILED, ~is_ok, None, Draw(most)))

    def add(self, rows: pl.DataFrame) -> None:
        for _, which, _, draw in self._draws:
            draw.add(rows.filter(which))

    def groups(self) -> Groups:
        drawn = {
            title: [self._shown(row, number) for row in draw.rows()]
            for title, _, number, draw in self._draws
        }
        return {title: shown for title, shown in drawn.items() if shown}

    def _shown(self, row: dict[str, Any], subset: int | None) -> Shown:
        failed = row["status"] if row["status"] != Status.OK else None
        rated = {name: row[name] for name in self._capabilities if row[name]}
        order = sorted(rated, key=lambda name: -rated[name])
        return Shown(
            key=row["key"],
            shard=row["shard"],
            keep=None if subset is None else row[f"keep{subset}"],
            reason=failed if subset is None else row[f"reason{subset}"],
            error=row["error"],
            marks=(tuple(f"{name} {rated[name]}" for name in order), tuple(row[_STYLES] or ())),
        )


def _decided(rows: pl.DataFrame, subset: Judged, number: int) -> pl.DataFrame:
    """The rows with what a subset decided about each: `keep` and `reason`, with its number."""
    shards = rows["shard"].unique().to_list()
    by_name = {
        header.shard: file for header, file in zip(subset.headers, subset.files, strict=True)
    }
    files = (
        list(subset.files)
        if subset.path.is_file()
        else [by_name[shard] for shard in shards if shard in by_name]
    )
    keep, reason = f"keep{number}", f"reason{number}"
    if not files:
        return rows.with_columns(
            pl.lit(None, pl.Boolean).alias(keep), pl.lit(None, pl.String).alias(reason)
        )
    decided = (
        scan_files(files)
        .filter(pl.col("shard").is_in(shards))
        .select("key", "shard", pl.col("keep").alias(keep), pl.col("reason").alias(reason))
        .with_columns(nth=nth_of_key())
        .collect()
    )
    return rows.join(decided, on=["shard", "key", "nth"], how="left", maintain_order="left")


def _capability(name: str, tallies: list[Tally]) -> Shares:
    """How the ratings of one capability are spread; None only where there is any."""
    counts = [tally.ratings.get(name, Counter()) for tally in tallies]
    ratings = [*_RATINGS, *([None] if any(found[None] for found in counts) else [])]
    means = (tally.mean(name) for tally in tallies)
    return Shares(
        title=name,
        labels=["null" if rating is None else str(rating) for rating in ratings],
        names=[tally.name for tally in tallies],
        counts=[[found[rating] for rating in ratings] for found in counts],
        totals=[tally.rows for tally in tallies],
        note=", ".join("-" if mean is None else f"{mean:.2f}" for mean in means),
    )


def _shares(title: str, tallies: list[Tally], counts: list[Counter[str]]) -> Shares:
    """The most frequent names of the pool; the number of those left out is said."""
    labels = list(most_first(counts[0]))[:_MOST_NAMES]
    left = len(counts[0]) - len(labels)
    return Shares(
        title=title,
        labels=labels,
        names=[tally.name for tally in tallies],
        counts=[[found[label] for label in labels] for found in counts],
        totals=[tally.rows for tally in tallies],
        note=f"and {left:,} more" if left else "",
    )


def _counted(values: pl.Series) -> dict[Any, int]:
    return dict(values.value_counts(name="samples").iter_rows())


def _no_styles() -> pl.Expr:
    return pl.lit(None, pl.List(pl.String)).alias(_STYLES)
