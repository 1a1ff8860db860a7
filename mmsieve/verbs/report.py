"""report: tables, decisions and metrics, with their shards -> one self-contained page."""

import time
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path

from cyclopts import Parameter

from mmsieve.errors import RequestError
from mmsieve.page.gallery import Content, Key, fetch
from mmsieve.page.html import Section, render
from mmsieve.page.inputs import sort_inputs
from mmsieve.page.numbers import FAILED, Numbers, Shown, count
from mmsieve.read import ReadOptions
from mmsieve.table import check_folder, make_folder, write_atomically


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
        Tables, decisions, metrics.json files; and the shards that were scored, for pictures.
    out
        The page: a file that ends in .html.
    """
    started = time.monotonic()
    wanted, out = options or ReportOptions(), Path(out)
    _check(wanted, out)
    given = sort_inputs(inputs)
    counted = [(judged, count(judged, wanted.gallery)) for judged in given.judged]
    if any(numbers.kept is not None for _, numbers in counted):
        counted = [(judged, _without_repeats(numbers)) for judged, numbers in counted]
    shown = [one for _, numbers in counted for group in numbers.groups.values() for one in group]
    contents: dict[Key, Content] = {}
    notes: list[str] = []
    if shown and not wanted.dry_run:
        contents, notes = fetch(shown, given.sources, read or ReadOptions())
    sections = [Section(judged, numbers, _groups(numbers, contents)) for judged, numbers in counted]
    total = len(sections) + len(given.metrics)
    if wanted.dry_run:
        notes = [f"would show {len(shown)} samples"]
        return PageReport(
            out=out, seconds=time.monotonic() - started, sections=total, notes=tuple(notes)
        )
    page = render(sections, list(given.metrics), notes, date.today())
    make_folder(out.absolute().parent)
    write_atomically(out, partial(_write, page))
    return PageReport(
        out=out,
        seconds=time.monotonic() - started,
        sections=total,
        cards=len(shown),
        bytes=out.stat().st_size,
        notes=() if wanted.quiet else tuple(notes),
    )


def _check(options: ReportOptions, out: Path) -> None:
    """Refuse what can't be meant, from the request alone."""
    if options.gallery < 0:
        raise RequestError(f"--gallery {options.gallery}: must be 0 or more")
    if out.suffix not in (".html", ".htm") or out.is_dir():
        raise RequestError(f"--out {out}: name a file that ends in .html")
    check_folder(out.absolute().parent)
    if out.is_file() and not options.overwrite and _TITLE not in out.read_text("utf-8", "replace"):
        raise RequestError(f"--out {out}: there, and not a report; choose another, or --overwrite")


_TITLE = "<title>mmsieve report</title>"


def _without_repeats(numbers: Numbers) -> Numbers:
    """A table beside its decisions shows only what failed: they show the rest."""
    if numbers.kept is not None:
        return numbers
    failed = {title: group for title, group in numbers.groups.items() if title == FAILED}
    return replace(numbers, groups=failed)


def _groups(
    numbers: Numbers, contents: dict[Key, Content]
) -> dict[str, list[tuple[Shown, Content]]]:
    return {
        title: [(one, contents.get((one.shard, one.key), Content())) for one in group]
        for title, group in numbers.groups.items()
    }


def _write(page: str, path: Path) -> None:
    path.write_text(page, "utf-8")
