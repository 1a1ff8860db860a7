"""The pages of tables and of statuses name every column and every reason that there is."""

import re

import pyarrow as pa
import pytest

from mmsieve import decisions, tables
from mmsieve.errors import Status
from mmsieve.filtering import decide
from mmsieve.methods.aitqe.annotator import EnhanceOptions
from mmsieve.methods.aitqe.answers import Refused
from mmsieve.methods.load import load_annotator, load_assessor, load_raters
from mmsieve.methods.mmssr.annotator import RatingOptions
from mmsieve.selection import choosing
from tests.docs.test_pages import DOCS


def rows(page: str, title: str) -> list[list[str]]:
    """The cells of the table of a page whose first column has this title."""
    text = (DOCS / page).read_text("utf-8")
    (body,) = re.findall(rf"^\| {re.escape(title)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.M)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in body.splitlines()]


def columns(title: str) -> dict[str, pa.DataType]:
    """Column -> type, as the page of tables has them."""
    found = {}
    for names, kind, *_ in rows("tables.md", title):
        type_ = pa.list_(pa.string()) if kind == "list of string" else pa.type_for_alias(kind)
        found |= dict.fromkeys(re.findall(r"`([^`]+)`", names), type_)
    return found


def enhanced() -> pa.Schema:
    wanted = EnhanceOptions(explain=True, accept_if_better="unifilter-tiny")
    return load_assessor("aitqe-tiny", wanted).schema


def rated() -> pa.Schema:
    wanted = RatingOptions(styler="mmssr-tiny-styler", expected=True)
    return load_raters("mmssr-tiny-scorer", wanted).schema


@pytest.mark.parametrize(
    ("title", "made"),
    [
        ("every table", lambda: tables.COMMON.append(tables.METADATA)),
        ("`score`", lambda: load_annotator("unifilter-tiny").schema),
        ("`score --model rules`", lambda: load_annotator("rules").schema),
        ("`enhance`", enhanced),
        ("`rate`", rated),
        ("decisions of `filter`, `select`", lambda: decisions.SCHEMA),
    ],
)
def test_the_page_of_tables_has_every_column(title, made):
    schema, listed = made(), columns(title)
    alike = {name.removeprefix("..."): name for name in listed if name.startswith("...")}
    there = {}
    for column in schema:
        ending = next((end for end in alike if column.name.endswith(end)), None)
        there[column.name if ending is None else alike[ending]] = column.type
    assert listed == there


def first_words(page: str, title: str) -> list[str]:
    """What the first cells of a table have, without their marks."""
    return [cells[0].strip("`") for cells in rows(page, title)]


def test_the_page_of_statuses_has_every_status_and_reason():
    assert set(first_words("statuses.md", "status")) == set(Status) - {Status.OK}
    reasons = first_words("statuses.md", "reason")
    assert sorted(reasons) == sorted([*decide.REASONS, *choosing.REASONS])


def test_every_reason_says_what_to_do():
    assert all(len(cells) == 3 and all(cells) for cells in rows("statuses.md", "reason"))


def test_the_page_of_tables_has_every_refusal_of_a_rewrite():
    (cells,) = (row for row in rows("tables.md", "`enhance`") if row[0] == "`rewrite_refused`")
    assert set(re.findall(r"`([a-z_]+)`", cells[2])) == set(Refused)
