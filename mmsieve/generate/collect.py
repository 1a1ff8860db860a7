"""Collect: from plan and journal to the training files and the list of rejects.

Everything in the plan is in one of three places: the training files, rejects.jsonl, or it has no
answer yet and the next run asks for it.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from mmsieve.generate.answers import Answer, labelled_texts
from mmsieve.generate.files import TrainingFiles, text_entries
from mmsieve.generate.groups import LabelledText
from mmsieve.generate.journal import Journal
from mmsieve.generate.lesson import Lesson
from mmsieve.generate.plan import Plan, Subject
from mmsieve.generate.positives import HUMAN, Positives
from mmsieve.generate.questions import picture_names
from mmsieve.generate.split import choose_val
from mmsieve.levels import LEVELS
from mmsieve.table import write_atomically

REJECTS = "rejects.jsonl"
_ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)


@dataclass(frozen=True)
class Collected:
    """What is in the output folder."""

    written: dict[str, int] = field(default_factory=dict)
    """File -> its texts."""
    rejects: int = 0
    undone: int = 0
    """Subjects without an answer, though they may get one."""
    failed: dict[str, str] = field(default_factory=dict)
    """Shards of positives -> why they can't be read."""


def collect(lesson: Lesson, plan: Plan, journal: Journal, out: Path) -> Collected:
    """Write train.json, val.json and rejects.jsonl from what has been answered so far."""
    human = Positives() if lesson.positives is None else lesson.positives.take(out)
    subjects = [*plan.subjects, *human.subjects.values()]
    shown = [[picture.sha256 for picture in subject.pictures] for subject in subjects]
    sides = choose_val(shown, lesson.val_fraction, lesson.seed)
    files = TrainingFiles(out)
    rejects = [
        {**asdict(unusable), "requests": 0} for unusable in (*plan.unusable, *human.unusable)
    ]
    undone = 0
    for number, (subject, is_val) in enumerate(zip(subjects, sides, strict=True)):
        if subject.id in human.texts:
            entries = _told(subject, human.texts[subject.id], {"teacher": HUMAN})
            files.add_entries(entries, is_val)
        elif subject.id in journal.answers:
            left = lesson.count - number * len(LEVELS)
            files.add_entries(_entries(lesson, subject, journal.answers[subject.id], left), is_val)
        elif journal.is_settled(subject.id, lesson.options.attempts):
            rejects.append(_reject(subject, journal))
            _remove_images(subject, out)
        else:
            undone += 1
    _write_rejects(out / REJECTS, rejects)
    return Collected(files.finish(), len(rejects), undone, human.failed)


def _entries(
    lesson: Lesson, subject: Subject, answer: dict[str, Any], left: int
) -> Iterator[dict[str, Any]]:
    texts = labelled_texts(_ANSWER.validate_python(answer), len(subject.pictures))[:left]
    return _told(subject, texts, {"teacher": lesson.teacher, "prompts": lesson.prompts.version})


def _told(
    subject: Subject, texts: Iterable[LabelledText], author: dict[str, str]
) -> Iterator[dict[str, Any]]:
    provenance = {
        **author,
        "source": subject.source,
        "key": subject.key,
        "sha256": [picture.sha256 for picture in subject.pictures],
    }
    return text_entries(subject.id, picture_names(subject), texts, provenance)


def _reject(subject: Subject, journal: Journal) -> dict[str, Any]:
    problems = journal.problems[subject.id]
    return {
        "source": subject.source,
        "key": subject.key,
        "status": "model_output_invalid",
        "error": problems[-1],
        "requests": len(problems),
        "id": subject.id,
        "sha256": [picture.sha256 for picture in subject.pictures],
    }


def _remove_images(subject: Subject, out: Path) -> None:
    for name in picture_names(subject):
        (out / name).unlink(missing_ok=True)


def _write_rejects(path: Path, rejects: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(reject, ensure_ascii=False) + "\n" for reject in rejects)
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))
