"""JSON that mmsieve reads back, checked on reading: what it must hold is declared, by pydantic.

Whatever else is in a file, or deep in it, is one line: the file, the first thing that is wrong,
what to do.
"""

from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from pydantic import TypeAdapter, ValidationError

from mmsieve.errors import RequestError

T = TypeVar("T")
JsonObject: TypeAlias = dict[str, Any]
OBJECT: TypeAdapter[JsonObject] = TypeAdapter(JsonObject)
"""Any JSON object."""

_MOST_LETTERS = 200


def read_json_file(path: Path, kind: TypeAdapter[T], fix: str) -> T:
    """What a file holds; raises RequestError, or FileNotFoundError, which the caller explains."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RequestError(f"{path}: can't be read ({error.strerror}): {fix}") from error
    return parse_json(path, data, kind, fix)


def parse_json(path: Path, data: bytes, kind: TypeAdapter[T], fix: str) -> T:
    """What JSON from a file holds; raises RequestError."""
    try:
        return kind.validate_json(data)
    except ValueError as error:
        raise RequestError(f"{path}: {say_invalid(error)}: {fix}") from error


def check_json(path: Path, value: Any, kind: TypeAdapter[T], fix: str) -> T:
    """A part of what a file holds, by what is declared of it; raises RequestError."""
    try:
        return kind.validate_python(value)
    except ValueError as error:
        raise RequestError(f"{path}: {say_invalid(error)}: {fix}") from error


def say_invalid(error: ValueError) -> str:
    """What is wrong, in one line: the first field that is, where one is."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))[:_MOST_LETTERS]
    return f"{where}: {first['msg']}" if where else first["msg"]
