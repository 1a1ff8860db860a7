"""score: captions and documents -> a quality table, one file per shard."""

from dataclasses import replace
from typing import Annotated

from cyclopts import Parameter

from mmsieve.engine.run import RunOptions, RunReport, run_annotator
from mmsieve.exporting.published_scores import PublishedScores
from mmsieve.keywords import flat_options
from mmsieve.methods.load import kinds_of, load_annotator
from mmsieve.methods.mlm_filter.annotator import MlmFilterOptions
from mmsieve.methods.unifilter.annotator import ScoringOptions
from mmsieve.options import OUTPUT, Model, Out
from mmsieve.read import ReadOptions
from mmsieve.reports import timed
from mmsieve.stores.paths import place_of


@flat_options
@timed
def score(
    *sources: str,
    model: Model,
    out: Out,
    scoring: ScoringOptions | None = None,
    mlm_filter: MlmFilterOptions | None = None,
    read: ReadOptions | None = None,
    run: RunOptions | None = None,
    also_published_layout: Annotated[bool, Parameter(group=OUTPUT)] = False,
) -> RunReport:
    """Score the quality of captions and documents.

    Parameters
    ----------
    sources
        Paths, globs, brace patterns, folders or URLs of shards.
    model
        A bundled model (see `models`), a checkpoint's folder, or its Hugging Face id (owner/name);
        or to compare with: `clip:MODEL`, the similarity of a CLIP or SigLIP; `rules`, DataComp's
        basic filter; `text-only:MODEL` and `image-only:MODEL`, a classifier shown one side;
        `mlm-filter:endpoint:URL#NAME`, MLM-Filter's four metrics of captions by a model on a
        server (its key, if it wants one, in MMSIEVE_ENDPOINT_KEY); or NAME:MODEL, where NAME is
        an installed plug-in's (see `models`).
    out
        Folder of the table: one Parquet file per shard.
    also_published_layout
        Write NNNNNNNN_quality_score.parquet beside each tar too, as the published scorers do: a
        caption's json fields and its score, or a document's key and score.
    """
    asked = scoring or ScoringOptions()
    return run_annotator(
        lambda device: load_annotator(model, replace(asked, device=device), mlm_filter),
        sources,
        place_of(out),
        device=asked.device,
        read=replace(read or ReadOptions(), kinds=kinds_of(str(model)), needs_text=True),
        run=run or RunOptions(),
        sidecars=PublishedScores((run or RunOptions()).overwrite)
        if also_published_layout
        else None,
    )
