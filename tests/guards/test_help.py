"""`--help` of every verb says what it said."""

import pytest

from mmsieve.cli import main

from .recording import check_text

VERBS = [
    "",
    "score",
    "enhance",
    "rate",
    "filter",
    "select",
    "export",
    "evaluate",
    "report",
    "convert",
    "models",
    "demo",
    "generate",
    "generate captions",
    "generate captions --teacher rendered",
    "generate documents",
    "generate assessments",
    "generate ratings",
    "train",
    "train projector",
    "train classifier",
    "train rater",
    "train enhancer",
]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.replace(" ", "-") or "mmsieve")
def test_the_help_is_as_recorded(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as done:
        main([*verb.split(), "--help"])
    assert done.value.code == 0
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    name = "-".join(["mmsieve", *verb.split()])
    check_text(f"help/{name}.txt", "\n".join(lines).strip() + "\n")
