"""The `mmsieve` command: one subcommand per verb; parses, calls the verb, prints its report."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cyclopts import App, CycloptsError, ValidationError

from mmsieve.errors import MmsieveError, RequestError, is_order_to_end
from mmsieve.outputs import is_full
from mmsieve.registry import registered
from mmsieve.reports import Printed, Report
from mmsieve.sanitize import plain, write
from mmsieve.sources import one_line

if TYPE_CHECKING:
    from cyclopts.help.formatters import DefaultFormatter

OK, FAILED, WRONG_REQUEST, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


app = App(
    name="mmsieve",
    help="Clean the image-text data that multimodal models learn from.",
    help_epilogue="Any command takes --debug: a traceback where there is an error.",
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # ours says how to go on
)


# A verb's module is imported when the verb is used.
VERBS = ("score", "enhance", "rate", "filter", "select", "export", "evaluate", "report", "convert")
for verb in VERBS:
    app.command(f"mmsieve.verbs.{verb}:{verb}")
app.command("mmsieve.verbs.audit:audit")
app.command("mmsieve.verbs.look:look")
app.command("mmsieve.verbs.layouts:list_layouts", name="layouts")
app.command("mmsieve.verbs.models:list_models", name="models")
for verb, place in registered("verb").items():
    app.command(place, name=verb)

generation = App(name="generate", help="Write training data: texts, judgements, ratings.")
for what in ("captions", "documents", "assessments", "ratings"):
    generation.command(f"mmsieve.verbs.generate:generate_{what}", name=what)
app.command(generation)

training = App(name="train", help="Train a checkpoint from a recipe.")
for goal in ("projector", "classifier", "rater", "enhancer"):
    training.command(f"mmsieve.verbs.train:train_{goal}", name=goal)
app.command(training)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 all done, 1 some shards failed, 2 a wrong request.

    130 and 143: it was interrupted (SIGINT), or told to end (SIGTERM).
    """
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words
    if _asks_for_help(words):
        _import_all(app)
        generation.help_formatter = _teachers_help(words)
    try:
        with _heeding_signals():
            code = _run(words, debug)
    except SystemExit as exited:  # with this code Ray's handler of SIGTERM ends a program
        if exited.code != signal.SIGTERM:
            raise
        code = _say_ended("terminated", TERMINATED)
    except TerminatedError:
        code = _say_ended("terminated", TERMINATED)
    except KeyboardInterrupt:
        code = _say_ended("interrupted", INTERRUPTED)
    sys.exit(code)


ISSUES = "https://github.com/mmsieve/mmsieve/issues"
_UNFORESEEN = (
    "internal error: {}; run again with --debug for the traceback, and report it at " + ISSUES
)


def _run(words: list[str], debug: bool) -> int:
    """Parse, carry out, print; returns the exit code."""
    try:
        given = [word for word in words if word != "--debug"]
        result = app(given, exit_on_error=False, print_error=False)
        return _show(result, debug) if isinstance(result, Printed) else OK
    except (RequestError, CycloptsError) as error:
        return _fail(error, debug, WRONG_REQUEST)
    except MmsieveError as error:
        return _fail(error, debug, FAILED)
    except BaseException as error:
        if is_order_to_end(error):
            raise
        if is_full(error):
            fix = "make room; the same command goes on where this one stopped"
            return _fail(MmsieveError(f"{error}: {fix}"), debug, FAILED)
        return _fail(error, debug, FAILED, _UNFORESEEN)


class TerminatedError(KeyboardInterrupt):
    """SIGTERM has come: everything ends as with an interrupt."""


class InterruptedByUserError(KeyboardInterrupt):
    """SIGINT has come. (After a plain KeyboardInterrupt in the middle of an import Python ends
    itself by SIGINT, whatever exit code it is given.)"""


@contextmanager
def _heeding_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the work in good order; a second SIGTERM ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    process = os.getpid()

    def end(number: int, frame: object) -> None:
        if os.getpid() != process:  # a forked worker, that nobody waits for
            os._exit(TERMINATED)
        if number == signal.SIGINT:
            raise InterruptedByUserError
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise TerminatedError

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, end)
    if before[signal.SIGINT] is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say_ended(how: str, code: int) -> int:
    write(f"{how}; the same command goes on where this one stopped", sys.stderr)
    return code


def _asks_for_help(words: list[str]) -> bool:
    """Whether what the verbs are for has to be known."""
    return words in ([], ["generate"], ["train"]) or not {"--help", "-h"}.isdisjoint(words)


def _import_all(parent: App) -> None:
    for name in parent:
        child = parent[name]
        if child is not parent and not name.startswith("-"):
            _import_all(child)


def _teachers_help(words: list[str]) -> "DefaultFormatter":
    """Prints help, without the options of teachers that the command line doesn't name."""
    from cyclopts.help.formatters import DefaultFormatter

    from mmsieve.generation.options import OPTIONS_OF

    named = {word.removeprefix("--teacher=") for word in words}

    class Formatter(DefaultFormatter):
        def __call__(self, console: Any, options: Any, panel: Any) -> None:
            teacher = panel.title.removeprefix(OPTIONS_OF)
            if teacher == panel.title or teacher in named:
                super().__call__(console, options, panel)

    return Formatter()


def _show(result: Printed, debug: bool) -> int:
    """Name what failed, and print the report; returns the exit code."""
    code = OK
    if isinstance(result, Report) and (result.failed or result.achieved_nothing):
        code = FAILED
        for name, problem in result.failed.items():
            write(plain(f"{result.unit}{name}: {problem}"), sys.stderr)
            if debug and name in result.details:
                write(result.details[name].rstrip(), sys.stderr)
    write(result.summary(), sys.stdout)
    return code


def _fail(error: BaseException, debug: bool, code: int, said: str = "{}") -> int:
    if debug:
        write("".join(traceback.format_exception(error)), sys.stderr)
    message = " ".join(_message(error).split())
    write(f"mmsieve: {said.format(message)}", sys.stderr)
    return code


def _message(error: BaseException) -> str:
    """What is wrong; of a refused value as from Python: the flag, the value, what is allowed."""
    if not isinstance(error, MmsieveError | CycloptsError):
        return f"{type(error).__name__}: {one_line(error)}"
    if isinstance(error, ValidationError) and error.argument and error.argument.tokens:
        token = error.argument.tokens[0]
        return f"{token.keyword or error.argument.name} {token.value}: {error.exception_message}"
    return str(error)
