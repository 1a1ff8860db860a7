"""The command line, in this process."""

import contextlib
import io
from typing import NamedTuple

from mmsieve.cli import main


class Ended(NamedTuple):
    """How a command line ended."""

    code: int
    out: str
    err: str


def run_line(*words: object) -> Ended:
    """What a command line says and ends with; `words` are those after `mmsieve`."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(word) for word in words])
        except SystemExit as ended:
            return Ended(int(ended.code or 0), out.getvalue(), err.getvalue())
    raise AssertionError("a command line ends with a code")
