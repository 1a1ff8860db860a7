"""score: captions and documents -> a quality table, one file per shard."""

from dataclasses import replace
from pathlib import Path

from mmsieve.engine.run import RunOptions, RunReport, run_annotator
from mmsieve.methods.load import load_annotator
from mmsieve.methods.unifilter.annotator import ScoringOptions
from mmsieve.read import ReadOptions


def score(
    *sources: str,
    model: str,
    out: Path,
    scoring: ScoringOptions | None = None,
    read: ReadOptions | None = None,
    run: RunOptions | None = None,
) -> RunReport:
    """Score the quality of captions and documents.

    Parameters
    ----------
    sources
        Paths, globs, brace patterns, folders or URLs of shards.
    model
        A bundled model (see `models`), a checkpoint's folder, or its Hugging Face id (owner/name);
        or to compare with: `clip:MODEL`, the similarity of a CLIP or SigLIP; `rules`, DataComp's
        basic filter; `text-only:MODEL` and `image-only:MODEL`, a classifier shown one side; or
        NAME:MODEL, where NAME is an installed plug-in's (see `models`).
    out
        Folder of the table: one Parquet file per shard.
    """
    asked = scoring or ScoringOptions()
    return run_annotator(
        lambda device: load_annotator(model, replace(asked, device=device)),
        sources,
        Path(out),
        device=asked.device,
        read=replace(read or ReadOptions(), kinds=("caption", "document"), needs_text=True),
        run=run or RunOptions(),
    )
