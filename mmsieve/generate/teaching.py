"""Teaching: a whole generation over real images, from the sources to the training files.

plan (which images) -> ask (answers into the journal) -> collect (training files from the journal).
Each step starts from what the one before left on disk, so any of them can be killed.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from mmsieve.errors import RequestError
from mmsieve.generate.asking import Asker, Outcome, Pending
from mmsieve.generate.batches import Batches
from mmsieve.generate.collect import REJECTS, Collected, collect
from mmsieve.generate.journal import Journal
from mmsieve.generate.lesson import Lesson
from mmsieve.generate.plan import Plan, read_plan
from mmsieve.generate.questions import Questions
from mmsieve.generate.teachers.choose import open_teacher
from mmsieve.progress import show_progress

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
