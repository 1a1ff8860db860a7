"""An evaluation as a person reads it: a few narrow tables."""

from collections.abc import Iterable, Mapping
from typing import Literal

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from mmsieve.evaluation.agreement import Agreement
from mmsieve.evaluation.comparing import COMPARED, Measured
from mmsieve.levels import LEVELS
from mmsieve.metrics import Interval, Metrics

WIDTH = 100
_NAMES = ("easy negative", "medium negative", "hard negative", "positive")
_NUMBER = 7
"""Letters of a number that may have an interval beside it."""


def render(parts: Iterable[RenderableType]) -> str:
    """Tables and texts as lines: with colours on a terminal, plain elsewhere."""
    console = Console(force_jupyter=False, highlight=False, soft_wrap=False)
    console.width = min(WIDTH, console.width) if console.is_terminal else WIDTH
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def model_tables(models: Mapping[str, Measured]) -> list[RenderableType]:
    """One model in full; several side by side, with their differences to the first."""
    found = {name: one for name, one in models.items() if one.overall is not None}
    if not found:
        return []
    if len(found) == 1:
        (one,) = found.values()
        return [_numbers(_columns(one)), "", *_levels(one.overall), *_thresholds(one)]
    parts: list[RenderableType] = [_side_by_side(found), "", _differences(found)]
    for name, one in found.items():
        parts += ["", Text(name, style="bold"), *_levels(one.overall), *_thresholds(one)]
    return parts


def agreement_table(found: Agreement) -> list[RenderableType]:
    """Two tables on the rows that are ok in both."""
    rows = _grid("", "rows", "not ok in both", "only here")
    for name, one in found.tables.items():
        rows.add_row(name, f"{one.rows:,}", f"{one.not_ok:,}", f"{one.only_here:,}")
    numbers = _grid(f"{found.by}, {found.count:,} samples", "")
    numbers.add_row("spearman", _number(found.spearman))
    numbers.add_row("pearson", _number(found.pearson))
    numbers.add_row("same level", _number(found.same_level))
    numbers.add_row("kappa of levels, quadratic", _number(found.kappa))
    for top, overlap in found.top.items():
        numbers.add_row(f"top {float(top):.0%} kept: in both of all kept", _number(overlap))
    return [rows, "", numbers]


def _columns(one: Measured) -> dict[str, Metrics]:
    """All texts, and each kind where there are several."""
    assert one.overall is not None
    return {"all": one.overall} | (one.by_kind if len(one.by_kind) > 1 else {})


def _numbers(columns: Mapping[str, Metrics]) -> Table:
    table = _grid("", *columns, justify="left")
    table.add_row("texts", *(f"{metrics.count:>{_NUMBER},}" for metrics in columns.values()))
    for name in ("accuracy", "precision", "recall", "f1", "mse", "spearman"):
        table.add_row(name, *(_cell(metrics, name) for metrics in columns.values()))
    table.add_row(*_calibration_errors(columns.values()))
    return table


def _side_by_side(models: Mapping[str, Measured]) -> Table:
    """A column per model, all texts first, then each kind."""
    table = _grid("", *models, justify="left")
    columns = [_columns(one) for one in models.values()]
    for kind in columns[0]:
        metrics = [each[kind] for each in columns]
        table.add_section()
        table.add_row(Text(f"{kind}, {metrics[0].count:,} texts", style="italic"))
        for name in ("accuracy", "f1", "mse", "spearman"):
            table.add_row(name, *(_cell(each, name) for each in metrics))
        table.add_row(*_calibration_errors(metrics))
    return table


def _calibration_errors(columns: Iterable[Metrics]) -> list[str]:
    errors = (metrics.calibration.expected_error for metrics in columns)
    return ["calibration error", *(_with_interval(error, None) for error in errors)]


def _differences(models: Mapping[str, Measured]) -> Table:
    reference, *others = models
    table = _grid(f"less {reference}", *others, justify="left")
    for name in COMPARED:
        cells = []
        for other in others:
            one = models[other].differences[name]
            cells.append(_with_interval(one.value, one.interval, "+.4f"))
        table.add_row(name, *cells)
    return table


def _levels(metrics: Metrics | None) -> list[RenderableType]:
    """The confusion, with each true level's recall and each predicted level's meaning."""
    assert metrics is not None
    table = _grid("true level", *(f"as {level}" for level in LEVELS), "recall", "f1")
    for level in LEVELS:
        counts = [f"{count:,}" for count in metrics.confusion[level]]
        counts[level] = f"[bold]{counts[level]}[/bold]"
        rates = metrics.recall_per_level[level], metrics.f1_per_level[level]
        table.add_row(f"{level} {_NAMES[level]}", *counts, *map(_number, rates))
    table.add_section()
    calibration = metrics.calibration
    table.add_row("mean true level", *(_number(mean, ".2f") for mean in calibration.mean_level))
    table.add_row("share of texts", *(f"{share:.1%}" for share in calibration.share))
    return [table]


def _thresholds(one: Measured) -> list[RenderableType]:
    if one.thresholds is None:
        return []
    cuts = ", ".join(f"{value:.4g}" for value in one.thresholds)
    return [Text(f"levels 1, 2, 3 from a score of {cuts}")]


def _cell(metrics: Metrics, name: str) -> str:
    return _with_interval(getattr(metrics, name), metrics.intervals.get(name))


def _with_interval(value: float | None, interval: Interval | None, form: str = ".4f") -> str:
    number = f"{_number(value, form):>{_NUMBER}}"
    if interval is None:
        return number
    return f"{number} [dim]{interval[0]:{form}} to {interval[1]:{form}}[/dim]"


def _number(value: float | None, form: str = ".4f") -> str:
    return "-" if value is None else f"{value:{form}}"


def _grid(first: str, *others: str, justify: Literal["left", "right"] = "right") -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(Text(first))
    for name in others:
        table.add_column(Text(name), justify=justify)
    return table
