"""A report: a section per table, by its kind, with samples as they read, as one HTML file."""

import base64
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib.resources import files
from itertools import chain
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmsieve.decisions import KIND as DECISIONS
from mmsieve.errors import RequestError, is_order_to_end
from mmsieve.read import ReadOptions
from mmsieve.reporting import agreements, assessments, ratings, scores
from mmsieve.reporting.contents import (
    LARGE,
    MANY,
    ContentName,
    SampleContent,
    name_of,
    read_contents,
)
from mmsieve.reporting.explorer.explorer import Explorer
from mmsieve.reporting.explorer.page_data import page_data, to_script
from mmsieve.reporting.inputs import Inputs, ReportTable
from mmsieve.reporting.sections import (
    Bin,
    GallerySample,
    SectionNumbers,
    SectionPart,
    SectionRequest,
    Shares,
)

# Counting: which module makes the section of which kind of table

COUNTS: dict[str, Callable[[ReportTable, SectionRequest], SectionNumbers]] = {
    "quality": scores.count,
    DECISIONS: scores.count,
    ratings.KIND: ratings.count,
    "assessment": assessments.count,
}
"""Kind of a table -> what counts it."""


def count_all(tables: Sequence[ReportTable], gallery: int) -> tuple[list[SectionPart], list[str]]:
    """The sections of all tables, and notes on what is not shown.

    Raises RequestError for a kind or columns that aren't shown.
    """
    for one in tables:
        if one.kind not in COUNTS:
            raise RequestError(
                f"{one.path}: holds {one.kind}, which is not shown; {', '.join(COUNTS)} are"
            )
    request, notes = SectionRequest(tuple(tables), gallery), list[str]()
    made = [_part(one, request) for one in tables]
    for first, second in agreements.compared(request):
        title = f"{first.name} and {second.name}"
        try:
            numbers = agreements.compare(first, second, gallery)
        except RequestError as error:
            notes.append(f"{title} are not compared: {error}")
            continue
        made.append(SectionPart(title, "agreement", numbers, first, is_whole=False))
    return made, notes


def _part(one: ReportTable, request: SectionRequest) -> SectionPart:
    try:
        return SectionPart(one.name, one.kind, COUNTS[one.kind](one, request), one)
    except BaseException as error:
        if isinstance(error, RequestError) or is_order_to_end(error):
            raise
        reason = str(error).strip().split("\n")[0]
        raise RequestError(
            f"{one.path}: can't be read as a table of {one.kind} ({reason}); make it again"
        ) from error


_FEW = 800
"""Samples whose pictures can be large."""


@dataclass(frozen=True)
class Section:
    """What the report says of one table, or of several together."""

    part: SectionPart
    contents: Mapping[ContentName, SampleContent] = field(default_factory=dict)
    """How samples read."""

    @property
    def table(self) -> ReportTable:
        """The table, or the one that has the samples."""
        return self.part.table

    @property
    def numbers(self) -> SectionNumbers:
        """All that is said of the samples."""
        return self.part.numbers

    @property
    def groups(self) -> dict[str, list[tuple[GallerySample, SampleContent]]]:
        """The samples to show, by title, with how they read."""
        return {
            title: [(one, self._content(one)) for one in some]
            for title, some in self.numbers.groups.items()
        }

    def _content(self, one: GallerySample) -> SampleContent:
        return self.contents.get(name_of((self.table, one)), SampleContent())

    @property
    def facts(self) -> list[tuple[str, str]]:
        """How it was made, as name and value; a value that differs between files is left out."""
        headers = self.table.headers
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
            for header in self.table.headers
            if not header.complete and (header.problem or header.limit)
        ]


@dataclass(frozen=True)
class ReportPage:
    """All that a page says."""

    sections: list[Section]
    explorers: list[Explorer]
    contents: Mapping[ContentName, SampleContent]
    notes: list[str]
    metrics: Sequence[tuple[str, dict[str, Any]]] = ()

    def contents_of(self, one: Explorer) -> list[list[list[str]]]:
        """How the samples of an explorer read, in their order."""
        found = (
            self.contents.get(name_of((one.tables[0], sample)), SampleContent())
            for sample in one.samples()
        )
        return [
            [
                *(list(piece.kind) for piece in each.pieces),
                *([["more", each.more]] * bool(each.more)),
            ]
            for each in found
        ]


def make_page(
    given: Inputs, counted: Sequence[SectionPart], explorers: Sequence[Explorer], read: ReadOptions
) -> ReportPage:
    """Sections and explorers with their samples as they read, and notes on what was not found."""
    wanted = [(part.table, one) for part in counted for one in chain(*part.numbers.groups.values())]
    wanted += [(one.tables[0], sample) for one in explorers for sample in one.samples()]
    contents: Mapping[ContentName, SampleContent] = {}
    notes: list[str] = []
    if given.sources:
        size = LARGE if len(wanted) <= _FEW else MANY
        contents, notes = read_contents(wanted, given.sources, read, size)
    elif wanted:
        notes.append(
            "no shards were given, so there are no pictures: name them, or instruction files, "
            "after the tables"
        )
    made = [Section(part, contents) for part in counted]
    return ReportPage(made, list(explorers), contents, notes, given.metrics)


# Sections and samples -> the HTML file

WIDTH, HEIGHT = 720.0, 180.0
SMALL_WIDTH, SMALL_HEIGHT = 240.0, 64.0
_FEW_BARS = 16
"""Of a histogram that have their counts above them."""
_LETTER = 7.0
"""About the width of a digit below the columns."""
_GAP = 0.24
"""Share of a label's place that is left empty."""


def render(page: ReportPage, day: date) -> str:
    """The whole file. Every text in it is escaped; it runs its own script and asks for nothing."""
    environment = Environment(
        loader=PackageLoader("mmsieve.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shapes = (bars, ticks, place, columns, middles)
    environment.filters |= {shape.__name__: shape for shape in shapes}
    environment.globals |= {
        "width": WIDTH,
        "height": HEIGHT,
        "few_bars": _FEW_BARS,
        "small_width": SMALL_WIDTH,
        "small_height": SMALL_HEIGHT,
        "colours": 5,  # of pools side by side, in report.css
    }
    script, style = own_script(_SCRIPTS), own_file("report.css")
    return environment.get_template("report.html.j2").render(
        page=page,
        day=day.isoformat(),
        script=Markup(script),  # noqa: S704 - the package's own file
        style=Markup(style),  # noqa: S704
        script_hash=content_hash(script),
        style_hash=content_hash(style),
        data=[Markup(to_script(page_data(one))) for one in page.explorers],  # noqa: S704
        texts=[Markup(to_script(page.contents_of(one))) for one in page.explorers],  # noqa: S704
    )


_SCRIPTS = ("elements", "counts", "histogram", "scatter", "samples", "explorer", "page")


def own_script(names: Iterable[str]) -> str:
    """A page's script: its parts in one scope of their own."""
    parts = "\n".join(own_file(f"page/{name}.js") for name in names)
    return f'(() => {{\n"use strict";\n{parts}\n}})();\n'


def own_file(name: str) -> str:
    """A file of this package that pages are made of."""
    return (files("mmsieve.reporting") / name).read_text("utf-8")


def content_hash(text: str) -> str:
    """What a content policy calls an element's text: only that text may run, or style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


# Counts -> the rectangles of charts


def bars(bins: list[Bin]) -> list[dict[str, float]]:
    """Rectangles of a histogram: x, width, and per bar y and height of kept and dropped."""
    most = max(one.kept + one.dropped for one in bins)
    step = WIDTH / len(bins)
    made = []
    for index, one in enumerate(bins):
        kept, dropped = (n * HEIGHT / most for n in (one.kept, one.dropped))
        made.append(
            {
                "x": round(index * step + 0.5, 2),
                "width": round(step - 1, 2),
                "kept_y": round(HEIGHT - kept, 2),
                "kept": round(kept, 2),
                "dropped_y": round(HEIGHT - kept - dropped, 2),
                "dropped": round(dropped, 2),
            }
        )
    return made


def columns(shares: Shares) -> Iterator[dict[str, float | int | str]]:
    """Rectangles of shares, the pools side by side: pool, place and size, and what they say."""
    step = SMALL_WIDTH / len(shares.labels)
    width = step * (1 - _GAP) / len(shares.names)
    for pool, name in enumerate(shares.names):
        for number, label in enumerate(shares.labels):
            share = shares.share(pool, number)
            height = share / (shares.most or 1) * SMALL_HEIGHT
            yield {
                "pool": pool,
                "x": round(number * step + step * _GAP / 2 + pool * width, 2),
                "y": round(SMALL_HEIGHT - height, 2),
                "width": round(width, 2),
                "height": round(height, 2),
                "says": f"{label}: {share:.1%} of {name}",
            }


def middles(shares: Shares) -> list[tuple[float, str]]:
    """Places and labels below the columns, as many as there is room for."""
    step = SMALL_WIDTH / len(shares.labels)
    every = math.ceil((max(map(len, shares.labels)) + 1) * _LETTER / step)
    labels = list(enumerate(shares.labels))[::every]
    return [(round((n + 0.5) * step, 2), label) for n, label in labels]


def ticks(bins: list[Bin]) -> list[tuple[float, str]]:
    """Places and labels below a histogram, at most about eight."""
    low, high = bins[0].low, bins[-1].high
    step = next(s for s in (0.25, 0.5, 1, 2, 5, 10, 100, 1e4, 1e9) if (high - low) / s <= 8)
    first = -(-low // step)
    count = int((high - first * step) // step) + 1
    values = [(first + i) * step for i in range(count)]
    return [(place(bins, value), f"{value:g}") for value in values]


def place(bins: list[Bin], score: float) -> float:
    """Where a score lies below a histogram."""
    low, high = bins[0].low, bins[-1].high
    return round((score - low) / (high - low) * WIDTH, 2)
