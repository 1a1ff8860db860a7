"""Reads the pages that `report` makes."""

import html
import re
from pathlib import Path


def section_of(page: Path, name: str) -> str:
    """The part of a page about one table."""
    sections = page.read_text("utf-8").split("<section")
    own = (one for one in sections if one.startswith(' id="s'))
    return next(one for one in own if f"<h2>{name} <small>" in one).split("</section>")[0]


def cards_of(section: str, title: str) -> list[str]:
    after = section.split(f"<h3>{title}</h3>")[1].split("<h3>")[0]
    return after.split("<article")[1:]


def told(page: str) -> str:
    """A page's text as it reads."""
    return html.unescape(page)


def cells(section: str, label: str) -> list[str]:
    """The cells of a row of a table."""
    row = re.search(
        rf'<th scope="row">(?:<bdi>)?{re.escape(label)}(?:</bdi>)?</th>(.*)</tr>', section
    )
    assert row is not None, label
    return re.findall(r"<td[^>]*>([^<]*)</td>", row[1])
