"""The numbers of a model against labelled texts, and the texts that it gets most wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import polars as pl
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from mmsieve.errors import RequestError, is_order_to_end
from mmsieve.generation.files import TrainingRecord
from mmsieve.labels import LEVEL_NAMES, LEVELS
from mmsieve.reporting.charts import LineChart, LineSeries
from mmsieve.reporting.heatmaps import HeatCell, HeatMap
from mmsieve.reporting.inputs import EvaluatedModel
from mmsieve.reporting.sections import Gallery, GalleryGroup, GallerySample, Groups
from mmsieve.stores.asking import one_line
from mmsieve.tables import open_tables
from mmsieve.validated import check_json
from mmsieve.wording import counted

_FIX = "make it again with evaluate"
_MOST = 1 << 53
_COLOURS = 5

Number: TypeAlias = Annotated[float, Field(ge=-_MOST, le=_MOST, allow_inf_nan=False)]
Count: TypeAlias = Annotated[int, Field(ge=0, le=_MOST)]


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore")


class CalibrationBin(_Read):
    """Texts of about the same score."""

    count: Count
    mean_score: Number
    mean_level: Number


class CalibrationNumbers(_Read):
    """Whether scores mean levels."""

    expected_error: Number | None = None
    bins: list[CalibrationBin] = []


class ModelNumbers(_Read):
    """What a metrics.json says of a model; what one of before lacks is empty."""

    count: Count
    accuracy: Number
    f1: Number
    precision: Number | None = None
    recall: Number | None = None
    mse: Number | None = None
    spearman: Number | None = None
    confusion: list[list[Count]]
    f1_per_level: list[Number] = []
    recall_per_level: list[Number] = []
    calibration: CalibrationNumbers | None = None
    intervals: dict[str, tuple[Number, Number] | None] = {}
    by_kind: dict[str, "ModelNumbers"] = {}
    statuses: dict[str, Count] = {}
    thresholds: list[Number] | None = None


class DifferenceNumbers(_Read):
    """A number less the first model's."""

    value: Number | None = None
    interval: tuple[Number, Number] | None = None


_MODEL, _LESS = TypeAdapter(ModelNumbers), TypeAdapter(dict[str, DifferenceNumbers])
_NUMBERS = {
    "accuracy": "accuracy",
    "precision": "precision (macro)",
    "recall": "recall (macro)",
    "f1": "F1 (macro)",
    "mse": "mean squared error",
    "spearman": "rank correlation (Spearman)",
}
"""Number -> what it is called."""


@dataclass(frozen=True)
class EvaluationNumbers:
    """What is said of a model."""

    found: ModelNumbers
    rows: list[tuple[str, list[str]]]
    """Name of a number, and its values: over all texts, and over those of each kind."""
    differences: list[tuple[str, str]]
    """Name of a number, and how far it is above the first model's."""
    confusion: HeatMap
    levels: list[tuple[str, str, str]]
    """Name of a level, recall and F1."""
    calibration: LineChart | None
    has_predictions: bool
    """Whether the texts' scores are there."""
    records: Mapping[int, TrainingRecord]
    """Place of each shown text -> it."""
    groups: Groups
    template: str = "evaluation.html.j2"


def read_evaluation(given: EvaluatedModel, gallery: int) -> EvaluationNumbers:
    """The numbers of a model; raises RequestError for what `evaluate` doesn't write."""
    found = check_json(given.file, given.values, _MODEL, _FIX)
    if any(len(row) != len(found.confusion) for row in found.confusion):
        raise RequestError(f"{given.file}: its confusion is not square: {_FIX}")
    less = check_json(given.file, dict(given.differences), _LESS, _FIX)
    kinds = list(found.by_kind.values()) if len(found.by_kind) > 1 else []
    rates = zip(found.recall_per_level, found.f1_per_level, strict=False)
    records, groups = _furthest(given, found, gallery) if gallery else ({}, {})
    return EvaluationNumbers(
        found=found,
        rows=[
            (title, [_with_interval(one, name) for one in (found, *kinds)])
            for name, title in _NUMBERS.items()
            if getattr(found, name) is not None
        ],
        differences=[(_NUMBERS.get(name, name), _difference(one)) for name, one in less.items()],
        confusion=_confusion(found.confusion),
        levels=[(_level(n), f"{recall:.3f}", f"{f1:.3f}") for n, (recall, f1) in enumerate(rates)],
        calibration=_calibration(found),
        has_predictions=given.predictions is not None,
        records=records,
        groups=groups,
    )


def _with_interval(found: ModelNumbers, name: str) -> str:
    value, interval = getattr(found, name), found.intervals.get(name)
    if value is None:
        return "-"
    return f"{value:.4f}" + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


def _difference(one: DifferenceNumbers) -> str:
    if one.value is None:
        return "-"
    within = f" ({one.interval[0]:+.3f} to {one.interval[1]:+.3f})" if one.interval else ""
    return f"{one.value:+.4f}{within}"


def _level(number: int) -> str:
    return f"{number} {LEVEL_NAMES[number]}" if number < len(LEVEL_NAMES) else str(number)


def _confusion(counts: Sequence[Sequence[int]]) -> HeatMap:
    """The confusion as a map, coloured by the share of a true level's texts."""
    cells = []
    for true, row in enumerate(counts):
        total = sum(row)
        cells.append(
            [
                HeatCell(
                    f"{n:,}",
                    f"{counted(n, 'texts')} of level {true} taken for level {taken}",
                    -(-_COLOURS * n // total) if total else 0,
                    f"{n / total:.0%}" if n else "",
                )
                for taken, n in enumerate(row)
            ]
        )
    columns = [f"as {number}" for number in range(len(counts))]
    note = "Rows: the true level, columns: what the model takes it for, with the share of the row."
    return HeatMap("Confusion", [_level(n) for n in range(len(counts))], columns, cells, note)


def _calibration(found: ModelNumbers) -> LineChart | None:
    calibration = found.calibration
    if calibration is None or not calibration.bins:
        return None
    points = [(one.mean_score, one.mean_level) for one in calibration.bins]
    sizes = [float(one.count) for one in calibration.bins]
    furthest = max(calibration.bins, key=lambda one: abs(one.mean_score - one.mean_level))
    error = calibration.expected_error
    says = "" if error is None else f"the mean distance to the dashed line is {error:.4f}; "
    says += f"furthest, {counted(furthest.count, 'texts')} with a score of "
    says += f"{furthest.mean_score:.2f}: level {furthest.mean_level:.2f} on average"
    note = "each dot the texts of a quarter of a level; on the dashed line, a score is the level"
    series = [LineSeries("texts", points, sizes)]
    return LineChart("True level by score", series, says, note, diagonal=True)


# The texts that it gets most wrong

_SCORED = ("score", "level")
_WRONG = {
    "Furthest above their level": GalleryGroup(
        pl.col("error") > 0, ("error", "place"), (True, False), from_end=False
    ),
    "Furthest below their level": GalleryGroup(
        pl.col("error") < 0, ("error", "place"), (False, False), from_end=False
    ),
}


def _furthest(
    given: EvaluatedModel, found: ModelNumbers, most: int
) -> tuple[dict[int, TrainingRecord], Groups]:
    """The measured texts furthest from their level, either way, and what they say."""
    if given.predictions is None:
        return {}, {}
    prefix = f"{given.own}." if given.own else ""
    gallery, start = Gallery(_WRONG, most), 0
    try:
        (table,) = open_tables([given.predictions])
        columns = ["key", "image", "text", "label", "measured", *(prefix + n for n in _SCORED)]
        missing = [name for name in columns if name not in table.types]
        if missing:
            raise RequestError(f"{given.predictions}: has no column {missing[0]}: {_FIX}")
        if not (pa.types.is_list(kind := table.types["image"]) or pa.types.is_large_list(kind)):
            raise RequestError(f"{given.predictions}: column image holds no lists: {_FIX}")
        for name in ("label", *(prefix + n for n in _SCORED)):
            kind = table.types[name]
            if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
                raise RequestError(f"{given.predictions}: column {name} is {kind}: {_FIX}")
        for _, frame in table.batches(columns):
            gallery.add(_errors(frame, prefix, start, by_level=found.thresholds is not None))
            start += frame.height
    except BaseException as error:
        if isinstance(error, RequestError) or is_order_to_end(error):
            raise
        reason = one_line(error)
        raise RequestError(f"{given.predictions}: can't be read ({reason}): {_FIX}") from error
    records: dict[int, TrainingRecord] = {}

    def shown(_: str, row: dict[str, Any]) -> GallerySample:
        images, text = row["image"] or [], row["text"] or ""
        records[row["place"]] = TrainingRecord(image=images, text=text, label=row["label"])
        return GallerySample(
            key=str(row["key"]),
            shard="",
            place=row["place"],
            score=row["score"],
            reason=f"level {row['label']} as {row['level']}",
        )

    return records, gallery.groups(shown)


def _errors(frame: pl.DataFrame, prefix: str, start: int, *, by_level: bool) -> pl.DataFrame:
    """The measured rows with `place` and `error`: how far score or level is above the label.

    A score beyond the scale of the levels counts as its end.
    """
    named = frame.rename({prefix + name: name for name in _SCORED} if prefix else {})
    taken = pl.col("level" if by_level else "score").cast(pl.Float64).clip(LEVELS[0], LEVELS[-1])
    return (
        named.with_row_index("place", offset=start)
        .filter(pl.col("measured"))
        .with_columns(error=taken - pl.col("label").cast(pl.Float64))
        .filter(pl.col("error").is_finite())
    )
