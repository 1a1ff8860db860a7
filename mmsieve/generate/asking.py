"""Asking: many questions at a time, bounded by their number, their bytes and their price."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from mmsieve.generate.costs import Budget
from mmsieve.generate.journal import Entry, Journal
from mmsieve.generate.questions import Questions
from mmsieve.generate.subjects import Subject
from mmsieve.generate.teachers.protocol import Question, Teacher, TeacherError
from mmsieve.shard_job import Progress as Advance

_GIVE_UP = 10
"""So many requests in a row, beyond the concurrency, that get no answer: the server is down."""
_DOUBT = 5
"""So many refused requests before any answer: it is the request that is wrong, not the images."""

Pending: TypeAlias = tuple[Subject, Question]


@dataclass
class Outcome:
    """How far asking went."""

    failed: dict[str, str] = field(default_factory=dict)
    """Subject -> why it got no answer, though it may another time."""
    stopped: str | None = None
    """Why no more were sent."""
    refused: set[str] = field(default_factory=set)
    """Of those that failed, the ones whose request can't succeed."""

    def note(self, subject: str, error: TeacherError, journal: Journal) -> None:
        """What a request without an answer means for its subject, and for all others."""
        self.failed[subject] = str(error)
        if error.trouble == "stop":
            self.stopped = str(error)
        elif error.trouble == "refused":
            self.refused.add(subject)
            if len(self.refused) >= _DOUBT and not journal.answers:
                self.stopped = f"every request is refused: {error}"

    def keep_refused(self, journal: Journal) -> None:
        """Where others were answered, refused requests are their images' fault: rejects."""
        while self.refused and journal.answers:
            subject = self.refused.pop()
            journal.add(Entry(subject=subject, problem=self.failed.pop(subject), final=True))


class Asker:
    """Asks a teacher about subjects."""

    def __init__(
        self,
        teacher: Teacher,
        questions: Questions,
        budget: Budget,
        *,
        attempts: int,
        concurrency: int,
        max_bytes: int,
        advance: Advance,
    ) -> None:
        self._teacher, self._questions, self._budget = teacher, questions, budget
        self._attempts, self._concurrency, self._advance = attempts, concurrency, advance
        self._room = _Room(max_bytes)
        self._queue: asyncio.Queue[Pending | None] = asyncio.Queue(concurrency)
        self._in_flight = self._in_a_row = 0
        self.outcome = Outcome()

    async def run(self, pending: Iterator[Pending]) -> Outcome:
        """Ask about all that are pending, or until something stops it."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._feed(pending))
                for _ in range(self._concurrency):
                    tasks.create_task(self._work())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            await self._teacher.close()
        self.outcome.keep_refused(self._questions.journal)
        return self.outcome

    async def _feed(self, pending: Iterator[Pending]) -> None:
        """Read and encode, in a thread, just ahead of the workers."""
        while self.outcome.stopped is None:
            item = await asyncio.to_thread(next, pending, None)
            if item is None:
                break
            await self._room.take(_bytes(item))
            await self._queue.put(item)
        for _ in range(self._concurrency):
            await self._queue.put(None)

    async def _work(self) -> None:
        while (item := await self._queue.get()) is not None:
            try:
                await self._ask_until_settled(*item)
            finally:
                await self._room.give(_bytes(item))

    async def _ask_until_settled(self, subject: Subject, question: Question) -> None:
        journal = self._questions.journal
        while not journal.is_settled(subject.id, self._attempts) and self._may_send():
            self._in_flight += 1
            try:
                reply = await self._teacher.ask(self._questions.again(subject, question))
            except TeacherError as error:
                self._note(subject, error)
                return
            finally:
                self._in_flight -= 1
            self._in_a_row = 0
            self._questions.settle(subject, reply)
        if journal.is_settled(subject.id, self._attempts):
            self._advance(1, 1)

    def _may_send(self) -> bool:
        if self.outcome.stopped is None:
            self.outcome.stopped = self._budget.objection(self._in_flight)
        return self.outcome.stopped is None

    def _note(self, subject: Subject, error: TeacherError) -> None:
        self.outcome.note(subject.id, error, self._questions.journal)
        self._in_a_row += error.trouble == "failed"
        if self._in_a_row >= _GIVE_UP + self._concurrency:
            self.outcome.stopped = f"{self._in_a_row} requests in a row got no answer: {error}"


class _Room:
    """Bytes that may be held; what is larger than all of it goes alone."""

    def __init__(self, size: int) -> None:
        self._size, self._used = size, 0
        self._changed = asyncio.Condition()

    async def take(self, size: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._used == 0 or self._used + size <= self._size)
            self._used += size

    async def give(self, size: int) -> None:
        async with self._changed:
            self._used -= size
            self._changed.notify_all()


def _bytes(item: Pending) -> int:
    subject, question = item
    return subject.size + question.size
