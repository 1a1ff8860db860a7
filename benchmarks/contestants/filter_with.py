"""`filter` by polars: python -m benchmarks.contestants.filter_with TABLE... --out X

Only what the benchmark's cuts ask for, and nothing checks a request. Tables are opened, samples
named and decisions written by mmsieve: what is compared is what lies between. The rows are judged
once and kept on disk, then the thresholds found, and the rows read back.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from mmsieve.decisions import DecisionRows
from mmsieve.filtering.ids import hash_samples
from mmsieve.tables import Origins, Table, open_tables

BATCH = 1 << 17


class Polars:
    """Everything in lazy frames, collected by the streaming engine."""

    def __init__(self, tables: Sequence[Table], options: argparse.Namespace, folder: Path) -> None:
        self.tables = tables
        self.options = options
        self.folder = folder
        self.by = options.by or "quality_score"
        share = Fraction(repr(float(options.top_fraction or 1)))
        self.share = share.numerator, share.denominator

    def rows(self) -> Iterator[tuple[Origins, pl.DataFrame]]:
        """All rows with their decisions, in their order."""
        self.judge()
        is_open = self.options.top_fraction is not None and self.find_thresholds()
        ties = Pieces(self.kept_ties(self._tied()) if is_open else iter(()))
        outcomes = Pieces(self.outcomes())
        for origins, names in self.tables[0].batches(["key", "shard"]):
            rows = outcomes.take(names.height)
            if is_open and (tied := rows["tied"].is_not_null()).any():
                kept = ties.take(int(tied.sum()))["kept"].to_numpy()
                lost = np.zeros(rows.height, bool)
                lost[tied.to_numpy()] = ~kept
                outcome = pl.when(pl.Series(lost)).then(pl.lit("tie_at_cut"))
                rows = rows.with_columns(outcome.otherwise("reason").alias("reason"))
            keep = rows["reason"].is_null().alias("keep")
            yield origins, names.hstack([keep, rows["reason"], rows["score"]])

    def _tied(self) -> Iterator[pl.DataFrame]:
        outcomes = Pieces(self.outcomes())
        for _, names in self.tables[0].batches(["key", "shard"]):
            groups = outcomes.take(names.height)["tied"]
            samples = names.filter(groups.is_not_null())
            hashes = pl.Series("hash", hash_samples(samples["key"], samples["shard"]))
            yield pl.DataFrame([groups.drop_nulls().alias("grp"), hashes])

    def judge(self) -> None:
        """Rows to a file, in their order."""
        options = self.options
        rows = pl.scan_parquet([file.path for file in self.tables[0].files], glob=False)
        if len(self.tables) > 1:
            other = pl.scan_parquet([file.path for file in self.tables[1].files], glob=False)
            rows = rows.join(other, on="uid", how="left", maintain_order="left")
        value = pl.col(self.by)
        scored = value.is_not_null()
        if self.by == "quality_score":
            scored &= value.is_not_nan()
        least = np.float32(options.min_score if options.min_score is not None else -np.inf)
        where = pl.sql_expr(options.where) if options.where else pl.lit(True)
        reason = (
            pl.when(pl.col("status") != "ok")
            .then(pl.col("status"))
            .when(~where.fill_null(False))
            .then(pl.lit("where"))
            .when(~scored)
            .then(pl.lit("no_score"))
            .when(value < least)
            .then(pl.lit("below_cut"))
        )
        self.judged = self.folder / "judged.arrow"
        rows.select(
            reason.alias("reason"),
            value.cast(pl.Float32).alias("score"),
            value.alias("value"),
            (pl.col(options.per) if options.per else pl.lit(0)).alias("grp"),
        ).sink_ipc(self.judged, maintain_order=True, engine="streaming")

    def find_thresholds(self) -> bool:
        """The value of the last row that is wanted, and how many are equal to it."""
        above, below = self.share
        ranked = pl.scan_ipc(self.judged).filter(pl.col("reason").is_null()).select("grp", "value")
        counts = ranked.group_by("grp").agg(pl.len().cast(pl.Int64).alias("scored"))
        wanted = counts.with_columns(wanted=pl.col("scored") * above // below)
        value = pl.col("value")
        if self.options.per is None:
            first = wanted.collect(engine="streaming")["wanted"][0]
            at = ranked.sort("value", descending=True).slice(first - 1, 1)
        else:
            nth = pl.len().cast(pl.Int64) * above // below - 1
            at = ranked.group_by("grp").agg(value.sort(descending=True).get(nth))
        at = (
            wanted.join(at.rename({"value": "cutoff"}), on="grp").collect(engine="streaming").lazy()
        )
        self.thresholds = (
            ranked.join(at, on="grp")
            .group_by("grp")
            .agg(
                pl.col("cutoff").first(),
                ties=pl.col("wanted").first() - (value > pl.col("cutoff")).sum().cast(pl.Int64),
                equal=(value == pl.col("cutoff")).sum().cast(pl.Int64),
            )
            .collect(engine="streaming")
        )
        return bool((self.thresholds["ties"] < self.thresholds["equal"]).any())

    def outcomes(self) -> Iterator[pl.DataFrame]:
        """The rows read back beside their group's threshold."""
        rows = pl.scan_ipc(self.judged)
        if self.options.top_fraction is None:
            rows = rows.select("reason", "score", tied=pl.lit(None))
        else:
            rows = _outcome(rows, self.thresholds)
        yield from rows.collect_batches(chunk_size=BATCH, maintain_order=True, engine="streaming")

    def kept_ties(self, tied: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """The tied rows ranked by hash, then by place."""
        path = self.folder / "tied.arrow"
        frames = pl.concat([frame for frame in tied if frame.height]).with_row_index("n")
        rank = pl.struct("hash", -pl.col("n").cast(pl.Int64)).rank("ordinal", descending=True)
        (
            frames.lazy()
            .with_columns(rank=rank.over("grp"))
            .join(self.thresholds.lazy(), on="grp", how="left", maintain_order="left")
            .select(kept=pl.col("rank") <= pl.col("ties"))
            .sink_ipc(path, maintain_order=True, engine="streaming")
        )
        yield from pl.scan_ipc(path).collect_batches(chunk_size=BATCH, maintain_order=True)


class Pieces:
    """Frames read so many rows at a time."""

    def __init__(self, frames: Iterator[pl.DataFrame]) -> None:
        self._frames = frames
        self._waiting: list[pl.DataFrame] = []
        self._height = 0

    def take(self, count: int) -> pl.DataFrame:
        """The next `count` rows."""
        while self._height < count:
            frame = next(self._frames)
            self._waiting.append(frame)
            self._height += frame.height
        joined = pl.concat(self._waiting)
        self._waiting, self._height = [joined.slice(count)], self._height - count
        return joined.head(count)


def _outcome(rows: pl.LazyFrame, thresholds: pl.DataFrame) -> pl.LazyFrame:
    """Judged rows by the threshold of their group."""
    value, cutoff = pl.col("value"), pl.col("cutoff")
    ranked = pl.col("reason").is_null()
    below = pl.when(ranked & (value < cutoff)).then(pl.lit("below_cut"))
    is_open = ranked & (value == cutoff) & (pl.col("ties") < pl.col("equal"))
    joined = rows.join(thresholds.lazy(), on="grp", how="left", maintain_order="left")
    tied = pl.when(is_open).then(pl.col("grp"))
    return joined.select(below.otherwise(pl.col("reason")).alias("reason"), "score", tied=tied)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--min-score", type=float)
    parser.add_argument("--top-fraction", type=float)
    for name in ("--where", "--by", "--per", "--on"):
        parser.add_argument(name)
    for name in ("--overwrite", "--quiet"):
        parser.add_argument(name, action="store_true")
    options = parser.parse_args()
    tables = open_tables(options.tables)
    with TemporaryDirectory(prefix="mmsieve-bench-") as folder:
        rows = Polars(tables, options, Path(folder)).rows()
        DecisionRows(rows, tables[0].files, {}, {}, lambda *_: None).write(options.out)


if __name__ == "__main__":
    main()
