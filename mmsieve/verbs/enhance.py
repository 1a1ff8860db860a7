"""enhance: captions -> an assessment table with scores and better captions, a file per shard."""

from dataclasses import replace

from mmsieve.engine.run import RunOptions, RunReport, run_annotator
from mmsieve.keywords import flat_options
from mmsieve.methods.aitqe.annotator import EnhanceOptions
from mmsieve.methods.load import load_assessor
from mmsieve.methods.unifilter.annotator import ScoringOptions
from mmsieve.options import Model, Out
from mmsieve.read import ReadOptions
from mmsieve.reporting.assessments import summarise
from mmsieve.reports import timed
from mmsieve.stores.paths import place_of


@flat_options
@timed
def enhance(
    *sources: str,
    model: Model,
    out: Out,
    enhancing: EnhanceOptions | None = None,
    scoring: ScoringOptions | None = None,
    read: ReadOptions | None = None,
    run: RunOptions | None = None,
) -> RunReport:
    """Judge captions, and rewrite only the poor ones; every image stays.

    Parameters
    ----------
    sources
        Paths, globs, brace patterns, folders or URLs of shards of caption pairs.
    model
        A bundled model (see `models`), an AITQE checkpoint's folder, or its Hugging Face id; or
        `endpoint:URL#NAME`, a model on a server that speaks OpenAI's chat completions (its key,
        if it wants one, in MMSIEVE_ENDPOINT_KEY).
    out
        Folder of the table: one Parquet file per shard.
    """
    asked, running = scoring or ScoringOptions(), run or RunOptions()
    report = run_annotator(
        lambda device: load_assessor(model, enhancing, replace(asked, device=device)),
        sources,
        place_of(out),
        device=asked.device,
        read=replace(read or ReadOptions(), kinds=("caption",)),
        run=running,
    )
    if running.dry_run:
        return report
    return replace(report, notes=(*report.notes, *summarise(place_of(out)).lines()))
