"""Journal: every answer that was paid for, a line each, on disk before anything is made of it.

A killed run loses at most the answers that were on their way: whether the provider billed those
nobody can know, and there are never more of them than `--concurrency`.
"""

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import TypeAdapter

from mmsieve.clients.connection import Usage


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One answer."""

    subject: str
    usage: Usage = field(default_factory=Usage)
    answer: dict[str, Any] | None = None
    """The answer's fields, where it can be used."""
    problem: str | None = None
    """Why it can't."""
    final: bool = False
    """It would be refused again, so it isn't asked again."""
    batch: str | None = None
    """Token of the batch that it came in, at half the price."""


@dataclass(frozen=True, kw_only=True)
class BatchNote:
    """What became of a batch; the later notes on a token complete the first."""

    token: str
    """Ours, part of the names of its requests: the provider's id is only known afterwards."""
    subjects: tuple[str, ...] = ()
    """Stands in the first note, which is written before the batch is sent."""
    id: str | None = None
    """The provider's."""
    closed: bool = False
    """Its answers are in the journal, or it was never made."""


Line: TypeAlias = Entry | BatchNote
_LINE: TypeAdapter[Line] = TypeAdapter(Line)


class Journal:
    """The answers of an output folder, by subject."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.answers: dict[str, dict[str, Any]] = {}
        self.problems: dict[str, list[str]] = {}
        self.final: set[str] = set()
        self.usage = {False: Usage(), True: Usage()}
        """Tokens of direct requests, and of those in batches."""
        self.requests = self.unmetered = 0
        """Answers, and those of them that came without a count of tokens."""
        self.batches: dict[str, BatchNote] = {}
        """Token -> what is known of a batch whose answers are still to come."""
        self.collected: dict[str, set[str]] = {}
        """Token -> subjects whose answers in that batch are here."""
        for line in path.read_bytes().splitlines() if path.exists() else ():
            try:
                self._take(_LINE.validate_json(line))
            except ValueError:
                continue  # a line that a killed run left half written: its answer is lost

    def add(self, entry: Line) -> None:
        """Keep an answer: when this returns, it survives a kill and a power cut."""
        line = json.dumps(asdict(entry), ensure_ascii=False)
        with self._path.open("ab") as file:
            # The break comes first: it ends a line that a killed run left half written.
            file.write(b"\n" + line.encode())
            file.flush()
            os.fsync(file.fileno())
        self._take(entry)

    def tries(self, subject: str) -> int:
        """How many answers a subject has had that can't be used."""
        return len(self.problems.get(subject, ()))

    def is_settled(self, subject: str, attempts: int) -> bool:
        """Whether a subject needn't be asked about: it has its answer, or has used up its tries."""
        settled = subject in self.answers or subject in self.final
        return settled or self.tries(subject) >= attempts

    def _take(self, entry: Line) -> None:
        if isinstance(entry, BatchNote):
            self._note(entry)
            return
        self.requests += 1
        self.unmetered += entry.answer is not None and entry.usage == Usage()
        self.usage[entry.batch is not None] += entry.usage
        if entry.batch is not None:
            self.collected.setdefault(entry.batch, set()).add(entry.subject)
        if entry.final:
            self.final.add(entry.subject)
        if entry.answer is not None:
            self.answers[entry.subject] = entry.answer
        else:
            self.problems.setdefault(entry.subject, []).append(entry.problem or "")

    def _note(self, note: BatchNote) -> None:
        before = self.batches.pop(note.token, note)
        if not note.closed:
            self.batches[note.token] = replace(note, subjects=before.subjects)
