"""The `mmsieve` command: one subcommand per verb; parses, calls the verb, prints its report."""

import sys
import traceback
from typing import Protocol

from cyclopts import App, CycloptsError

from mmsieve.errors import MmsieveError, RequestError
from mmsieve.verbs.convert import convert
from mmsieve.verbs.demo import demo
from mmsieve.verbs.enhance import enhance
from mmsieve.verbs.evaluate import evaluate
from mmsieve.verbs.export import export
from mmsieve.verbs.filter import filter_tables
from mmsieve.verbs.generate import (
    generate_assessments,
    generate_captions,
    generate_documents,
    generate_ratings,
)
from mmsieve.verbs.models import list_models
from mmsieve.verbs.rate import rate
from mmsieve.verbs.report import report
from mmsieve.verbs.score import score
from mmsieve.verbs.select import select
from mmsieve.verbs.train import train_classifier, train_enhancer, train_projector, train_rater

OK, FAILED, WRONG_REQUEST, INTERRUPTED = 0, 1, 2, 130


class Report(Protocol):
    """What every verb returns."""

    failed: dict[str, str]

    def summary(self) -> str:
        """What a user should know, in lines."""
        ...


app = App(
    name="mmsieve",
    help="Clean the image-text data that multimodal models learn from.",
    help_epilogue="Any command takes --debug: a traceback where there is an error.",
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # ours says how to go on
)
app.command(score)
app.command(enhance)
app.command(rate)
app.command(filter_tables, name="filter")
app.command(select)
app.command(export)
app.command(evaluate)
app.command(report)
app.command(convert)
app.command(list_models, name="models")
app.command(demo)

generation = App(name="generate", help="Write training data: texts, judgements, ratings.")
generation.command(generate_captions, name="captions")
generation.command(generate_documents, name="documents")
generation.command(generate_assessments, name="assessments")
generation.command(generate_ratings, name="ratings")
app.command(generation)

training = App(name="train", help="Train a checkpoint from a recipe.")
training.command(train_projector, name="projector")
training.command(train_classifier, name="classifier")
training.command(train_rater, name="rater")
training.command(train_enhancer, name="enhancer")
app.command(training)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 all done, 1 some shards failed, 2 a wrong request."""
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words
    try:
        result = app(
            [word for word in words if word != "--debug"], exit_on_error=False, print_error=False
        )
        code = _show(result, debug) if hasattr(result, "summary") else OK
    except (RequestError, CycloptsError) as error:
        code = _fail(error, debug, WRONG_REQUEST)
    except MmsieveError as error:
        code = _fail(error, debug, FAILED)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on where this one stopped\n")
        code = INTERRUPTED
    sys.exit(code)


def _show(report: Report, debug: bool) -> int:
    unit = getattr(report, "unit", "shard ")
    for shard, problem in report.failed.items():
        sys.stderr.write(f"{unit}{shard}: {problem}\n")
        if debug and shard in getattr(report, "details", {}):
            sys.stderr.write(report.details[shard])  # type: ignore[attr-defined]
    sys.stdout.write(report.summary() + "\n")
    return FAILED if report.failed else OK


def _fail(error: Exception, debug: bool, code: int) -> int:
    if debug:
        traceback.print_exception(error)
    message = " ".join(str(error).split())
    sys.stderr.write(f"mmsieve: {message}\n")
    return code
