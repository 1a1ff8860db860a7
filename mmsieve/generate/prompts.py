"""Prompts: what a request says, made of files that can be replaced."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from mmsieve.errors import RequestError
from mmsieve.fingerprint import hash_files
from mmsieve.generate.teachers.protocol import AnswerFormat

BUNDLED = Path(__file__).parent / "prompts"


@dataclass(frozen=True)
class Prompts:
    """The prompt of a task."""

    whole: Template
    parts: Mapping[str, Template]
    """What stands at places of the whole, filled in by itself before."""
    blocks: Mapping[str, str]
    """What stands at places of the whole just as it is."""
    version: str
    """A hash of the files that it is made of."""

    def compose(
        self, values: Mapping[str, str], schema: dict[str, object], format: AnswerFormat
    ) -> str:
        """The words of a request about a subject, whose answer has to follow a schema."""
        answer = "Answer with one JSON object, and nothing else."
        if format == "json":  # the server is not told the schema, so the words have to say it
            answer += f" It follows this JSON schema:\n{json.dumps(schema)}"
        parts = {name: part.safe_substitute(values) for name, part in self.parts.items()}
        return self.whole.safe_substitute({**self.blocks, **parts, **values, "answer": answer})


def read_prompt_files(
    folder: Path | None, names: Sequence[str], places: Mapping[str, Sequence[str]]
) -> tuple[list[str], str]:
    """The texts of files of a folder, the bundled one by default, and their version.

    `places` are the $names that a file must have. Raises RequestError.
    """
    folder = BUNDLED if folder is None else folder
    texts = [_read(folder, name, places.get(name, ())) for name in names]
    return texts, hash_files(folder / name for name in names)


def _read(folder: Path, name: str, places: Sequence[str]) -> str:
    try:
        text = (folder / name).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise RequestError(
            f"--prompts {folder}: {name} is missing or no UTF-8 text; copy {BUNDLED} and change it"
        ) from None
    if missing := [f"${place}" for place in places if f"${place}" not in text]:
        raise RequestError(f"--prompts {folder}: {name} lacks {', '.join(missing)}")
    return text
