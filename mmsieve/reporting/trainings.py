"""The folder of a training: what each stage logged, as curves; also of one that is under way."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from mmsieve.errors import RequestError
from mmsieve.reporting.charts import LineChart, LineSeries
from mmsieve.reporting.sections import Groups
from mmsieve.training.options import LOG, RUN, STAGES, STATES
from mmsieve.validated import JsonObject, read_json_file

_FIX = "give the folder that `train` made"
_ORDER = ("lesson", "projector", "classifier", "rater", "enhancer")
"""Stages, as they follow each other."""
_HELD_OUT = "eval_"
_AXES = ("step", "epoch")
_NO_CURVES = ("train_", "total_flos", "num_input_tokens_seen")
_NO_MEASURES = ("runtime", "_per_second")
_LAST = ("learning_rate", "grad_norm")
"""Measures that are shown behind the others."""
_ROWS = 12
"""Of a log that are shown as numbers."""
_MOST_FACTS = 200
_SETTING_LETTERS = 200

Log: TypeAlias = list[JsonObject]


class _Run(BaseModel):
    """What `training.json` must hold."""

    model_config = ConfigDict(extra="ignore")

    goal: str
    recipe: JsonObject
    logs: dict[str, Log] = {}


class _State(BaseModel):
    """What is read of the Trainer's `trainer_state.json`."""

    model_config = ConfigDict(extra="ignore")

    log_history: Log = []
    max_steps: Annotated[int, Field(ge=0)] = 0


_RUN, _STATE, _LOG = TypeAdapter(_Run), TypeAdapter(_State), TypeAdapter(Log)


@dataclass(frozen=True)
class StageNumbers:
    """What is said of a stage."""

    name: str
    state: str
    """How far it is."""
    charts: list[LineChart]
    columns: list[str]
    rows: list[list[str]]
    """Some lines of the log, of each the columns."""
    infinite: int
    """Numbers of the log that are not finite."""


@dataclass(frozen=True)
class TrainingNumbers:
    """What is said of a training."""

    goal: str
    recipe: str
    is_done: bool
    stages: list[StageNumbers]
    settings: list[tuple[str, str]]
    """The recipe, by name and value."""
    groups: Groups = field(default_factory=dict)
    template: str = "training.html.j2"


def read_training(folder: Path) -> TrainingNumbers:
    """The numbers of a training; raises RequestError where it isn't one's folder."""
    run = read_json_file(folder / RUN, _RUN, _FIX)
    logs = {name: (log, "done") for name, log in run.logs.items()}
    for name, log, state in _under_way(folder):
        logs.setdefault(name, (log, state))
    order = {name: number for number, name in enumerate(_ORDER)}
    names = sorted(logs, key=lambda name: order.get(name, len(order)))
    return TrainingNumbers(
        goal=run.goal,
        recipe=str(run.recipe.get("name", "")),
        is_done=bool(run.logs),
        stages=[_stage(name, *logs[name]) for name in names],
        settings=list(_flat(run.recipe))[:_MOST_FACTS],
    )


def _under_way(folder: Path) -> Iterator[tuple[str, Log, str]]:
    """Name, log and state of the stages of a training that isn't done."""
    for file in sorted(folder.glob(f"{STAGES}/*/{LOG}")):
        if not file.parent.name.startswith("."):
            yield file.parent.name, read_json_file(file, _LOG, _FIX), "done"
    for place in sorted(folder.glob(f"{STAGES}/*{STATES}")):
        states = [one for one in place.glob("checkpoint-*") if one.name[11:].isdecimal()]
        for one in sorted(states, key=lambda one: int(one.name[11:]), reverse=True):
            try:
                found = read_json_file(one / "trainer_state.json", _STATE, _FIX)
            except (FileNotFoundError, RequestError):  # it is being written, or a kill left it
                continue
            of = f" of {found.max_steps:,}" if found.max_steps else ""
            said = f"under way: step {int(one.name[11:]):,}{of} is saved"
            yield place.name.removesuffix(STATES), found.log_history, said
            break


def _stage(name: str, log: Log, state: str) -> StageNumbers:
    lines = [line for line in log if _number(line.get("step")) is not None]
    measures = dict.fromkeys(chain.from_iterable(map(_measures, lines)))
    bases = dict.fromkeys(one.removeprefix(_HELD_OUT) for one in measures)
    ordered = sorted(bases, key=lambda one: (one != "loss", one in _LAST))
    charts = [chart for base in ordered if (chart := _chart(base, lines)) is not None]
    columns = [one for base in ordered for one in (base, _HELD_OUT + base) if one in measures]
    infinite = sum(
        isinstance(line.get(one), float) and not math.isfinite(line[one])
        for line in lines
        for one in measures
    )
    return StageNumbers(
        name=name,
        state=state,
        charts=charts,
        columns=[
            "step",
            *(one.replace("_", " ").replace("eval ", "held out: ") for one in columns),
        ],
        rows=[
            [_written(line.get(one)) for one in ("step", *columns)]
            for line in _some(lines, columns)
        ],
        infinite=infinite,
    )


def _measures(line: Mapping[str, Any]) -> Iterator[str]:
    for name, value in line.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_other = name in _AXES or name.startswith(_NO_CURVES) or name.endswith(_NO_MEASURES)
        if is_number and not is_other:
            yield name


def _chart(base: str, lines: Sequence[Mapping[str, Any]]) -> LineChart | None:
    """The curves of a measure: while training, and over what was held out."""
    series = []
    for title, name in (("in training", base), ("held out", _HELD_OUT + base)):
        pairs = ((_number(line.get("step")), _number(line.get(name))) for line in lines)
        points = [(x, y) for x, y in pairs if x is not None and y is not None]
        if points:
            series.append(LineSeries(title, points))
    if not series:
        return None
    parts = []
    for one in series:
        name = f"{one.name}: " if len(series) > 1 else ""
        (x0, y0), (x1, y1) = one.points[0], one.points[-1]
        parts.append(f"{name}{y0:.4g} at step {x0:,.0f}, {y1:.4g} at {x1:,.0f}")
    title = f"{base.replace('_', ' ')} by step"
    return LineChart(title, series, "; ".join(parts), may_be_log=base != _LAST[0])


def _some(lines: Sequence[JsonObject], columns: Sequence[str]) -> list[JsonObject]:
    """Lines evenly over the log, the first and the last among them."""
    own = [line for line in lines if any(_number(line.get(one)) is not None for one in columns)]
    if len(own) <= _ROWS:
        return own
    return [own[round(n * (len(own) - 1) / (_ROWS - 1))] for n in range(_ROWS)]


_MOST = 1e300


def _number(value: object) -> float | None:
    """The number that a value is, where sums of such numbers are finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if abs(number) <= _MOST else None


def _written(value: object) -> str:
    number = _number(value)
    if number is None:
        return ""
    return f"{number:,.0f}" if number == int(number) else f"{number:.4g}"


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of nested settings."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{before}{name}.")
        elif value is not None and value != {}:
            yield before + name, str(value)[:_SETTING_LETTERS]
