"""audit: a form in which people judge samples blindly; and from their labels, where to cut."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter
from rich import box
from rich.table import Table as PrintedTable

from mmsieve.auditing.form import QUESTION, TITLE, column_of, make_form, render_form, scores_of
from mmsieve.auditing.labels import agreement_of, find_rows, read_labels
from mmsieve.auditing.precision import CutEstimate, Precision, check_scipy
from mmsieve.decisions import KIND as DECISIONS
from mmsieve.errors import RequestError
from mmsieve.evaluation.printed import render
from mmsieve.keywords import flat_options
from mmsieve.locks import writing_to
from mmsieve.options import COMMON, INPUT, OUTPUT, OutputOptions, Positive, own
from mmsieve.outputs import check_file, write_text
from mmsieve.read import ReadOptions
from mmsieve.reporting.inputs import ReportTable, find_table
from mmsieve.reports import Report, timed
from mmsieve.stores.paths import place_of
from mmsieve.tables import open_tables
from mmsieve.wording import counted

_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05)
"""Of the rows that are kept, by the cuts that are printed."""


@Parameter(name="*", group=own("Form"))
@dataclass(frozen=True, kw_only=True)
class AuditOptions(OutputOptions):
    """How an audit is made and read."""

    samples: Positive = 200
    """Samples to judge, as many of every band of scores."""
    by: str | None = None
    """Column with the score; by default quality_score, or else a table's only column of
    floating-point numbers."""
    question: str = QUESTION
    """What raters are asked."""
    overwrite: Annotated[bool, Parameter(group=COMMON)] = False
    """Replace a file that isn't an audit."""


@dataclass(frozen=True, kw_only=True)
class AuditReport(Report):
    """What an audit asks, or found."""

    samples: int = 0
    """In the form, or judged."""
    cuts: tuple[CutEstimate, ...] = ()
    """Some cuts, from the lowest, where labels were read."""
    agreement: float | None = None
    """Krippendorff's alpha of several raters."""
    raters: tuple[str, ...] = field(default=())

    def counts(self) -> str:
        """Samples in the form, or judged."""
        return f"{counted(self.samples, 'samples')} {'judged' if self.cuts else 'to judge'}"

    def lines(self) -> list[str]:
        """What cuts are worth, and the notes."""
        printed = render([_printed(self.cuts), ""]) if self.cuts else []
        if self.agreement is not None:
            among = f"agreement of {len(self.raters)} raters (Krippendorff's alpha)"
            printed.append(f"{among}: {self.agreement:.3f}")
        return [*printed, *self.notes]


def _printed(cuts: Sequence[CutEstimate]) -> PrintedTable:
    table = PrintedTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in ("--min-score", "keeps", "precision (95%)", "recall (95%)"):
        table.add_column(title, justify="right")
    for one in cuts:
        table.add_row(f"{one.threshold:g}", f"{one.kept:,}", str(one.precision), str(one.recall))
    return table


@flat_options
@timed
def audit(
    *inputs: str,
    out: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    labels: Annotated[Sequence[Path], Parameter(name="--read", negative="", group=INPUT)] = (),
    read: ReadOptions | None = None,
    options: AuditOptions | None = None,
) -> AuditReport:
    """Have people judge a sample of a table without its scores; read what they judged.

    First `audit TABLE SOURCE... --out form.html`: a form that works offline, one key a judgement,
    and exports labels. Then `audit TABLE --read labels.jsonl`: precision and recall of cuts with
    95% intervals; `filter TABLE --labels labels.jsonl --min-precision 0.9` cuts by them.

    Parameters
    ----------
    inputs
        A table of scores, and for a form the shards that it is about.
    out
        The form: a file that ends in .html. With --read the estimates of all cuts, as .json.
    labels
        Files that the form exported, one for each rater.
    """
    wanted = options or AuditOptions()
    out = None if out is None else place_of(out)
    table, sources = _split(inputs)
    paths = [labels] if isinstance(labels, (str, Path)) else list(labels)
    if paths:
        return _read_audit(table, sources, [Path(path) for path in paths], out, wanted)
    return _make_audit(table, sources, out, read or ReadOptions(), wanted)


def _split(inputs: Sequence[str]) -> tuple[ReportTable, list[str]]:
    """The one table, and what else was given."""
    found = [(given, find_table(place_of(given))) for given in inputs]
    tables = [one for _, one in found if one is not None and one.kind != DECISIONS]
    if len(tables) != 1:
        raise RequestError(
            f"{counted(len(tables), 'tables')} of scores given: give one, and with it its shards"
        )
    return tables[0], [given for given, one in found if one is None]


def _make_audit(
    table: ReportTable,
    sources: list[str],
    out: Path | None,
    read: ReadOptions,
    wanted: AuditOptions,
) -> AuditReport:
    if out is None:
        raise RequestError("say --out FORM.html for a form, or --read LABELS.jsonl to read labels")
    if out.suffix not in (".html", ".htm"):
        raise RequestError(f"--out {out}: name a file that ends in .html")
    if not sources:
        raise RequestError("no sources given: name the shards after the table, to show samples")
    check_file(out, "an audit", _is_form, wanted.overwrite)
    scores = scores_of(table, wanted.by, wanted.samples)
    if wanted.dry_run:
        count = min(wanted.samples, sum(scores.cell_rows))
        note = f"would ask about {counted(count, 'samples')}"
        return AuditReport(out=out, samples=count, dry_run=True, notes=(note,))
    with writing_to(out, "audit", wait=wanted.wait):
        form, notes = make_form(table, scores, sources, read, wanted.question)
        write_text(out, render_form(form))
    return AuditReport(out=out, samples=len(form.samples), notes=tuple(notes))


def _is_form(file: Path) -> bool:
    return TITLE in file.read_text("utf-8", "replace")


def _read_audit(
    table: ReportTable,
    sources: list[str],
    paths: list[Path],
    out: Path | None,
    wanted: AuditOptions,
) -> AuditReport:
    check_scipy()
    if sources:
        raise RequestError(f"--read needs no sources: leave out {', '.join(sources)}")
    if out is not None and out.suffix != ".json":
        raise RequestError(f"--out {out}: with --read name a file that ends in .json")
    by = column_of(table, wanted.by)
    (opened,) = open_tables([table.path])
    found = find_rows(opened, by, read_labels(paths))
    scores = scores_of(table, by, 1)
    precision = Precision(scores, found)
    notes = []
    if found.unsure:
        notes.append(f"left out: {counted(found.unsure, 'samples')} that nobody could judge")
    if found.missing:
        notes.append(f"left out: {counted(found.missing, 'labels')} of samples without a score")
    if out is not None:
        estimates = [asdict(one) for one in precision.all()]
        with writing_to(out, "audit", wait=wanted.wait):
            write_text(out, json.dumps({"by": by, "cuts": estimates}, indent=1))
    return AuditReport(
        out=paths[0] if out is None else out,
        samples=len(found.scores),
        cuts=tuple(_some_cuts(precision)),
        agreement=agreement_of(found.judgements),
        raters=found.raters,
        notes=tuple(notes),
    )


def _some_cuts(precision: Precision) -> list[CutEstimate]:
    """Cuts that keep about these shares of the rows that have a score."""
    cuts = list(precision.all())
    kept = np.array([one.kept for one in cuts])
    places = {int(np.abs(kept - share * kept[0]).argmin()) for share in _SHARES}
    return [cuts[place] for place in sorted(places)]
