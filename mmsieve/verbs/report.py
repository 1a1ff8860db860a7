"""report: tables, decisions and metrics, with their shards -> one self-contained page."""

import time
from dataclasses import dataclass, field
from datetime import date
from itertools import chain
from pathlib import Path

from cyclopts import Parameter

from mmsieve.errors import RequestError
from mmsieve.outputs import check_file, make_folder, write_text
from mmsieve.read.records import ReadOptions
from mmsieve.reporting.inputs import sort_inputs
from mmsieve.reporting.page import Section, count_all, render
from mmsieve.reporting.samples import Content, Key, Numbers, Shown, fetch


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """How the page is made."""

    gallery: int = 8
    """Samples in each group of the gallery."""
    overwrite: bool = False
    """Replace a file that isn't a report."""
    dry_run: bool = False
    """Say what would be on the page, and stop."""
    quiet: bool = False
    """Only the last line."""


@dataclass(frozen=True, kw_only=True)
class PageReport:
    """How the making of a page went."""

    out: Path
    seconds: float
    sections: int = 0
    cards: int = 0
    bytes: int = 0
    notes: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    """Always empty: what can't be shown is said on the page and in the notes."""

    def summary(self) -> str:
        """What a user should know, the last line with counts, seconds and the output's path."""
        last = (
            f"{self.sections} sections, {self.cards} samples, {self.bytes / 1e6:.1f} MB "
            f"in {self.seconds:.1f} s: {self.out}"
        )
        return "\n".join([*self.notes, last])


def report(
    *inputs: str,
    out: Path,
    read: ReadOptions | None = None,
    options: ReportOptions | None = None,
) -> PageReport:
    """Make a page to look at: what was run, how the scores lie, what was kept and what was not.

    Parameters
    ----------
    inputs
        Tables of score, rate and enhance, decisions, metrics.json files; and, for pictures, the
        shards and instruction files that they are about.
    out
        The page: a file that ends in .html.
    """
    started = time.monotonic()
    wanted, out = options or ReportOptions(), Path(out)
    _check(wanted, out)
    given = sort_inputs(inputs)
    counted = count_all(given.judged, wanted.gallery)
    shown = [list(chain(*numbers.groups.values())) for numbers in counted]
    cards, total = sum(map(len, shown)), len(counted) + len(given.metrics)
    if wanted.dry_run:
        notes = [f"would show {cards} samples"]
        return PageReport(
            out=out, seconds=time.monotonic() - started, sections=total, notes=tuple(notes)
        )
    asked = list(zip(given.judged, shown, strict=True))
    contents, notes = fetch(asked, given.sources, read or ReadOptions())
    sections = [
        Section(judged, numbers, _groups(numbers, found))
        for judged, numbers, found in zip(given.judged, counted, contents, strict=True)
    ]
    page = render(sections, list(given.metrics), notes, date.today())
    make_folder(out.absolute().parent)
    write_text(out, page)
    return PageReport(
        out=out,
        seconds=time.monotonic() - started,
        sections=total,
        cards=cards,
        bytes=out.stat().st_size,
        notes=() if wanted.quiet else tuple(notes),
    )


def _check(options: ReportOptions, out: Path) -> None:
    """Refuse what can't be meant, from the request alone."""
    if options.gallery < 0:
        raise RequestError(f"--gallery {options.gallery}: must be 0 or more")
    if out.suffix not in (".html", ".htm") or out.is_dir():
        raise RequestError(f"--out {out}: name a file that ends in .html")
    check_file(out, "a report", _is_report, options.overwrite)


def _is_report(file: Path) -> bool:
    return "<title>mmsieve report</title>" in file.read_text("utf-8", "replace")


def _groups(
    numbers: Numbers, contents: dict[Key, Content]
) -> dict[str, list[tuple[Shown, Content]]]:
    return {
        title: [(one, contents.get((one.shard, one.key), Content())) for one in group]
        for title, group in numbers.groups.items()
    }
