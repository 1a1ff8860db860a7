"""Prompts: one skeleton and a block of requirements per level, as files that can be replaced.

The requirements are those of Table 1 of arXiv 2510.15162, in our words: the published wording is
not public.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Literal, TypeAlias

from mmsieve.errors import RequestError
from mmsieve.fingerprint import hash_files

BUNDLED = Path(__file__).parent / "prompts"

What: TypeAlias = Literal["captions", "documents"]
AnswerFormat: TypeAlias = Literal["schema", "json"]

_SKELETON = "skeleton.md"
_TASK = "task.md"
_BLOCKS = ("positive", "hard_negative", "medium_negative", "easy_negative")
"""In the order of writing: the hard negative is written against the positive."""


@dataclass(frozen=True)
class Prompts:
    """The prompt for one kind of text."""

    skeleton: Template
    task: Template
    levels: str
    version: str
    """A hash of the files that it is made of."""

    def compose(self, images: int, schema: dict[str, object], format: AnswerFormat) -> str:
        """The words of a request over so many images, whose answer has to follow a schema."""
        marks = "one `<image>`" if images == 1 else f"{images} times `<image>`"
        shown = "one image" if images == 1 else f"{images} images"
        answer = "Answer with one JSON object, and nothing else."
        if format == "json":  # the server is not told the schema, so the words have to say it
            answer += f" It follows this JSON schema:\n{json.dumps(schema)}"
        task = self.task.safe_substitute(images=shown, marks=marks)
        return self.skeleton.safe_substitute(task=task, levels=self.levels, answer=answer)


def load_prompts(what: What, folder: Path | None = None) -> Prompts:
    """The prompt of a folder of files, the bundled one by default; raises RequestError."""
    folder = BUNDLED if folder is None else folder
    names = [_SKELETON, *(f"{what}/{name}" for name in (_TASK, *(f"{b}.md" for b in _BLOCKS)))]
    texts = {name: _read(folder, name) for name in names}
    blocks = [f"{n}. {texts[f'{what}/{block}.md']}" for n, block in enumerate(_BLOCKS, 1)]
    return Prompts(
        skeleton=Template(texts[_SKELETON]),
        task=Template(texts[f"{what}/{_TASK}"]),
        levels="\n\n".join(blocks),
        version=hash_files(folder / name for name in names),
    )


def _read(folder: Path, name: str) -> str:
    try:
        text = (folder / name).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise RequestError(
            f"--prompts {folder}: {name} is missing or no UTF-8 text; copy {BUNDLED} and change it"
        ) from None
    if name == _SKELETON and not all(f"${place}" in text for place in ("task", "levels", "answer")):
        raise RequestError(f"--prompts {folder}: {name} lacks $task, $levels or $answer")
    return text
