"""An evaluation as a person reads it: a few narrow tables."""

from collections.abc import Iterable, Iterator, Mapping

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from mmsieve.evaluation.agreement import Agreement
from mmsieve.evaluation.comparing import COMPARED, Measured
from mmsieve.evaluation.metrics import RESAMPLED, Interval, Metrics, ScoreTies
from mmsieve.labels import LEVEL_NAMES, LEVELS
from mmsieve.sanitize import plain
from mmsieve.wording import counted

WIDTH = 100
_LABEL, _CELL, _COLUMNS = 19, 24, 3
"""Widths of a table of intervals, of which so many columns fit."""
_NUMBER = 7
"""Letters of a number that may have an interval beside it."""


def render(parts: Iterable[RenderableType]) -> list[str]:
    """Tables and texts as lines, without colours: what drives a terminal isn't printed."""
    console = Console(force_jupyter=False, color_system=None, markup=False, highlight=False)
    console.width = min(WIDTH, console.width) if console.is_terminal else WIDTH
    with console.capture() as capture:
        for part in parts:
            console.print(part)
    return [line.rstrip() for line in capture.get().splitlines()]


def status_counts(models: Mapping[str, Measured]) -> str:
    """How many texts have which status; said once where all models agree."""
    lines = {
        name: ", ".join(f"{count:,} {status}" for status, count in sorted(one.statuses.items()))
        for name, one in models.items()
    }
    if len(set(lines.values())) == 1:
        return next(iter(lines.values()))
    return "; ".join(f"{name}: {line}" for name, line in lines.items())


def model_tables(models: Mapping[str, Measured]) -> list[RenderableType]:
    """One model in full; several side by side, with their differences to the first."""
    found = {name: one for name, one in models.items() if one.overall is not None}
    if not found:
        return []
    if len(found) == 1:
        (one,) = found.values()
        return [_numbers(_columns(one)), "", *_details(one)]
    reference, *others = names = list(found)
    parts: list[RenderableType] = []
    for some in _parted(names):
        parts += [_side_by_side({name: found[name] for name in some}), ""]
    for some in _parted(others):
        parts += [_differences(reference, {name: found[name] for name in some}), ""]
    for name, one in found.items():
        parts += [Text(plain(name)), *_details(one), ""]
    return parts[:-1]


def _parted(names: list[str]) -> list[list[str]]:
    return [names[start : start + _COLUMNS] for start in range(0, len(names), _COLUMNS)]


def agreement_table(found: Agreement) -> list[RenderableType]:
    """Two tables on the rows that are ok in both."""
    rows = _grid("", "rows", "not ok in both", "only here")
    for name, one in found.tables.items():
        rows.add_row(plain(name), f"{one.rows:,}", f"{one.not_ok:,}", f"{one.only_here:,}")
    numbers = _grid(f"{found.by}, {counted(found.count, 'samples')}", "")
    named = {"spearman": found.spearman, "pearson": found.pearson, "same level": found.same_level}
    named["kappa of levels, quadratic"] = found.kappa
    for top, overlap in found.top.items():
        named[f"top {float(top):.0%}: overlap of what is kept"] = overlap
    for name, value in named.items():
        numbers.add_row(name, _number(value))
    ties = (Text(plain(f"{n}: {_ties(one, found.count)}")) for n, one in found.ties.items())
    return [rows, "", numbers, "", *ties]


def _columns(one: Measured) -> dict[str, Metrics]:
    assert one.overall is not None
    return {"all": one.overall} | (one.by_kind if len(one.by_kind) > 1 else {})


def _numbers(columns: Mapping[str, Metrics]) -> Table:
    table = _grid("", *columns, is_wide=True)
    table.add_row("texts", *(f"{metrics.count:>{_NUMBER},}" for metrics in columns.values()))
    names = ("accuracy", "precision", "recall", "f1", "mse", "spearman")
    _add_numbers(table, list(columns.values()), names)
    return table


def _side_by_side(models: Mapping[str, Measured]) -> Table:
    table = _grid("", *models, is_wide=True)
    columns = [_columns(one) for one in models.values()]
    for kind in columns[0]:
        metrics = [each[kind] for each in columns]
        table.add_section()
        table.add_row(f"{kind}, {counted(metrics[0].count, 'texts')}")
        _add_numbers(table, metrics, RESAMPLED)
    return table


def _add_numbers(table: Table, columns: list[Metrics], names: Iterable[str]) -> None:
    for name in names:
        form = ".4f" if name == "mse" else ".3f"
        found = [(getattr(metrics, name), metrics.intervals.get(name)) for metrics in columns]
        table.add_row(name, *(_with_interval(*each, form) for each in found))
    errors = (metrics.calibration.expected_error for metrics in columns)
    table.add_row("calibration error", *(_with_interval(error, None) for error in errors))


def _differences(reference: str, models: Mapping[str, Measured]) -> Table:
    table = _grid(f"less {reference}", *models, is_wide=True)
    for name in COMPARED:
        differences = [one.differences[name] for one in models.values()]
        table.add_row(name, *(_with_interval(d.value, d.interval, "+.3f") for d in differences))
    return table


def _details(one: Measured) -> Iterator[RenderableType]:
    metrics = one.overall
    assert metrics is not None
    table = _grid("true level", *(f"as {level}" for level in LEVELS), "recall", "f1")
    for level in LEVELS:
        counts = [f"{count:,}" for count in metrics.confusion[level]]
        rates = metrics.recall_per_level[level], metrics.f1_per_level[level]
        table.add_row(f"{level} {LEVEL_NAMES[level]}", *counts, *map(_number, rates))
    table.add_section()
    calibration = metrics.calibration
    table.add_row("mean true level", *(_number(mean, ".2f") for mean in calibration.mean_level))
    table.add_row("share of texts", *(f"{share:.1%}" for share in calibration.share))
    yield table
    if one.ties is not None:
        yield Text(_ties(one.ties, metrics.count))
    if one.thresholds is not None:
        cuts = ", ".join(f"{value:.4g}" for value in one.thresholds)
        yield Text(f"levels 1, 2, 3 from a score of {cuts}")


def _ties(found: ScoreTies, count: int) -> str:
    cuts = [f"the top {float(top):.0%}: {tied:,}" for top, tied in found.at_top.items()]
    return f"different scores: {found.distinct:,} of {count:,}; tied at a cut of {', '.join(cuts)}"


def _with_interval(value: float | None, interval: Interval | None, form: str = ".3f") -> str:
    """A number and its interval in at most _CELL letters."""
    number = f"{_number(value, '+.4f' if form[0] == '+' else '.4f'):>{_NUMBER}}"
    if interval is None:
        return number
    return f"{number} {interval[0]:{form}} to {interval[1]:{form}}"


def _number(value: float | None, form: str = ".4f") -> str:
    return "-" if value is None else f"{value:{form}}"


def _grid(first: str, *others: str, is_wide: bool = False) -> Table:
    """A table; for numbers with intervals a wide one, where long names take several lines."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    if is_wide:
        table.add_column(Text(plain(first)), max_width=_LABEL, overflow="fold")
        for name in others:
            table.add_column(Text(plain(name)), max_width=_CELL, overflow="fold")
    else:
        table.add_column(Text(plain(first)))
        for name in others:
            table.add_column(Text(plain(name)), justify="right")
    return table
