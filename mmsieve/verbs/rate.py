"""rate: instruction samples -> a table of ratings and styles, one file per shard."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import polars as pl

from mmsieve.engine.run import RunOptions, RunReport, run_annotator
from mmsieve.errors import Status
from mmsieve.keywords import flat_options
from mmsieve.methods.load import load_raters
from mmsieve.methods.mmssr.annotator import RatingOptions
from mmsieve.options import Model, Out
from mmsieve.read import ReadOptions
from mmsieve.reports import timed
from mmsieve.stores.paths import place_of
from mmsieve.tables import read_frames, table_files


@flat_options
@timed
def rate(
    *sources: str,
    model: Model,
    out: Out,
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
        The scorer: a bundled model (see `models`), a checkpoint's folder, or its Hugging Face id;
        or `endpoint:URL#NAME`, a model on a server (its key, if it wants one, in
        MMSIEVE_ENDPOINT_KEY), with `--like` the model that it serves.
    out
        Folder of the table: one Parquet file per shard.
    """
    asked = rating or RatingOptions()
    report = run_annotator(
        lambda device: load_raters(model, replace(asked, device=device)),
        sources,
        place_of(out),
        device=asked.device,
        read=replace(read or ReadOptions(), kinds=("instruction",)),
        run=run or RunOptions(),
    )
    return replace(report, notes=(*report.notes, *_notes_of_sources(report)))


def _notes_of_sources(report: RunReport) -> Iterator[str]:
    """What a user should know where `select` can't tell the rows by their sources."""
    counts: Counter[str | None] = Counter()
    files = table_files(report.out).values() if report.rows else ()
    for rows in read_frames(files, ("status", "image_source")):
        counts.update(rows.filter(pl.col("status") == Status.OK)["image_source"])
    if len(counts) == 1 and counts.total() > 1:
        (source,) = counts
        what = (
            "no row has an image_source" if source is None else f"the only image_source is {source}"
        )
        yield f"{what}: select groups by style alone; say where it is with --source-column"
