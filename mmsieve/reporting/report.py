"""A report: a section per table, by its kind, with samples as they read, as one HTML file."""

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib.resources import files
from itertools import chain

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmsieve.decisions import KIND as DECISIONS
from mmsieve.errors import RequestError, is_order_to_end
from mmsieve.read import ReadOptions
from mmsieve.reporting import (
    agreements,
    assessments,
    charts,
    evaluations,
    ratings,
    scores,
    trainings,
)
from mmsieve.reporting.contents import (
    LARGE,
    MANY,
    ContentName,
    SampleContent,
    name_of,
    read_contents,
    read_labelled,
)
from mmsieve.reporting.explorer.explorer import Explorer
from mmsieve.reporting.explorer.page_data import page_data, to_script
from mmsieve.reporting.inputs import Inputs, ReportTable
from mmsieve.reporting.sections import GallerySample, SectionNumbers, SectionPart, SectionRequest
from mmsieve.tables import Header
from mmsieve.wording import counted

# Counting: which module makes the section of which kind of table

COUNTS: dict[str, Callable[[ReportTable, SectionRequest], SectionNumbers]] = {
    "quality": scores.count,
    DECISIONS: scores.count,
    ratings.KIND: ratings.count,
    "assessment": assessments.count,
}
"""Kind of a table -> what counts it."""


def count_all(given: Inputs, gallery: int) -> tuple[list[SectionPart], list[str]]:
    """The sections of all inputs, and notes on what is not shown.

    Raises RequestError for a kind or columns that aren't shown.
    """
    for one in given.tables:
        if one.kind not in COUNTS:
            raise RequestError(
                f"{one.path}: holds {one.kind}, which is not shown; {', '.join(COUNTS)} are"
            )
    request, notes = SectionRequest(given.tables, gallery), list[str]()
    made = [_part(one, request) for one in given.tables]
    for first, second in agreements.compared(request):
        title = f"{first.name} and {second.name}"
        try:
            numbers = agreements.compare(first, second, gallery)
        except RequestError as error:
            notes.append(f"{title} are not compared: {error}")
            continue
        made.append(SectionPart(title, "agreement", first.path, numbers, first, is_alone=False))
    for model in given.metrics:
        found = evaluations.read_evaluation(model, gallery)
        made.append(SectionPart(model.name, "metrics", model.file.parent, found))
    for folder in given.trainings:
        name = folder.resolve().name
        made.append(SectionPart(name, "training", folder, trainings.read_training(folder)))
    return made, notes


def _part(one: ReportTable, request: SectionRequest) -> SectionPart:
    try:
        return SectionPart(one.name, one.kind, one.path, COUNTS[one.kind](one, request), one)
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
        return self.contents.get(name_of(self.part.path, one), SampleContent())

    @property
    def _headers(self) -> tuple[Header, ...]:
        table = self.part.table
        return table.headers if table is not None and self.part.is_alone else ()

    @property
    def facts(self) -> list[tuple[str, str]]:
        """How it was made, as name and value; a value that differs between files is left out."""
        facts: list[tuple[str, str]] = []
        for first in self._headers[:1]:
            facts.append(("made by", f"mmsieve {first.version}"))
            for part in ("fingerprint", "notes"):
                for name, value in getattr(first, part).items():
                    if all(getattr(header, part).get(name) == value for header in self._headers):
                        facts.append((name.replace("_", " "), str(value)))
        return facts

    @property
    def incomplete(self) -> list[tuple[str, str]]:
        """Shards of which only a part was read, with the reason."""
        return [
            (header.shard, header.problem or f"trial run: {counted(header.limit or 0, 'samples')}")
            for header in self._headers
            if not header.complete and (header.problem or header.limit)
        ]


@dataclass(frozen=True)
class ReportPage:
    """All that a page says."""

    sections: list[Section]
    explorers: list[Explorer]
    contents: Mapping[ContentName, SampleContent]
    notes: list[str]

    def contents_of(self, one: Explorer) -> list[list[list[str]]]:
        """How the samples of an explorer read, in their order."""
        found = (
            self.contents.get(name_of(one.tables[0].path, sample), SampleContent())
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
    wanted = [
        (part.table, one)
        for part in counted
        if part.table is not None
        for one in chain(*part.numbers.groups.values())
    ]
    wanted += [(one.tables[0], sample) for one in explorers for sample in one.samples()]
    contents: dict[ContentName, SampleContent] = {}
    notes: list[str] = []
    size = LARGE if len(wanted) <= _FEW else MANY
    if given.sources:
        contents, notes = read_contents(wanted, given.sources, read, size)
    elif wanted:
        notes.append(
            "no shards were given, so there are no pictures: name them, or instruction files, "
            "after the tables"
        )
    for part in counted:
        if isinstance(part.numbers, evaluations.EvaluationNumbers) and part.numbers.groups:
            of_part = part.numbers.groups, part.numbers.records
            contents |= read_labelled(part.path, *of_part, read.images, size)
            if read.images is None:
                notes.append(f"{part.title}: --images DIR shows the pictures of its texts, too")
    made = [Section(part, contents) for part in counted]
    return ReportPage(made, list(explorers), contents, notes)


# Sections and samples -> the HTML file


def render(page: ReportPage, day: date) -> str:
    """The whole file. Every text in it is escaped; it runs its own script and asks for nothing."""
    environment = Environment(
        loader=PackageLoader("mmsieve.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {shape.__name__: shape for shape in charts.SHAPES}
    environment.globals |= charts.SIZES
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
