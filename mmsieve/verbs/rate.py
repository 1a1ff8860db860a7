"""rate: instruction samples -> a table of ratings and styles, one file per shard."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl

from mmsieve.engine.run import RunOptions, RunReport, run_annotator
from mmsieve.errors import Status
from mmsieve.methods.load import load_raters
from mmsieve.methods.mmssr.annotator import RatingOptions
from mmsieve.read import ReadOptions
from mmsieve.tables import scan_files, table_files


def rate(
    *sources: str,
    model: str,
    out: Path,
    rating: RatingOptions | None = None,
    read: ReadOptions | None = None,
    run: RunOptions | None = None,
) -> RunReport:
    """Rate what instruction samples teach, and name their styles.

    Parameters
    ----------
    sources
        Paths, globs, brace patterns, folders or URLs of instruction data.
    model
        The scorer: a bundled model (see `models`), a checkpoint's folder, or its Hugging Face id.
    out
        Folder of the table: one Parquet file per shard.
    """
    asked = rating or RatingOptions()
    report = run_annotator(
        lambda device: load_raters(model, replace(asked, device=device)),
        sources,
        Path(out),
        device=asked.device,
        read=replace(read or ReadOptions(), kinds=("instruction",)),
        run=run or RunOptions(),
    )
    return replace(report, notes=(*report.notes, *_notes_of_sources(report)))


def _notes_of_sources(report: RunReport) -> Iterator[str]:
    """What a user should know where `select` can't tell the rows by their sources."""
    files = table_files(report.out) if report.rows else {}
    if not files:
        return
    rows = scan_files(list(files.values())).filter(pl.col("status") == Status.OK)
    counts = rows.group_by("image_source").len().head(2).collect()
    if counts.height == 1 and counts["len"][0] > 1:
        source = counts["image_source"][0]
        what = (
            "no row has an image_source" if source is None else f"the only image_source is {source}"
        )
        yield f"{what}: select groups by style alone; say where it is with --source-column"
