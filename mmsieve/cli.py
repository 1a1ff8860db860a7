"""The `mmsieve` command: one subcommand per verb; parses, calls the verb, prints its report."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from cyclopts import (
    App,
    CoercionError,
    CycloptsError,
    Group,
    MissingArgumentError,
    Parameter,
    UnknownOptionError,
    UnusedCliTokensError,
    ValidationError,
)

from mmsieve.errors import (
    FAILED,
    INTERRUPTED,
    OK,
    TERMINATED,
    WRONG_REQUEST,
    MmsieveError,
    RequestError,
    TerminatedError,
    as_ordered,
    exit_code,
    forget_orders,
    is_order_to_end,
    order_to_end,
)
from mmsieve.outputs import is_full
from mmsieve.prometheus import metrics_port, serving_metrics
from mmsieve.registry import registered
from mmsieve.reports import Printed, Report
from mmsieve.runs import as_typed
from mmsieve.sanitize import log_as_json, logs_json, plain, write
from mmsieve.stores.asking import one_line

CLEAN = Group("Clean data", sort_key=1)
OWN = Group("Models of your own", sort_key=2)
MORE = Group("Find your way", sort_key=3)

app = App(
    name="mmsieve",
    help="Clean the image-text data that multimodal models learn from.",
    version_flags=["--version", "-V"],
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # ours says how to go on
)
app["--help"].group = app["--version"].group = MORE

VERBS = {
    CLEAN: "look score enhance rate report audit filter select export",
    OWN: "evaluate convert",
    MORE: "status models layouts doctor",
}
"""In the order of work. A verb's module is imported when the verb is used."""
_LISTS = {"models": "list_models", "layouts": "list_layouts"}


def _add(name: str, place: str, group: Group) -> None:
    app.command(place, name=name, group=group, sort_key=len(list(app)))


for verbs_of, names in VERBS.items():
    for verb in names.split():
        _add(verb, f"mmsieve.verbs.{verb}:{_LISTS.get(verb, verb)}", verbs_of)
for verb, registered_place in registered("verb").items():
    _add(verb, registered_place, MORE)

generation = App(name="generate", help="Write training data: texts, judgements, ratings.")
for what in ("captions", "documents", "assessments", "ratings"):
    generation.command(f"mmsieve.verbs.generate:generate_{what}", name=what)

training = App(name="train", help="Train a checkpoint from a recipe.")
for goal in ("projector", "classifier", "rater", "enhancer"):
    training.command(f"mmsieve.verbs.train:train_{goal}", name=goal)

for order, below in enumerate((generation, training)):
    below.group, below.sort_key = OWN, order
    app.command(below)


@app.command(name="help", group=MORE)
def show_help(*command: str) -> None:
    """Show how a verb is used: `mmsieve help filter` is `mmsieve filter --help`."""


@app.command(group=MORE)
def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """Print a script that completes verbs and options in a shell.

    Parameters
    ----------
    shell
        The shell that the script is for.
    """
    before, app.default_parameter = app.default_parameter, Parameter(negative=())
    try:  # without the half of a switch that nobody means
        write(app.generate_completion(prog_name="mmsieve", shell=shell), sys.stdout)
    finally:
        app.default_parameter = before


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 all done, 1 some shards failed, 2 a wrong request.

    130 and 143: it was interrupted (SIGINT), or told to end (SIGTERM).
    """
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words
    with log_as_json("--log-json" in words):
        sys.exit(_main(words, debug))


def _main(words: list[str], debug: bool) -> int:
    """Carry the command line out until it ends, however that is; returns the exit code."""
    if words[:1] == ["help"] and words[1:] not in (["--help"], ["-h"]):
        words = [*words[1:], "--help"]
    if _asks_for_help(words):
        from mmsieve.usage import prepare

        prepare(app, words)
    try:
        with _heeding_signals():
            code = _run(words, debug)
    except (SystemExit, KeyboardInterrupt) as ended:
        code = exit_code(ended)
        if code not in _ENDED:
            raise
        write(
            f"{_ENDED[code]}; the same command goes on where this one stopped",
            sys.stderr,
            "end",
            code=code,
        )
    return code


_ENDED = {INTERRUPTED: "interrupted", TERMINATED: "terminated"}


ISSUES = "https://github.com/mmsieve/mmsieve/issues"
_UNFORESEEN = (
    "internal error: {}; run again with --debug for the traceback, and report it at " + ISSUES
)


def _run(words: list[str], debug: bool) -> int:
    """Parse, carry out, print; returns the exit code."""
    try:
        given = [word for word in words if word not in ("--debug", "--log-json")]
        given, port = metrics_port(given)
        with as_typed(words), serving_metrics(port):
            result = app(given, exit_on_error=False, print_error=False)
        return _show(result, debug) if isinstance(result, Printed) else OK
    except (RequestError, CycloptsError) as error:
        return _fail(error, debug, WRONG_REQUEST)
    except MmsieveError as error:
        return _fail(error, debug, FAILED)
    except BaseException as error:
        if is_order_to_end(error):
            raise
        if is_order_to_end(ordered := as_ordered(error)):
            raise ordered from None
        if is_full(error):
            fix = "make room; the same command goes on where this one stopped"
            return _fail(MmsieveError(f"{error}: {fix}"), debug, FAILED)
        return _fail(error, debug, FAILED, _UNFORESEEN)


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
            order_to_end(InterruptedByUserError())
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        order_to_end(TerminatedError())

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, end)
    if before[signal.SIGINT] is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        forget_orders()


def _asks_for_help(words: list[str]) -> bool:
    """Whether what the verbs are for has to be known."""
    return words in ([], ["generate"], ["train"]) or not {"--help", "-h"}.isdisjoint(words)


def _show(result: Printed, debug: bool) -> int:
    """Name what failed, and print the report; returns the exit code."""
    if isinstance(result, Report):
        for name, problem in result.failed.items():
            write(plain(f"{result.unit}{name}: {problem}"), sys.stderr, "failed", unit=name)
            if debug and name in result.details:
                write(result.details[name].rstrip(), sys.stderr)
    write(result.summary(), sys.stdout)
    if logs_json():
        write("", sys.stderr, "end", code=result.exit_code, **result.facts())
    return result.exit_code


def _fail(error: BaseException, debug: bool, code: int, said: str = "{}") -> int:
    if debug:
        write("".join(traceback.format_exception(error)), sys.stderr)
    message = " ".join(_message(error).split())
    write(f"mmsieve: {said.format(message)}", sys.stderr, "error", code=code)
    return code


def _message(error: BaseException) -> str:
    """What is wrong; of a refused value as from Python: the flag, the value, what is allowed."""
    if not isinstance(error, MmsieveError | CycloptsError):
        return f"{type(error).__name__}: {one_line(error)}"
    if isinstance(error, CycloptsError):
        return _message_of_words(error)
    return str(error)


def _message_of_words(error: CycloptsError) -> str:
    """What is wrong with a command line: the flag, the value, what is allowed, where more is."""
    verb = " ".join(error.command_chain or ())
    more = f"see mmsieve help {verb}".rstrip()
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        name = error.argument.name
        name = name if error.argument.index is None else name.lstrip("-").upper()
        return f"{verb}: {name} is missing; {more}"
    if isinstance(error, UnusedCliTokensError):
        return f"{verb}: takes no {' '.join(error.unused_tokens or ())!r}; {more}"
    tokens = error.argument.tokens if error.argument else ()
    if isinstance(error, ValidationError) and tokens and error.argument:
        flag = tokens[0].keyword or error.argument.name
        return f"{flag} {tokens[0].value}: {error.exception_message}"
    if isinstance(error, UnknownOptionError):
        return f"{_meaning(error)}; {more}"
    if isinstance(error, CoercionError) and error.token and error.token.value.endswith("%"):
        return f"{error} A share of 30% is written 0.3"
    return str(error)


def _meaning(error: UnknownOptionError) -> str:
    """What was meant by an unknown option: one that it begins, or else the nearest."""
    typed = (error.token.keyword or error.token.value).partition("=")[0]
    names = (name for one in error.argument_collection for name in one.names)
    begun = min((name for name in names if name.startswith(typed)), key=len, default=None)
    return f"Unknown option: {typed}. Did you mean {begun}?" if begun else str(error).rstrip(".")
