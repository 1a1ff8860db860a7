"""The form of an audit: one HTML file in which a person judges samples without seeing their scores.

It asks for nothing, keeps what was judged in the browser, and exports it as JSON lines. The samples
are as many of every band of scores, in an order that says nothing about them.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmsieve.errors import RequestError, Status
from mmsieve.filtering.ids import hash_strings
from mmsieve.read import ReadOptions
from mmsieve.reporting.contents import LARGE, ContentName, SampleContent, read_contents
from mmsieve.reporting.explorer.explorer import Explorer, explore
from mmsieve.reporting.explorer.page_data import to_script
from mmsieve.reporting.inputs import ReportTable
from mmsieve.reporting.report import content_hash, own_file, own_script
from mmsieve.tables import find_score, types_of

TITLE = "<title>mmsieve audit</title>"
QUESTION = "Is this text right about its pictures, and worth learning from?"


@dataclass(frozen=True)
class AuditForm:
    """What a form shows."""

    question: str
    samples: list[dict[str, Any]]
    """Key, shard, place and parts of each."""

    @property
    def name(self) -> str:
        """What the browser keeps its state under: another choice of samples is another form."""
        names = [[one["shard"], one["key"], one["place"]] for one in self.samples]
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]


def column_of(table: ReportTable, by: str | None) -> str:
    """The column of the scores; raises RequestError where it isn't known."""
    found = by or find_score(types_of(table.schema))
    if found is None:
        raise RequestError(f"{table.path}: which column is the score? Say --by COLUMN")
    return found


def scores_of(table: ReportTable, by: str | None, samples: int) -> Explorer:
    """The counts of a table's scores, and so many samples; RequestError where it has no score."""
    name = column_of(table, by)
    found = explore([table], samples, name)
    if found is None:
        raise RequestError(f"{table.path}: no row has a {name}, so there is nothing to audit")
    return found


def make_form(
    table: ReportTable, scores: Explorer, sources: list[str], read: ReadOptions, question: str
) -> tuple[AuditForm, list[str]]:
    """The form of a sample, with its texts and pictures; and notes on what was not found."""
    chosen = scores.sample.filter(scores.sample["status"] == Status.OK.value)
    order = hash_strings(chosen["shard"] + "/" + chosen["key"]).argsort(kind="stable")
    wanted = [(table, one) for one in scores.samples() if one.error is None]
    contents: dict[ContentName, SampleContent]
    contents, notes = read_contents(wanted, sources, read, LARGE)
    samples = []
    for row in chosen[order.tolist()].iter_rows(named=True):
        name = (table.path, row["shard"], row["key"], row["place"])
        found = contents.get(name)
        if found is None:
            continue
        parts = [list(piece.kind) for piece in found.pieces]
        samples.append({key: row[key] for key in ("key", "shard", "place")} | {"parts": parts})
    if not samples:
        raise RequestError("no sample could be read: give the sources that the table was made of")
    return AuditForm(question, samples), notes


def render_form(form: AuditForm) -> str:
    """The whole file. Every text in it is escaped; it runs its own script and asks for nothing."""
    environment = Environment(
        loader=PackageLoader("mmsieve.auditing", "."), autoescape=True, undefined=StrictUndefined
    )
    script, style = own_script(("elements", "audit")), own_file("report.css")
    data = {"name": form.name, "question": form.question, "samples": form.samples}
    return environment.get_template("audit.html.j2").render(
        question=form.question,
        script=Markup(script),  # noqa: S704 - the package's own file
        style=Markup(style),  # noqa: S704
        script_hash=content_hash(script),
        style_hash=content_hash(style),
        data=Markup(to_script(data)),  # noqa: S704
    )
