"""The request loop: many requests at a time, or in batches, bounded by number, bytes and price.

A batch is noted in the journal before it is sent, under a token that is in the names of its
requests, and its id as soon as the provider tells it. So a rerun finds every batch again, also one
that was sent a moment before a kill.
"""

import asyncio
import io
import json
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image as PillowImage
from pydantic import ValidationError

from mmsieve.clients.connection import (
    AnswerFormat,
    Question,
    Reply,
    Teacher,
    TeacherError,
    request_name,
    shorten,
)
from mmsieve.generation.items import Picture, Prompts, Subject
from mmsieve.generation.journal import BatchNote, Entry, Journal
from mmsieve.generation.request import Budget
from mmsieve.generation.tasks.task import AnswerError, Fields, Task
from mmsieve.images import ImageLimits, decode
from mmsieve.progress import Advance

# Answers of teachers: from the words that came to fields that a task can use

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


# Questions: from a subject to the request about it, and from a reply to the journal

_QUALITY = 90


class Questions:
    """What is asked about subjects, and what has been answered."""

    def __init__(
        self,
        task: Task,
        prompts: Prompts,
        journal: Journal,
        folder: Path,
        *,
        format: AnswerFormat,
        side: int,
    ) -> None:
        self._task, self._prompts, self._folder = task, prompts, folder
        self._format, self._side = format, side
        self._schema = task.schema()
        self.journal = journal

    def question(self, subject: Subject) -> Question:
        """The request about a subject; the images are encoded anew, small and without EXIF."""
        values = self._task.values(subject)
        words = self._prompts.compose(values, self._schema, self._format)
        images = tuple(_shown(picture, self._side) for picture in subject.pictures)
        return Question(words, images, self._schema, self._format)

    def again(self, subject: Subject, question: Question) -> Question:
        """The question once more, with what was wrong with the last answer, if there was one."""
        problems = self.journal.problems.get(subject.id)
        if not problems:
            return question
        note = f"\n\nAn earlier answer could not be used: {problems[-1]}. Mind this."
        return replace(question, words=question.words + note)

    def keep_images(self, subject: Subject) -> None:
        """Store the images of a subject that will be settled without their bytes."""
        subject.store_images(self._folder)

    def settle(self, subject: Subject, reply: Reply, batch: str | None = None) -> None:
        """Keep a reply in the journal, and the images of one that can be used."""
        answer, problem = None, reply.problem
        if problem is None:
            try:
                answer = read_answer(reply.text, self._task, subject, self._format)
            except AnswerError as error:
                problem = shorten(str(error))
        if answer is not None:
            subject.store_images(self._folder)
        self.journal.add(
            Entry(
                subject=subject.id, usage=reply.usage, answer=answer, problem=problem, batch=batch
            )
        )


def _shown(picture: Picture, side: int) -> bytes:
    """A picture as a JPEG file for a teacher.

    Its EXIF orientation isn't applied, as the models that train on it don't see it applied.
    """
    image = PillowImage.fromarray(decode(picture.data, ImageLimits()))
    image.thumbnail((side, side), PillowImage.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


# Asking: many questions at a time, bounded by their number, their bytes and their price

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


# Batches: questions sent together, answered within a day, at half the price

MOST_BYTES = 100 * 2**20
"""Of the images of a batch: OpenAI takes files of 200 MB, Anthropic 256 MB."""
_MOST = 10_000
"""Requests of a batch: OpenAI takes 50,000, Anthropic 100,000."""
_LOOKS = 10
"""Looks at a batch that may fail in a row."""


class Batches:
    """Sends questions in batches, and settles the answers."""

    def __init__(
        self,
        teacher: Teacher,
        questions: Questions,
        budget: Budget,
        subjects: dict[str, Subject],
        *,
        attempts: int,
        poll: float,
        advance: Advance,
    ) -> None:
        self._teacher, self._questions, self._budget = teacher, questions, budget
        self._subjects, self._attempts = subjects, attempts
        self._poll, self._advance = poll, advance
        self._journal = questions.journal
        self.outcome = Outcome()

    async def run(self, pending: Callable[[set[str]], Iterator[Pending]] | None) -> Outcome:
        """Collect the batches that are under way, then send and collect until all is settled.

        `pending` reads the questions about subjects; without it nothing is sent.
        """
        try:
            await self._collect_all()
            while pending and self.outcome.stopped is None and (left := self._left()):
                await self._send(pending(left))
                if not self._journal.batches:
                    break
                await self._collect_all()
        except TeacherError as error:
            self.outcome.stopped = str(error)
        finally:
            await self._teacher.close()
        self.outcome.keep_refused(self._journal)
        return self.outcome

    def _left(self) -> set[str]:
        """The subjects to ask about: those that failed wait for another run."""
        return {
            subject
            for subject in self._subjects
            if not self._journal.is_settled(subject, self._attempts)
            and subject not in self.outcome.failed
        }

    async def _send(self, pending: Iterator[Pending]) -> None:
        """Send all that can be paid for, a batch at a time."""
        held: dict[str, Question] = {}
        size = sent = 0
        while item := await asyncio.to_thread(next, pending, None):
            self.outcome.stopped = self._budget.objection(sent)
            if self.outcome.stopped is not None:
                break
            subject, question = item
            if held and (len(held) == _MOST or size + question.size > MOST_BYTES):
                await self._submit(held)
                held, size = {}, 0
            self._questions.keep_images(subject)
            held[subject.id] = self._questions.again(subject, question)
            size, sent = size + question.size, sent + 1
        if held:
            await self._submit(held)

    async def _submit(self, held: dict[str, Question]) -> None:
        token = secrets.token_hex(6)
        self._journal.add(BatchNote(token=token, subjects=tuple(held)))
        named = {request_name(subject, token): question for subject, question in held.items()}
        try:
            batch = await self._teacher.submit(token, named)
        except TeacherError as error:
            if error.trouble != "failed":  # it was not made
                self._journal.add(BatchNote(token=token, closed=True))
            raise
        self._journal.add(BatchNote(token=token, id=batch))

    async def _collect_all(self) -> None:
        for token, note in list(self._journal.batches.items()):
            batch = note.id or await self._find(token, len(note.subjects))
            if batch is not None:
                await self._wait(batch)
                await self._collect_or_close(batch, token, note.subjects)
            self._journal.add(BatchNote(token=token, closed=True))

    async def _find(self, token: str, count: int) -> str | None:
        """The id of a batch that a killed run sent, if it was made: its results have the token."""
        for batch in await self._teacher.candidates(token, count):
            await self._wait(batch)
            with suppress(TeacherError):  # somebody else's, that has no results
                async for name, _ in self._teacher.results(batch):
                    if name.endswith(token):
                        return batch
                    break
        return None

    async def _wait(self, batch: str) -> None:
        """Look until a batch has ended: for up to a day, in which a look may well fail."""
        in_a_row = 0
        while True:
            try:
                if await self._teacher.is_ended(batch):
                    return
                in_a_row = 0
            except TeacherError as error:
                in_a_row += 1
                if error.trouble != "failed" or in_a_row == _LOOKS:
                    raise
            await asyncio.sleep(self._poll)

    async def _collect_or_close(self, batch: str, token: str, subjects: tuple[str, ...]) -> None:
        try:
            await self._collect(batch, token, subjects)
        except TeacherError as error:
            if error.trouble == "refused":  # as a whole, so it will never have results
                self._journal.add(BatchNote(token=token, closed=True))
            raise

    async def _collect(self, batch: str, token: str, subjects: tuple[str, ...]) -> None:
        """Settle a batch's answers, each once: a run may have been killed half way through."""
        before = self._journal.collected.get(token, set())
        waiting = {request_name(subject, token): subject for subject in subjects}
        async for name, result in self._teacher.results(batch):
            subject = waiting.pop(name, None)
            if subject is None or subject in before:
                continue
            self._settle(subject, token, result)
        for subject in waiting.values():
            self.outcome.failed[subject] = "its batch holds no result for it"

    def _settle(self, subject: str, token: str, result: Reply | TeacherError) -> None:
        if isinstance(result, TeacherError):
            self.outcome.note(subject, result, self._journal)
            return
        self._questions.settle(self._subjects[subject], result, token)
        if self._journal.is_settled(subject, self._attempts):
            self._advance(1, 1)
