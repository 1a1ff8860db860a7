"""The request loop: a request about each item, many at a time or in batches, until all are settled.

Requests are bounded by their number, their bytes and their price; every answer goes to the journal.
A batch is noted there before it is sent, under a token that is in the names of its requests: so a
rerun finds every batch again, also one that was sent a moment before a kill.
"""

import asyncio
import json
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any

from pydantic import ValidationError

from mmsieve.clients.connection import NoAnswerError, shorten
from mmsieve.clients.teacher import AnswerFormat, ModelRequest, Reply, Teacher, request_name
from mmsieve.generation.journal import AnswerJournal, BatchNote, CostBudget, JournalEntry
from mmsieve.generation.preparing import Pending
from mmsieve.generation.tasks import Fields, GenerationTask, RequestItem, TeacherAnswerError
from mmsieve.progress import Advance
from mmsieve.validated import say_invalid

_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*)\n\s*```\s*\Z", re.DOTALL)


def read_answer(text: str, task: GenerationTask, item: RequestItem, format: AnswerFormat) -> Fields:
    """The answer in a teacher's words, if it can be used; raises TeacherAnswerError.

    Nothing is mended on purpose; `json`, which holds no server to a schema, may be in a code fence.
    """
    fenced = _FENCE.match(text) if format == "json" else None
    try:
        fields = json.loads(fenced[1] if fenced else text, object_pairs_hook=_object)
        json.dumps(fields, ensure_ascii=False).encode()  # raises for half a surrogate pair
        return task.check(fields, item)
    except ValidationError as error:
        raise TeacherAnswerError(f"wrong fields: {say_invalid(error)}") from error
    except (ValueError, RecursionError) as error:
        raise TeacherAnswerError(f"not JSON: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different: `json` would keep the last of two."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(name for name in fields if sum(name == other for other, _ in pairs) > 1)
        raise ValueError(f"{twice!r} stands there twice")
    return fields


@dataclass(frozen=True, kw_only=True)
class AnswerKeeper:
    """Keeps what is answered: in the journal, and the images of what can be used in a folder."""

    task: GenerationTask
    journal: AnswerJournal
    folder: Path
    """Where the images of answered items are stored."""
    format: AnswerFormat

    def with_last_problem(self, item: RequestItem, request: ModelRequest) -> ModelRequest:
        """The request, saying what was wrong with the last answer, if there was one."""
        problems = self.journal.problems.get(item.id)
        if not problems:
            return request
        note = f"\n\nAn earlier answer could not be used: {problems[-1]}. Mind this."
        return replace(request, prompt=request.prompt + note)

    def settle(self, item: RequestItem, reply: Reply, batch: str | None = None) -> None:
        """Keep a reply in the journal, and the images of one that can be used."""
        answer, problem = None, reply.problem
        if problem is None:
            try:
                answer = read_answer(reply.text, self.task, item, self.format)
            except TeacherAnswerError as error:
                problem = shorten(str(error))
        if answer is not None:
            item.store_images(self.folder)
        entry = JournalEntry(subject=item.id, answer=answer, problem=problem, batch=batch)
        self.journal.add(replace(entry, usage=reply.usage))


_GIVE_UP = 10
"""So many requests in a row, beyond the concurrency, that get no answer: the server is down."""
_DOUBT = 5
"""So many refused requests before any answer: it is the request that is wrong, not the images."""


@dataclass
class LoopOutcome:
    """How far asking went."""

    failed: dict[str, str] = field(default_factory=dict)
    """Item -> why it got no answer, though it may another time."""
    stopped: str | None = None
    """Why no more were sent."""
    refused: set[str] = field(default_factory=set)
    """Of those that failed, the ones whose request can't succeed."""

    def note(self, item: str, error: NoAnswerError, journal: AnswerJournal) -> None:
        """What a request without an answer means for its item, and for all others."""
        self.failed[item] = str(error)
        if error.trouble == "stop":
            self.stopped = str(error)
        elif error.trouble == "refused":
            self.refused.add(item)
            if len(self.refused) >= _DOUBT and not journal.answers:
                self.stopped = f"every request is refused: {error}"

    def keep_refused(self, journal: AnswerJournal) -> None:
        """Where others were answered, refused requests are their images' fault: rejects."""
        while self.refused and journal.answers:
            item = self.refused.pop()
            journal.add(JournalEntry(subject=item, problem=self.failed.pop(item), final=True))


@dataclass(kw_only=True)
class _Loop:
    teacher: Teacher
    keeper: AnswerKeeper
    budget: CostBudget
    attempts: int
    """Answers that are asked for where the first ones can't be used."""
    advance: Advance
    outcome: LoopOutcome = field(default_factory=LoopOutcome, init=False)
    enough: Event = field(default_factory=Event, init=False)
    """Set where no more will be sent: what prepares requests, in another thread, may end."""

    @property
    def journal(self) -> AnswerJournal:
        return self.keeper.journal

    def settle(self, item: RequestItem, reply: Reply, batch: str | None = None) -> None:
        """Keep a reply, and count the item where it needn't be asked about again."""
        self.keeper.settle(item, reply, batch)
        if self.journal.is_settled(item.id, self.attempts):
            self.advance(1, 1)


@dataclass(kw_only=True)
class RequestLoop(_Loop):
    """Asks a teacher about items, so many at a time."""

    concurrency: int
    max_bytes: int
    """Of images that are held."""

    def __post_init__(self) -> None:
        self._room = _Room(self.max_bytes)
        self._queue: asyncio.Queue[Pending | None] = asyncio.Queue(self.concurrency)
        self._in_flight = self._in_a_row = 0

    async def run(self, pending: Iterator[Pending]) -> LoopOutcome:
        """Ask about all that are pending, or until something stops it."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._feed(pending))
                for _ in range(self.concurrency):
                    tasks.create_task(self._work())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            self.enough.set()
            await self.teacher.close()
        self.outcome.keep_refused(self.journal)
        return self.outcome

    async def _feed(self, pending: Iterator[Pending]) -> None:
        """Read and encode, in a thread, just ahead of the workers."""
        while self.outcome.stopped is None:
            one = await asyncio.to_thread(next, pending, None)
            if one is None:
                break
            await self._room.take(_bytes(one))
            await self._queue.put(one)
        for _ in range(self.concurrency):
            await self._queue.put(None)

    async def _work(self) -> None:
        while (pending := await self._queue.get()) is not None:
            try:
                await self._ask_until_settled(*pending)
            finally:
                await self._room.give(_bytes(pending))
            if self.outcome.stopped is not None:
                self.enough.set()

    async def _ask_until_settled(self, item: RequestItem, request: ModelRequest) -> None:
        while not self.journal.is_settled(item.id, self.attempts) and self._may_send():
            self._in_flight += 1
            try:
                reply = await self.teacher.ask(self.keeper.with_last_problem(item, request))
            except NoAnswerError as error:
                self._note(item, error)
                return
            finally:
                self._in_flight -= 1
            self._in_a_row = 0
            self.settle(item, reply)

    def _may_send(self) -> bool:
        if self.outcome.stopped is None:
            self.outcome.stopped = self.budget.objection(self._in_flight)
        return self.outcome.stopped is None

    def _note(self, item: RequestItem, error: NoAnswerError) -> None:
        self.outcome.note(item.id, error, self.journal)
        self._in_a_row += error.trouble == "failed"
        if self._in_a_row >= _GIVE_UP + self.concurrency:
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


def _bytes(pending: Pending) -> int:
    return sum(part.size for part in pending)


MOST_BYTES = 100 * 2**20
"""Of the images of a batch: OpenAI takes files of 200 MB, Anthropic 256 MB."""
_MOST = 10_000  # requests of a batch: OpenAI takes 50,000, Anthropic 100,000
_LOOKS = 10  # looks at a batch that may fail in a row


@dataclass(kw_only=True)
class BatchLoop(_Loop):
    """Sends requests in batches, at half the price, and keeps what is answered within a day."""

    items: dict[str, RequestItem]
    """All of the plan, by id."""
    poll: float
    """Seconds between looks at a batch."""

    async def run(self, pending: Callable[[set[str]], Iterator[Pending]] | None) -> LoopOutcome:
        """Collect the batches that are under way, then send what `pending` reads, if it is given,
        and collect until all is settled.
        """
        try:
            await self._collect_all()
            while pending and self.outcome.stopped is None and (left := self._left()):
                await self._send(pending(left))
                if not self.journal.batches:
                    break
                await self._collect_all()
        except NoAnswerError as error:
            self.outcome.stopped = str(error)
        finally:
            self.enough.set()
            await self.teacher.close()
        self.outcome.keep_refused(self.journal)
        return self.outcome

    def _left(self) -> set[str]:
        """The items to ask about: those that failed wait for another run."""
        return {
            item
            for item in self.items
            if not self.journal.is_settled(item, self.attempts) and item not in self.outcome.failed
        }

    async def _send(self, pending: Iterator[Pending]) -> None:
        chunk: dict[str, ModelRequest] = {}
        size = sent = 0
        while one := await asyncio.to_thread(next, pending, None):
            self.outcome.stopped = self.budget.objection(sent)
            if self.outcome.stopped is not None:
                break
            item, request = one
            if chunk and (len(chunk) == _MOST or size + request.size > MOST_BYTES):
                await self._submit(chunk)
                chunk, size = {}, 0
            item.store_images(self.keeper.folder)  # settled later, without the bytes
            chunk[item.id] = self.keeper.with_last_problem(item, request)
            size, sent = size + request.size, sent + 1
        if chunk:
            await self._submit(chunk)

    async def _submit(self, chunk: dict[str, ModelRequest]) -> None:
        token = secrets.token_hex(6)
        self.journal.add(BatchNote(token=token, subjects=tuple(chunk)))
        named = {request_name(item, token): request for item, request in chunk.items()}
        try:
            batch = await self.teacher.submit(token, named)
        except NoAnswerError as error:
            if error.trouble != "failed":  # it was not made
                self.journal.add(BatchNote(token=token, closed=True))
            raise
        self.journal.add(BatchNote(token=token, id=batch))

    async def _collect_all(self) -> None:
        for token, note in list(self.journal.batches.items()):
            batch = note.id or await self._find(token, len(note.subjects))
            if batch is not None:
                await self._wait(batch)
                try:
                    await self._collect(batch, token, note.subjects)
                except NoAnswerError as error:
                    if error.trouble == "refused":  # as a whole, so it will never have results
                        self.journal.add(BatchNote(token=token, closed=True))
                    raise
            self.journal.add(BatchNote(token=token, closed=True))

    async def _find(self, token: str, count: int) -> str | None:
        """The id of a batch that a killed run sent, if it was made: its results have the token."""
        for batch in await self.teacher.candidates(token, count):
            await self._wait(batch)
            with suppress(NoAnswerError):  # somebody else's, that has no results
                async for name, _ in self.teacher.results(batch):
                    if name.endswith(token):
                        return batch
                    break
        return None

    async def _wait(self, batch: str) -> None:
        """Look until a batch has ended: for up to a day, in which a look may well fail."""
        in_a_row = 0
        while True:
            try:
                if await self.teacher.is_ended(batch):
                    return
                in_a_row = 0
            except NoAnswerError as error:
                in_a_row += 1
                if error.trouble != "failed" or in_a_row == _LOOKS:
                    raise
            await asyncio.sleep(self.poll)

    async def _collect(self, batch: str, token: str, items: tuple[str, ...]) -> None:
        """Settle a batch's answers, each once: a run may have been killed half way through."""
        before = self.journal.collected.get(token, set())
        waiting = {request_name(item, token): item for item in items}
        async for name, result in self.teacher.results(batch):
            item = waiting.pop(name, None)
            if item is None or item in before:
                continue
            if isinstance(result, NoAnswerError):
                self.outcome.note(item, result, self.journal)
            else:
                self.settle(self.items[item], result, token)
        for item in waiting.values():
            self.outcome.failed[item] = "its batch holds no result for it"
