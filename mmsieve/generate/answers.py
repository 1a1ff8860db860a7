"""Answers of teachers: from the words that came to fields that a task can use."""

import json
import re
from typing import Any

from pydantic import ValidationError

from mmsieve.generate.subjects import Subject
from mmsieve.generate.tasks.task import AnswerError, Fields, Task
from mmsieve.generate.teachers.protocol import AnswerFormat

_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*)\n\s*```\s*\Z", re.DOTALL)


def read_answer(text: str, task: Task, subject: Subject, format: AnswerFormat) -> Fields:
    """The answer in a teacher's words, if it can be used; raises AnswerError.

    Strict on purpose: nothing is mended, and only `json`, where a server can't be held to a
    schema, may stand in a code fence.
    """
    fenced = _FENCE.match(text) if format == "json" else None
    try:
        fields = json.loads(fenced[1] if fenced else text, object_pairs_hook=_object)
        json.dumps(fields, ensure_ascii=False).encode()  # raises for half a surrogate pair
        return task.check(fields, subject)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise AnswerError(f"wrong fields: {where}: {first['msg']}") from error
    except (ValueError, RecursionError) as error:
        raise AnswerError(f"not JSON: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different: `json` would keep the last of two."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(name for name in fields if sum(name == other for other, _ in pairs) > 1)
        raise ValueError(f"{twice!r} stands there twice")
    return fields
