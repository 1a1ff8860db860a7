"""report: tables, decisions and metrics, with their shards -> one self-contained page."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from mmsieve.errors import RequestError
from mmsieve.keywords import flat_options
from mmsieve.locks import writing_to
from mmsieve.options import COMMON, NotNegative, Out, OutputOptions, own, whole
from mmsieve.outputs import check_file, write_text
from mmsieve.read import ReadOptions
from mmsieve.reporting.explorer.explorer import find_explorers
from mmsieve.reporting.inputs import sort_inputs
from mmsieve.reporting.report import count_all, make_page, render
from mmsieve.reports import Report, timed
from mmsieve.stores.paths import place_of
from mmsieve.wording import counted


@Parameter(name="*", group=own("Page"))
@dataclass(frozen=True, kw_only=True)
class ReportOptions(OutputOptions):
    """How the page is made."""

    gallery: NotNegative = 8
    """Samples in each group of the gallery."""
    cards: Annotated[int, whole(gte=0, lte=20_000)] = 400
    """Samples to explore of each set of tables, drawn evenly over scores and sources."""
    overwrite: Annotated[bool, Parameter(group=COMMON)] = False
    """Replace a file that isn't a report."""


@dataclass(frozen=True, kw_only=True)
class PageReport(Report):
    """How the making of a page went."""

    sections: int = 0
    cards: int = 0
    bytes: int = 0

    def counts(self) -> str:
        """Sections, samples and megabytes."""
        cards = counted(self.cards, "samples")
        return f"{counted(self.sections, 'sections')}, {cards}, {self.bytes / 1e6:.1f} MB"


@flat_options
@timed
def report(
    *inputs: str, out: Out, read: ReadOptions | None = None, options: ReportOptions | None = None
) -> PageReport:
    """Make a page to look at: what was run, how the scores lie, what was kept and what was not.

    Parameters
    ----------
    inputs
        Tables of score, rate and enhance, decisions, what train made, or evaluate of models; and,
        for pictures, the shards and instruction files that they are about.
    out
        The page: a file that ends in .html.
    """
    wanted, out = options or ReportOptions(), place_of(out)
    if out.suffix not in (".html", ".htm"):
        raise RequestError(f"--out {out}: name a file that ends in .html")
    check_file(out, "a report", _is_report, wanted.overwrite)
    given = sort_inputs(inputs)
    parts, notes = count_all(given, wanted.gallery)
    explorers, more = find_explorers(given.tables, wanted.cards) if wanted.cards else ([], [])
    notes += more
    cards = sum(len(group) for part in parts for group in part.numbers.groups.values())
    cards += sum(one.sample.height for one in explorers)
    total = len(parts)
    if wanted.dry_run:
        made = f"{counted(total, 'sections')}, {counted(cards, 'samples')}"
        return PageReport(out=out, sections=total, dry_run=True, notes=(f"would show {made}",))
    with writing_to(out, "report", wait=wanted.wait):
        page = make_page(given, parts, explorers, read or ReadOptions())
        page.notes[:0] = notes
        write_text(out, render(page, date.today()))
    size, shown = out.stat().st_size, () if wanted.quiet else tuple(page.notes)
    return PageReport(out=out, sections=total, cards=cards, bytes=size, notes=shown)


def _is_report(file: Path) -> bool:
    return "<title>mmsieve report</title>" in file.read_text("utf-8", "replace")
