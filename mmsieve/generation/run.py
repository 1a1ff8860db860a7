"""A whole generation over real images, from the sources to the training files.

Everything in the plan is in one of three places: the training files, rejects.jsonl, or it has no
answer yet and the next run asks for it.

plan (which images) -> ask (answers into the journal) -> collect (training files from the journal).
Each step starts from what the one before left on disk, so any of them can be killed.
"""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mmsieve.clients.connection import open_teacher
from mmsieve.errors import RequestError
from mmsieve.generation.files import TrainingFiles, choose_val, text_fields
from mmsieve.generation.items import Subject
from mmsieve.generation.journal import Journal
from mmsieve.generation.loop import Asker, Batches, Outcome, Pending, Questions
from mmsieve.generation.plan import HUMAN, Plan, Positives, read_plan
from mmsieve.generation.request import Lesson
from mmsieve.outputs import write_text
from mmsieve.progress import show_progress

# Collect: from plan and journal to the training files and the list of rejects

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
    write_text(path, text)


# Teaching: a whole generation over real images, from the sources to the training files

PLAN, JOURNAL, LOCK = "plan.json", "journal.jsonl", ".lock"
FILES = (PLAN, JOURNAL, REJECTS)
"""What is in an output folder beside the training files."""


@dataclass(frozen=True)
class Taught:
    """How far a generation has come."""

    collected: Collected
    spent: str
    notes: tuple[str, ...]
    failed: dict[str, str]
    """What isn't done -> why."""


def estimate(lesson: Lesson) -> tuple[str, ...]:
    """What the generation would take, in lines: images, tokens, dollars."""
    plan = lesson.draft()
    usage, price = lesson.expect(plan), lesson.price
    images = sum(len(subject.pictures) for subject in plan.subjects)
    cost = "unknown, say --price IN,OUT"
    if price is not None:
        cost = f"about ${price.of(usage, lesson.options.batch):.2f}"
    return (
        *lesson.shortfall(plan),
        f"would ask {lesson.teacher} about {len(plan.subjects)} {lesson.task.unit}: {images} "
        f"images of {plan.samples} samples, {len(plan.unusable)} more can't be used",
        f"about {usage.input:,} tokens in and {usage.output:,} out, more where the model thinks; "
        f"cost: {cost}",
    )


def teach(lesson: Lesson, out: Path, quiet: bool) -> Taught:
    """Generate into a folder, going on from what an earlier run left there."""
    try:
        with FileLock(out / LOCK, blocking=False):
            return _teach(lesson, out, quiet)
    except Timeout:
        raise RequestError(f"--out {out}: another run is writing there") from None


def _teach(lesson: Lesson, out: Path, quiet: bool) -> Taught:
    plan = _kept_plan(lesson, out / PLAN, quiet)
    journal = Journal(out / JOURNAL)
    outcome = Outcome()
    if journal.batches or _left(lesson, plan, journal):
        outcome = _ask(lesson, plan, journal, out, quiet)
    collected = collect(lesson, plan, journal, out)
    failed = plan.failed | collected.failed
    if collected.undone:
        reason = outcome.stopped or next(iter(outcome.failed.values()), "no answer")
        name = f"{collected.undone} of {len(plan.subjects)} {lesson.task.unit}"
        failed[name] = f"not done: {reason}; the same command goes on"
    spent = lesson.budget(plan, journal).words()
    notes = (*([plan.note] if plan.note else ()), *lesson.shortfall(plan))
    return Taught(collected, spent, notes, failed)


def _kept_plan(lesson: Lesson, path: Path, quiet: bool) -> Plan:
    """The plan of an earlier run, or a new one: sources are only searched once."""
    if path.exists():
        return read_plan(path)
    plan = lesson.plan(quiet)
    plan.write(path)
    return plan


def _ask(lesson: Lesson, plan: Plan, journal: Journal, out: Path, quiet: bool) -> Outcome:
    options, budget = lesson.options, lesson.budget(plan, journal)
    questions = Questions(
        lesson.task,
        lesson.prompts,
        journal,
        out,
        format=options.answer_format,
        side=options.image_side,
    )
    outcome = Outcome()
    failed: dict[str, str] = {}

    def pending(wanted: set[str]) -> Iterator[Pending]:
        subjects = [subject for subject in plan.subjects if subject.id in wanted]
        for subject in lesson.subjects(subjects, failed):
            yield subject, questions.question(subject)

    left = _left(lesson, plan, journal)
    total, before = len(plan.subjects), len(plan.subjects) - len(left)
    with show_progress(
        lesson.task.name, total, quiet, lesson.task.unit, before, say=budget.words
    ) as advance:
        if options.batch or journal.batches:
            batches = Batches(
                open_teacher(lesson.connection),
                questions,
                budget,
                {subject.id: subject for subject in plan.subjects},
                attempts=options.attempts,
                poll=options.poll,
                advance=advance,
            )
            outcome = asyncio.run(batches.run(pending if options.batch else None))
        if not options.batch and outcome.stopped is None:
            asker = Asker(
                open_teacher(lesson.connection),
                questions,
                budget,
                attempts=options.attempts,
                concurrency=options.concurrency,
                max_bytes=options.max_in_flight * 2**20,
                advance=advance,
            )
            outcome = asyncio.run(asker.run(pending(_left(lesson, plan, journal))))
    outcome.failed |= failed
    return outcome


def _left(lesson: Lesson, plan: Plan, journal: Journal) -> set[str]:
    attempts = lesson.options.attempts
    return {s.id for s in plan.subjects if not journal.is_settled(s.id, attempts)}
