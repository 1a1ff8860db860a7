"""rate: instruction samples -> a table of ratings and styles, one file per shard."""

from dataclasses import replace
from pathlib import Path

from mmsieve.engine.run import RunOptions, RunReport, run_annotator
from mmsieve.methods.load import load_raters
from mmsieve.methods.mmssr.annotator import RatingOptions
from mmsieve.read import ReadOptions


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
    return run_annotator(
        lambda device: load_raters(model, replace(asked, device=device)),
        sources,
        Path(out),
        device=asked.device,
        read=replace(read or ReadOptions(), kinds=("instruction",)),
        run=run or RunOptions(),
    )
