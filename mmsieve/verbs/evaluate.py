"""evaluate: models against labelled texts, or two tables against each other -> metrics.json."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter

from mmsieve.engine.annotator import RunnerOptions, check, estimate_memory
from mmsieve.errors import RequestError
from mmsieve.evaluation import comparing
from mmsieve.evaluation.agreement import Agreement, AgreementOptions, compare_tables
from mmsieve.evaluation.metrics import Bootstrap, Metrics, check_installed
from mmsieve.evaluation.printed import agreement_table, model_tables, render, status_counts
from mmsieve.generation.files import read_training_file
from mmsieve.keywords import flat_options
from mmsieve.leftovers import remove
from mmsieve.locks import writing_to
from mmsieve.methods.load import load_annotator
from mmsieve.methods.unifilter.annotator import ScoringOptions
from mmsieve.options import (
    INPUT,
    MODEL,
    RUN,
    BatchTokens,
    CommonOptions,
    Limit,
    NotNegative,
    Out,
    Positive,
    Workers,
)
from mmsieve.outputs import check_folder, make_folder, write_atomically, write_text
from mmsieve.reports import Report, timed
from mmsieve.runs import note_facts
from mmsieve.stores.paths import place_of
from mmsieve.tables import notes_of_unfinished, open_tables
from mmsieve.wording import counted

METRICS, PREDICTIONS = "metrics.json", "predictions.parquet"


@Parameter(name="*", group=RUN)
@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(CommonOptions):
    """How an evaluation is carried out."""

    images: Annotated[Path | None, Parameter(group=INPUT)] = None
    """Folder that the image paths are relative to; by default that of the file."""
    workers: Workers = 0
    batch_tokens: BatchTokens = None
    limit: Limit = None
    resamples: Positive = 1000
    """Draws of images that the intervals are made of."""
    seed: NotNegative = 0
    """Of those draws, and of the half of the images that thresholds are fitted on."""


@dataclass(frozen=True, kw_only=True)
class EvaluateReport(Report):
    """How an evaluation went."""

    models: dict[str, comparing.Measured] = field(default_factory=dict)
    """Model -> its numbers; the others are compared with the first."""
    agreement: Agreement | None = None
    """Of two tables, where those were given."""

    @property
    def overall(self) -> Metrics | None:
        """The first model's numbers over all texts; None where there are none."""
        return next((one.overall for one in self.models.values()), None)

    @property
    def by_kind(self) -> dict[str, Metrics]:
        """The first model's numbers over captions and over documents."""
        return next((one.by_kind for one in self.models.values()), {})

    @property
    def statuses(self) -> dict[str, int]:
        """How many texts have each status with the first model."""
        return next((one.statuses for one in self.models.values()), {})

    @property
    def achieved_nothing(self) -> bool:
        """Whether there were texts, and none could be measured."""
        return bool(self.models) and self.overall is None

    def lines(self) -> list[str]:
        """The numbers as tables, and the notes."""
        found = self.agreement
        parts = model_tables(self.models) if found is None else agreement_table(found)
        return [*(render([*parts, ""]) if parts else []), *self.notes]

    def counts(self) -> str:
        """Texts by status, or compared samples."""
        if self.agreement is not None:
            return f"{counted(self.agreement.count, 'samples')} compared"
        return status_counts(self.models) or "nothing"


@flat_options
@timed
def evaluate(
    *tables: str,
    model: Annotated[Sequence[str], Parameter(negative="", show_default=False, group=MODEL)] = (),
    data: Annotated[Path | None, Parameter(group=INPUT)] = None,
    out: Out,
    scoring: ScoringOptions | None = None,
    run: EvaluateOptions | None = None,
    agreement: AgreementOptions | None = None,
) -> EvaluateReport:
    """Compare models' scores with the levels of labelled texts, or two tables with each other.

    With --model and --data: every number with its 95% interval; with several models also their
    differences to the first. Writes metrics.json, and predictions.parquet with every text's score.
    With two TABLEs: how far their scores agree on the samples that are ok in both.

    Parameters
    ----------
    tables
        Two folders of tables, or Parquet files, to compare with each other.
    model
        A bundled model (see `models`), a checkpoint's folder, or its Hugging Face id. May be
        given several times.
    data
        A training file: a JSON list of {"image": ..., "text": ..., "label": 0-3}.
    out
        Folder of metrics.json.
    """
    options, out = run or EvaluateOptions(), place_of(out)
    models = [model] if isinstance(model, str) else [str(each) for each in model]
    check_folder(out)
    check_installed()
    if tables:
        if models or data is not None:
            raise RequestError("give two TABLEs, or --model and --data: not both")
        with writing_to(out, "evaluate", wait=options.wait, dry_run=options.dry_run):
            return _evaluate_tables(tables, out, agreement or AgreementOptions(), options)
    if not models or data is None:
        raise RequestError("give --model and --data, or two TABLEs to compare with each other")
    if agreement is not None and agreement != AgreementOptions():
        raise RequestError("--by and --on are for two TABLEs, not for --model and --data")
    with writing_to(out, "evaluate", wait=options.wait, dry_run=options.dry_run):
        return _evaluate_models(models, Path(data), out, scoring, options)


def _evaluate_models(
    models: Sequence[str],
    data: Path,
    out: Path,
    scoring: ScoringOptions | None,
    options: EvaluateOptions,
) -> EvaluateReport:
    records, left_out = read_training_file(data, comparing.parse_level)
    records = records[: options.limit]
    if not records:
        raise RequestError(f"{data}: no texts in it")
    names = _names(models)
    annotators = {name: load_annotator(given, scoring) for name, given in names.items()}
    texts = comparing.LabelledTexts(records, options.images or data.parent)
    texts.check_scores(annotators)
    used = [
        f"{name}: {note}" if len(names) > 1 else note
        for name, annotator in annotators.items()
        for note in annotator.notes
    ]
    if options.dry_run:
        note = f"would evaluate {counted(len(records), 'texts')} of {data} with {', '.join(names)}"
        found = {
            name: estimate_memory(one, RunnerOptions(one.device, options.batch_tokens))
            for name, one in annotators.items()
        }
        used += [f"{name}: {memory.line}" for name, memory in found.items() if memory is not None]
        return EvaluateReport(out=out, dry_run=True, notes=(*used, note))
    note_facts(fingerprint={name: annotator.fingerprint for name, annotator in annotators.items()})
    for annotator in annotators.values():
        check(annotator, RunnerOptions(annotator.device, options.batch_tokens))
    scored = {}
    for name, annotator in annotators.items():
        label = "evaluate" if len(names) == 1 else f"evaluate {name}"
        scored[name] = comparing.score_texts(
            label, annotator, texts, options.workers, options.batch_tokens, options.quiet
        )
    comparison = comparing.compare(texts, scored, Bootstrap(options.resamples, options.seed))
    origins = {
        name: {"model": given, "fingerprint": annotators[name].fingerprint}
        for name, given in names.items()
    }
    units = len(np.unique(texts.units[comparison.is_measured]))
    made = {
        "data": str(data),
        "texts": int(comparison.is_measured.sum()),
        "units": units,
        "texts_fitted": int(comparison.is_fitted.sum()),
        "resamples": options.resamples,
        "seed": options.seed,
    }
    remove(out / METRICS)  # or those of another evaluation would stand beside these predictions
    write_atomically(out / PREDICTIONS, comparing.predictions(texts, comparison).write_parquet)
    _write(out, comparison.as_dict(origins) | made)
    if left_out:
        first = f"record {left_out[0].index}: {left_out[0].reason}"
        used.append(f"{data}: {counted(len(left_out), 'records')} left out ({first})")
    for name, one in scored.items():
        used += (f"{name}: {why}" if len(names) > 1 else why for why in one.reasons())
    notes = (*used, *comparison.notes, *comparison.notes_of_intervals(units, options.resamples))
    return EvaluateReport(out=out, models=comparison.models, notes=notes)


def _evaluate_tables(
    tables: Sequence[str], out: Path, wanted: AgreementOptions, options: EvaluateOptions
) -> EvaluateReport:
    if len(tables) != 2:
        raise RequestError(f"{len(tables)} TABLE given: two can be compared with each other")
    first, second = open_tables(tables)
    if options.dry_run:
        rows = f"{counted(first.rows, 'rows')} of {first.path} and {second.rows:,} of {second.path}"
        return EvaluateReport(out=out, dry_run=True, notes=(f"would compare {rows}",))
    found = compare_tables(first, second, wanted)
    _write(out, asdict(found))
    notes = tuple(notes_of_unfinished([first, second]))
    return EvaluateReport(out=out, agreement=found, notes=notes)


def _names(models: Sequence[str]) -> dict[str, str]:
    """A short name for each model: of a folder only its own, with a number where it comes twice."""
    names: dict[str, str] = {}
    for given in models:
        method, colon, model = given.rpartition(":")
        folder = Path(model).expanduser()
        name = f"{method}{colon}{folder.resolve().name}" if folder.is_dir() else given
        numbered = chain([name], (f"{name} {number}" for number in count(2)))
        names[next(each for each in numbered if each not in names)] = given
    return names


def _write(out: Path, values: dict[str, Any]) -> None:
    make_folder(out)
    write_text(out / METRICS, json.dumps(values, indent=2, allow_nan=False) + "\n")
