"""The page of a report: a section per table, by its kind, rendered to one HTML file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined

from mmsieve.decisions import KIND as DECISIONS
from mmsieve.errors import RequestError
from mmsieve.reporting import assessments, charts, ratings, scores
from mmsieve.reporting.inputs import Judged
from mmsieve.reporting.samples import Content, Numbers, Request, Shown

# Numbers and cards -> the page

_COLOURS = 5
"""Of pools side by side, in page.css."""


@dataclass(frozen=True)
class Section:
    """What the page says of one table or of one set of decisions."""

    judged: Judged
    numbers: Numbers
    groups: dict[str, list[tuple[Shown, Content]]]

    @property
    def facts(self) -> list[tuple[str, str]]:
        """How it was made, as name and value; a value that differs between files is left out."""
        headers = self.judged.headers
        facts: list[tuple[str, str]] = [("made by", f"mmsieve {headers[0].version}")]
        for part in ("fingerprint", "notes"):
            first = getattr(headers[0], part)
            for name, value in first.items():
                if all(getattr(header, part).get(name) == value for header in headers):
                    facts.append((name.replace("_", " "), str(value)))
        return facts

    @property
    def incomplete(self) -> list[tuple[str, str]]:
        """Shards of which only a part was read, with the reason."""
        return [
            (header.shard, header.problem or f"trial run of {header.limit} samples")
            for header in self.judged.headers
            if not header.complete and (header.problem or header.limit)
        ]


def render(
    sections: list[Section], metrics: list[tuple[str, dict[str, Any]]], notes: list[str], day: date
) -> str:
    """The whole page. Every text in it is escaped; it has no script and asks for nothing."""
    environment = Environment(
        loader=PackageLoader("mmsieve.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shapes = (charts.bars, charts.ticks, charts.place, charts.columns, charts.middles)
    environment.filters |= {shape.__name__: shape for shape in shapes}
    environment.globals |= {
        "width": charts.WIDTH,
        "height": charts.HEIGHT,
        "small_width": charts.SMALL_WIDTH,
        "small_height": charts.SMALL_HEIGHT,
        "colours": _COLOURS,
    }
    template = environment.get_template("page.html.j2")
    return template.render(sections=sections, metrics=metrics, notes=notes, day=day.isoformat())


# Which module makes the section of which kind of table

COUNTS: dict[str, Callable[[Judged, Request], Numbers]] = {
    "quality": scores.count,
    DECISIONS: scores.count,
    ratings.KIND: ratings.count,
    "assessment": assessments.count,
}
"""Kind of a table -> what counts it."""


def count_all(judged: Sequence[Judged], gallery: int) -> list[Numbers]:
    """The numbers of all tables, with up to `gallery` samples in each group.

    Raises RequestError for a table of another kind, or without the columns of its kind.
    """
    for one in judged:
        if one.kind not in COUNTS:
            raise RequestError(
                f"{one.path}: holds {one.kind}, which is not shown; {', '.join(COUNTS)} are"
            )
    request = Request(tuple(judged), gallery)
    return [_count(one, request) for one in judged]


def _count(judged: Judged, request: Request) -> Numbers:
    try:
        return COUNTS[judged.kind](judged, request)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise RequestError(
            f"{judged.path}: can't be read as a table of {judged.kind} ({reason}); make it again"
        ) from error
