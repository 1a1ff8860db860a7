"""evaluate: models against labelled texts, or two tables against each other -> metrics.json."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from mmsieve.engine.annotator import QualityAnnotator
from mmsieve.errors import RequestError
from mmsieve.evaluation.agreement import Agreement, AgreementOptions, compare_tables
from mmsieve.evaluation.comparing import (
    SCORE,
    Comparison,
    Measured,
    ScoreOptions,
    Texts,
    compare,
    predictions,
    score_texts,
)
from mmsieve.evaluation.metrics import Bootstrap, Metrics
from mmsieve.evaluation.printed import agreement_table, model_tables, render
from mmsieve.generation.files import TrainingRecord, read_training_file
from mmsieve.labels import LEVELS
from mmsieve.methods.load import load_annotator
from mmsieve.methods.unifilter.annotator import ScoringOptions
from mmsieve.outputs import check_folder, make_folder, write_atomically, write_text
from mmsieve.tables import notes_of_unfinished, open_tables

METRICS, PREDICTIONS = "metrics.json", "predictions.parquet"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """How an evaluation is carried out."""

    images: Path | None = None
    """Folder that the image paths are relative to; by default that of the file."""
    workers: int = 0
    """Processes that decode and tokenise (0: in the main one)."""
    batch_tokens: int | None = None
    """Tokens of a batch, those of images included; by default what suits the device."""
    limit: int | None = None
    """Evaluate the first so many texts."""
    resamples: int = 1000
    """Draws of images that the intervals are made of."""
    seed: int = 0
    """Of those draws, and of the half of the images that thresholds are fitted on."""
    dry_run: bool = False
    """Check the request, say what would be evaluated, and stop."""
    quiet: bool = False
    """No progress; only the table."""


@dataclass(frozen=True, kw_only=True)
class EvaluateReport:
    """How an evaluation went."""

    out: Path
    seconds: float
    models: dict[str, Measured] = field(default_factory=dict)
    """Model -> its numbers; the others are compared with the first."""
    agreement: Agreement | None = None
    """Of two tables, where those were given."""
    notes: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    """Always empty: a text that can't be scored is counted in `statuses`."""

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

    def summary(self) -> str:
        """The numbers, the last line with counts, seconds and the output's path."""
        parts = model_tables(self.models)
        if self.agreement is not None:
            parts = agreement_table(self.agreement)
        printed = [render([*parts, ""])] if parts else []
        counts = "; ".join(_counts(self.models)) or "nothing"
        if self.agreement is not None:
            counts = f"{self.agreement.count:,} samples compared"
        return "\n".join([*printed, *self.notes, f"{counts} in {self.seconds:.1f} s: {self.out}"])


def evaluate(
    *tables: str,
    model: Annotated[Sequence[str], Parameter(negative="", show_default=False)] = (),
    data: Path | None = None,
    out: Path,
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
    started = time.monotonic()
    options, out = run or EvaluateOptions(), Path(out)
    models = [model] if isinstance(model, str) else [str(each) for each in model]
    _check(options, out)
    if tables:
        if models or data is not None:
            raise RequestError("give two TABLEs, or --model and --data: not both")
        return _evaluate_tables(tables, out, agreement or AgreementOptions(), options, started)
    if not models or data is None:
        raise RequestError("give --model and --data, or two TABLEs to compare with each other")
    if agreement is not None and agreement != AgreementOptions():
        raise RequestError("--by and --on are for two TABLEs, not for --model and --data")
    return _evaluate_models(models, Path(data), out, scoring, options, started)


def _check(options: EvaluateOptions, out: Path) -> None:
    """Refuse what can't be meant, from the request alone."""
    least = {"limit": 1, "batch_tokens": 1, "workers": 0, "resamples": 1, "seed": 0}
    for name, lowest in least.items():
        value = getattr(options, name)
        if value is not None and value < lowest:
            raise RequestError(f"--{name.replace('_', '-')} {value}: must be at least {lowest}")
    check_folder(out)


def _evaluate_models(
    models: Sequence[str],
    data: Path,
    out: Path,
    scoring: ScoringOptions | None,
    options: EvaluateOptions,
    started: float,
) -> EvaluateReport:
    records = read_training_file(data)[: options.limit]
    _check_labels(records, data)
    names = _names(models)
    annotators = {name: load_annotator(given, scoring) for name, given in names.items()}
    texts = Texts(records, options.images or data.parent)
    _check_scores(annotators, texts)
    if options.dry_run:
        note = f"would evaluate {len(records):,} texts of {data} with {', '.join(names)}"
        return EvaluateReport(out=out, seconds=time.monotonic() - started, notes=(note,))
    scored = {}
    for name, annotator in annotators.items():
        how = ScoreOptions(annotator.device, options.workers, options.batch_tokens, options.quiet)
        label = "evaluate" if len(names) == 1 else f"evaluate {name}"
        scored[name] = score_texts(label, annotator, texts, how)
    comparison = compare(texts, scored, Bootstrap(options.resamples, options.seed))
    origins = {
        name: {"model": given, "fingerprint": annotators[name].fingerprint}
        for name, given in names.items()
    }
    units = texts.count_units(comparison.is_measured)
    made = {
        "data": str(data),
        "texts": int(comparison.is_measured.sum()),
        "units": units,
        "texts_fitted": int(comparison.is_fitted.sum()),
        "resamples": options.resamples,
        "seed": options.seed,
    }
    _write(out, _values(comparison, origins) | made)
    write_atomically(out / PREDICTIONS, predictions(texts, comparison).write_parquet)
    return EvaluateReport(
        out=out,
        seconds=time.monotonic() - started,
        models=comparison.models,
        notes=(*comparison.notes, *_notes(comparison, units, options)),
    )


def _notes(comparison: Comparison, units: int, options: EvaluateOptions) -> list[str]:
    """What the intervals mean."""
    if not units:
        return []
    if units == 1:
        return ["no intervals: all texts share images"]
    notes = [
        f"intervals: 95%, from {options.resamples:,} draws of {units:,} images or sets of images, "
        "each with all of its texts"
    ]
    faultless = [
        n for n, one in comparison.models.items() if one.overall and one.overall.accuracy == 1
    ]
    if faultless:
        notes.append(
            f"{', '.join(faultless)}: no error in {units:,} of them, so the share with one may "
            f"still be up to {min(1, 3 / units):.1%}"
        )
    return notes


def _evaluate_tables(
    tables: Sequence[str],
    out: Path,
    wanted: AgreementOptions,
    options: EvaluateOptions,
    started: float,
) -> EvaluateReport:
    if len(tables) != 2:
        raise RequestError(f"{len(tables)} TABLE given: two can be compared with each other")
    first, second = open_tables(tables)
    if options.dry_run:
        rows = f"{first.rows:,} rows of {first.path} and {second.rows:,} of {second.path}"
        note = f"would compare {rows}"
        return EvaluateReport(out=out, seconds=time.monotonic() - started, notes=(note,))
    found = compare_tables(first, second, wanted)
    _write(out, asdict(found))
    return EvaluateReport(
        out=out,
        seconds=time.monotonic() - started,
        agreement=found,
        notes=tuple(notes_of_unfinished([first, second])),
    )


def _names(models: Sequence[str]) -> dict[str, str]:
    """A short name for each model: of a folder only its own, with a number where it comes twice."""
    names: dict[str, str] = {}
    for given in models:
        method, colon, model = given.rpartition(":")
        folder = Path(model).expanduser()
        name = f"{method}{colon}{folder.resolve().name}" if folder.is_dir() else given
        unique, count = name, 1
        while unique in names:
            count += 1
            unique = f"{name} {count}"
        names[unique] = given
    return names


def _check_labels(texts: Sequence[TrainingRecord], data: Path) -> None:
    if not texts:
        raise RequestError(f"{data}: no texts in it")
    for index, text in enumerate(texts):
        if text.label not in LEVELS:
            raise RequestError(f"{data}: {index}: label {text.label:g} is not a level 0-3")


def _check_scores(annotators: Mapping[str, QualityAnnotator], texts: Texts) -> None:
    for name, annotator in annotators.items():
        if SCORE not in annotator.schema.names:
            columns = ", ".join(annotator.schema.names)
            raise RequestError(f"model {name} gives no {SCORE} to evaluate, only {columns}")
        if not annotator.score_is_level and len(set(texts.units.tolist())) < 2:
            raise RequestError(
                f"the scores of {name} aren't levels, and thresholds are fitted on one half of the "
                "images: give texts over at least 2 images that they don't share"
            )


def _counts(models: Mapping[str, Measured]) -> list[str]:
    """How many texts have which status; once where all models agree."""
    lines = {
        name: ", ".join(f"{count:,} {status}" for status, count in sorted(one.statuses.items()))
        for name, one in models.items()
    }
    if len(set(lines.values())) == 1:
        return list(lines.values())[:1]
    return [f"{name}: {line}" for name, line in lines.items()]


def _values(comparison: Comparison, origins: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What metrics.json holds: one model's numbers at the top, several under `models`."""
    models = {name: one.as_dict() | origins[name] for name, one in comparison.models.items()}
    if len(models) == 1:
        return next(iter(models.values()))
    first, *others = comparison.models
    differences = {
        name: {key: asdict(one) for key, one in comparison.models[name].differences.items()}
        for name in others
    }
    return {"models": models, "reference": first, "differences": differences}


def _write(out: Path, values: dict[str, Any]) -> None:
    make_folder(out)
    write_text(out / METRICS, json.dumps(values, indent=2, allow_nan=False) + "\n")
