"""Batches: questions sent together, answered within a day, at half the price.

A batch is noted in the journal before it is sent, under a token that is in the names of its
requests, and its id as soon as the provider tells it. So a rerun finds every batch again, also one
that was sent a moment before a kill.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress

from mmsieve.generate.asking import Outcome, Pending
from mmsieve.generate.costs import Budget
from mmsieve.generate.journal import BatchNote
from mmsieve.generate.questions import Questions
from mmsieve.generate.subjects import Subject
from mmsieve.generate.teachers.protocol import Question, Reply, Teacher, TeacherError, request_name
from mmsieve.shard_job import Progress as Advance

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
