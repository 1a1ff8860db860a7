"""Command lines that people have written down still parse, and still mean the same."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from mmsieve.cli import app

from .recording import RECORDED, check_json

LINES = (RECORDED / "command_lines.txt").read_text("utf-8").splitlines()


def test_command_lines_mean_what_they_meant():
    check_json("command_lines.json", {line: _parsed(line) for line in LINES})


def _parsed(line: str) -> dict[str, Any]:
    """Name -> what is given for it, whichever group of options it is in."""
    words = shlex.split(line)
    _, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    found: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        found |= _changed(value) if dataclasses.is_dataclass(value) else {name: value}
    return {name: _plain(found[name]) for name in sorted(found)}


def _changed(options: Any) -> dict[str, Any]:
    """The fields of a group that aren't what they are by default."""
    found: dict[str, Any] = {}
    for part in dataclasses.fields(options):
        value = getattr(options, part.name)
        if dataclasses.is_dataclass(value):
            found |= _changed(value)
        elif value != part.default:
            found[part.name] = value
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value
