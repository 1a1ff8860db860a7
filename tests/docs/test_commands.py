"""Commands in the lines of the pages, in tables and bullets, can be typed as they stand."""

import re
import shlex
from pathlib import Path

import pytest
from cyclopts import CycloptsError, MissingArgumentError

from mmsieve import cli
from tests.docs.test_pages import DOCS, PAGES, ROOT

_FENCED = re.compile(r"```.*?```", re.S)
_COMMAND = re.compile(r"`mmsieve ([^`]+)`")
_LEFT_OUT = "..."
"""Stands in a command for what is not said."""
_TRIED = re.compile(r"the (?:first )?`(\w+)` command with `(--limit 1000)`")


def commands(page: Path) -> list[str]:
    """What follows `mmsieve` in the inline code of a page."""
    text = _FENCED.sub("", page.read_text("utf-8"))
    return [" ".join(found.split()) for found in _COMMAND.findall(text)]


def problem(command: str) -> str | None:
    """What the command line has against a command; a verb alone is a mention of it."""
    words = shlex.split(command)
    words = words[: words.index(">")] if ">" in words else words
    is_whole = _LEFT_OUT not in words and len(words) > 1 + (words[0] in ("generate", "train"))
    try:
        given = [word for word in words if word != _LEFT_OUT]
        cli.app.parse_args(given, exit_on_error=False, print_error=False)
    except MissingArgumentError as error:
        return str(error) if is_whole else None
    except CycloptsError as error:
        return str(error)
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_command_in_a_line_is_one(page):
    wrong = {command: problem(command) for command in commands(page)}
    assert not {command: said for command, said in wrong.items() if said}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("filter scores/ --min-score 1", "--out"),
        ("evaluate A/ B/", "--out"),
        ("score ... --no-such 1", "Unknown option"),
        ("captions", "Unknown command"),
    ],
)
def test_what_can_not_be_typed_is_told(command, said):
    assert said in (problem(command) or "")


@pytest.mark.parametrize("command", ["train rater", "demo", "score ... --limit 3", "status OUT"])
def test_a_mention_or_a_part_may_leave_out_options(command):
    assert problem(command) is None


@pytest.mark.parametrize("page", sorted((DOCS / "data").glob("*.md")), ids=lambda page: page.stem)
def test_the_command_that_tells_the_rate_takes_a_limit(page):
    text = page.read_text("utf-8")
    (found,) = _TRIED.findall(" ".join(text.split()))
    verb, limit = found
    assert f"\nmmsieve {verb} " in text
    assert problem(f"{verb} ... {limit}") is None
