"""Options that verbs share, the ranges of numbers, and the report that every verb returns."""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
from cyclopts import App
from cyclopts.argument import Argument

import mmsieve
from mmsieve.cli import app, main
from mmsieve.options import Range, parse_whole
from mmsieve.reports import DecisionReport, Report

RENDERED = "generate captions --teacher rendered"
REFUSED = {
    "score a --model m --limit 0": "--limit 0: must be at least 1",
    "score a --model m --limit 2.5": "--limit 2.5: must be a whole number, at least 1",
    "score a --model m --limit inf": "--limit inf: must be a whole number, at least 1",
    "score a --model m --limit some": "--limit some: must be a whole number, at least 1",
    "score a --model m --workers -1": "--workers -1: must be at least 0",
    "score a --model m --max-pixels 0": "--max-pixels 0: must be at least 1",
    "enhance a --model m --max-edit 2": "--max-edit 2: must be at least 0 and at most 1",
    "enhance a --model m --rewrite-below 12": "--rewrite-below 12: must be at least 0 and at most",
    "rate a --model m --batch-tokens 1e-3": "--batch-tokens 1e-3: must be a whole number, at",
    "filter a --top-fraction 0": "--top-fraction 0: must be above 0 and at most 1",
    "filter a --top-count 2.5": "--top-count 2.5: must be a whole number, at least 1",
    "filter a --min-score inf": "--min-score inf: must be finite",
    "select a --budget 3 --seed -1": "--seed -1: must be at least 0 and below 9223372036854775808",
    "select a --budget-tokens 1.5": "--budget-tokens 1.5: must be a whole number, at least 1",
    "export a --shard-size 0": "--shard-size 0: must be at least 1",
    "export a --workers 0": "--workers 0: must be at least 1",
    "evaluate --resamples 0": "--resamples 0: must be at least 1",
    "report a --gallery -1": "--gallery -1: must be at least 0",
    "demo --count 11": "--count 11: must be at least 12",
    f"{RENDERED} --count 2.5": "--count 2.5: must be a whole number, at least 1",
    f"{RENDERED} --count 4 --val-fraction nan": "--val-fraction nan: must be at least 0 and at",
    "generate captions a --teacher openai:m --count 4 --timeout 0": "--timeout 0: must be above 0",
    "train projector r --workers -2": "--workers -2: must be at least 0",
    "train rater r --seed 0.5": "--seed 0.5: must be a whole number, at least 0",
}


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main([*words])
    out, err = capsys.readouterr()
    return int(str(end.value.code)), out, err


@pytest.mark.parametrize("words", REFUSED)
def test_a_number_out_of_its_range_is_refused_in_one_line(
    words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code, said, wrong = run(capsys, *words.split(), "--out", str(out))
    assert (code, said, wrong.count("\n")) == (2, "", 1)
    assert wrong.startswith(f"mmsieve: {REFUSED[words]}")
    assert not out.exists()


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (mmsieve.RunOptions, {"limit": 0}, "--limit 0: must be at least 1"),
        (mmsieve.RunOptions, {"limit": 2.5}, "--limit 2.5: must be a whole number, at least 1"),
        (mmsieve.RunOptions, {"engine": "slurm"}, "--engine slurm: is not one of local, ray"),
        (mmsieve.CutOptions, {"top_fraction": 1.5}, "--top-fraction 1.5: must be above 0 and at"),
        (mmsieve.CutOptions, {"min_score": float("nan")}, "--min-score nan: must be finite"),
        (mmsieve.EnhanceOptions, {"max_edit": "x"}, "--max-edit x: must be a number, at least 0"),
        (mmsieve.ExportOptions, {"workers": 0}, "--workers 0: must be at least 1"),
        (mmsieve.ScoringOptions, {"dtype": "int8"}, "--dtype int8: is not one of auto, float32"),
        (mmsieve.TeacherOptions, {"diversify": 1}, "--diversify 1: must be at least 2"),
    ],
)
def test_from_python_too(kind: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(mmsieve.RequestError, match=f"^{re.escape(message)}"):
        kind(**values)


@pytest.mark.parametrize(
    ("text", "value"),
    [("2000", 2000), ("2_000", 2000), ("2e9", 2 * 10**9), ("2.0", 2), ("0x10", 16), ("007", 7)],
)
def test_whole_numbers_may_be_written_as_people_write_them(text: str, value: int) -> None:
    assert parse_whole(text) == value and isinstance(parse_whole(text), int)


@pytest.mark.parametrize("count", ["2000", "2_000", "2e3"])
def test_on_the_command_line_too(
    count: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--count", count, "--dry-run", "--out", str(tmp_path / "out")]
    code, said, _ = run(capsys, *RENDERED.split(), *words)
    assert code == 0 and said.startswith("would write 2,000 captions")


def arguments(parent: App = app, prefix: str = "") -> Iterator[tuple[str, Argument]]:
    for name in parent:
        child = parent[name]
        if name.startswith("-"):
            continue
        if child.default_command is not None:
            for argument in child.assemble_argument_collection():
                yield f"{prefix}{name} {argument.name}", argument
        yield from arguments(child, f"{prefix}{name} ")


ARGUMENTS = dict(arguments())


def test_every_number_has_a_range() -> None:
    numbers = {
        name: argument
        for name, argument in ARGUMENTS.items()
        if {int, float} & {argument.hint, *get_args(argument.hint)}
    }
    assert len(numbers) > 50
    # a count or a fraction; one for each --data: checked with the other options
    goals = ("projector", "classifier", "rater", "enhancer")
    elsewhere = {"select --budget", *(f"train {goal} --data-weight" for goal in goals)}
    unchecked = {name for name, argument in numbers.items() if not ranges(argument)}
    assert unchecked == elsewhere


def ranges(argument: Argument) -> list[Range]:
    validators: Any = argument.parameter.validator
    return [validator for validator in validators if isinstance(validator, Range)]


def test_what_verbs_share_stands_in_one_place_of_help() -> None:
    shared = ("--overwrite", "--dry-run", "--quiet", "--workers", "--limit")
    for name, argument in ARGUMENTS.items():
        if name.endswith(shared):
            (group,) = argument.parameter.group  # type: ignore[misc,union-attr]
            assert getattr(group, "name", group) == "Common options", name


def test_every_verb_returns_the_same_kind_of_report() -> None:
    names = [name for name in mmsieve.__all__ if name.endswith("Report")]
    for name in set(names) - {
        "DoctorReport",
        "LayoutsReport",
        "LookReport",
        "ModelsReport",
        "StatusReport",
    }:  # nothing is made
        kind = getattr(mmsieve, name)
        assert issubclass(kind, Report) and is_dataclass(kind)
        assert {"out", "seconds", "notes", "failed"} <= {field.name for field in fields(kind)}
    assert issubclass(mmsieve.FilterReport, DecisionReport)
    assert issubclass(mmsieve.SelectReport, DecisionReport)


@pytest.mark.parametrize("debug", [False, True])
def test_what_failed_is_named_on_stderr(
    debug: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*sources: str, out: Path) -> mmsieve.RunReport:
        failed, details = {"a/1": "torn", "a/2": "gone"}, {"a/2": "Traceback ...\n"}
        return mmsieve.RunReport(
            out=out, rows=3, shards=3, statuses={"ok": 3}, failed=failed, details=details
        )

    small = App(result_action="return_value")
    small.command(fails)
    monkeypatch.setattr("mmsieve.cli.app", small)
    code, said, wrong = run(capsys, "fails", "--out", "here", *(["--debug"] if debug else []))
    last = "3 rows of 3 shards (3 ok), 2 shards failed or incomplete in 0.0 s: here\n"
    assert (code, said) == (1, last)
    assert wrong == "shard a/1: torn\nshard a/2: gone\n" + ("Traceback ...\n" if debug else "")


def test_a_list_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    code, said, wrong = run(capsys, "models")
    assert (code, wrong) == (0, "") and said == mmsieve.list_models().summary() + "\n"


def test_a_report_says_how_long_its_verb_took(tmp_path: Path) -> None:
    options = mmsieve.GenerateOptions(teacher="rendered", count=4)
    report = mmsieve.generate_captions(out=tmp_path / "out", options=options)
    assert report.seconds > 0
    last = (
        rf"4 texts in train\.json, 0 texts in val\.json in {report.seconds:.1f} s: {tmp_path}/out"
    )
    assert re.fullmatch(last, report.summary().splitlines()[-1])
