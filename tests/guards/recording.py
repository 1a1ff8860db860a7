"""Compares what a guard sees with what is recorded; records it where MMSIEVE_RECORD is set."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

RECORDED = Path(__file__).parent / "recorded"
TOLERANCE = 2e-4
"""Of a number, and of its size: kernels of another processor differ less."""


def check_text(name: str, text: str) -> None:
    """Compare a text with the recorded one, to the letter."""
    file = RECORDED / name
    if os.environ.get("MMSIEVE_RECORD"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8", newline="\n")
    assert text == file.read_text("utf-8"), f"not as recorded in {name}; see guards/__init__.py"


def check_json(name: str, value: Any, exact: bytes | None = None) -> None:
    """Compare a value with the recorded one: numbers with a point nearly, all else exactly.

    `exact`, the bytes behind the value, are compared too where MMSIEVE_EXACT is set.
    """
    file = RECORDED / name
    value = json.loads(json.dumps(value))
    digest = None if exact is None else hashlib.sha256(exact).hexdigest()
    if os.environ.get("MMSIEVE_RECORD"):
        file.parent.mkdir(parents=True, exist_ok=True)
        stored = value if digest is None else {"exact": digest, **value}
        file.write_text(_lines(_rounded(stored)) + "\n", "utf-8", newline="\n")
    recorded = json.loads(file.read_text("utf-8"))
    recorded_digest = recorded.pop("exact") if digest is not None else None
    problems = list(_differences(value, recorded, "")) if value != recorded else []
    assert not problems, f"not as recorded in {name}: {'; '.join(problems[:10])}"
    if os.environ.get("MMSIEVE_EXACT"):
        assert digest == recorded_digest, f"nearly as recorded in {name}, but not to the bit"


def _differences(seen: Any, recorded: Any, place: str) -> Any:
    if type(seen) is not type(recorded):
        yield f"{place}: {seen!r}, recorded {recorded!r}"
    elif isinstance(seen, dict) and list(seen) == list(recorded):
        for key in seen:
            yield from _differences(seen[key], recorded[key], f"{place}/{key}")
    elif isinstance(seen, list) and len(seen) == len(recorded):
        for number, pair in enumerate(zip(seen, recorded, strict=True)):
            yield from _differences(*pair, f"{place}/{number}")
    elif isinstance(seen, float):
        if seen != pytest.approx(recorded, rel=TOLERANCE, abs=TOLERANCE):
            yield f"{place}: {seen}, recorded {recorded}"
    elif seen != recorded:
        yield f"{place}: {_shown(seen)}, recorded {_shown(recorded)}"


def _shown(value: Any) -> str:
    return str(list(value) if isinstance(value, dict) else value)


def _rounded(value: Any) -> Any:
    """Five digits of every number with a point: enough for the tolerance, and steady diffs."""
    if isinstance(value, float):
        return round(float(f"{value:.5g}"), 5)
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return [_rounded(part) for part in value] if isinstance(value, list) else value


def _lines(value: Any, indent: str = "") -> str:
    """JSON with a line per row: readable diffs of small files."""
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or len(flat) + len(indent) <= 100:
        return flat
    inner = indent + " "
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {_lines(part, inner)}" for key, part in value.items()]
        return "{\n" + ",\n".join(inner + part for part in parts) + "\n" + indent + "}"
    parts = [_lines(part, inner) for part in value]
    return "[\n" + ",\n".join(inner + part for part in parts) + "\n" + indent + "]"
