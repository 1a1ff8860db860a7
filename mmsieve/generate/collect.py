"""Collect: from plan and journal to the training files and the list of rejects.

Everything in the plan is in one of three places: the training files, rejects.jsonl, or it has no
answer yet and the next run asks for it.
"""

import json
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from mmsieve.generate.files import TrainingFiles, text_fields
from mmsieve.generate.journal import Journal
from mmsieve.generate.lesson import Lesson
from mmsieve.generate.plan import Plan
from mmsieve.generate.positives import HUMAN, Positives
from mmsieve.generate.split import choose_val
from mmsieve.generate.subjects import Subject
from mmsieve.table import write_atomically

REJECTS = "rejects.jsonl"


@dataclass(frozen=True)
class Collected:
    """What is in the output folder."""

    written: dict[str, int] = field(default_factory=dict)
    """File -> its records."""
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
            told = text_fields(subject.names, human.texts[subject.id])
            files.add(subject.id, told, is_val, _provenance(subject, {"teacher": HUMAN}))
        elif subject.id in journal.answers:
            records = lesson.task.records(subject, journal.answers[subject.id])
            wanted = islice(records, lesson.count - number * lesson.task.each)
            files.add(subject.id, wanted, is_val, _provenance(subject, lesson.author))
        elif journal.is_settled(subject.id, lesson.options.attempts):
            rejects.append(_reject(subject, journal))
            subject.remove_images(out)
        else:
            undone += 1
    _write_rejects(out / REJECTS, rejects)
    return Collected(files.finish(), len(rejects), undone, human.failed)


def _provenance(subject: Subject, author: dict[str, str]) -> dict[str, Any]:
    return {
        **author,
        "source": subject.source,
        "key": subject.key,
        "sha256": [picture.sha256 for picture in subject.pictures],
    }


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


def _write_rejects(path: Path, rejects: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(reject, ensure_ascii=False) + "\n" for reject in rejects)
    write_atomically(path, lambda temporary: temporary.write_text(text, "utf-8"))
