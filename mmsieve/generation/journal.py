"""The journal of a generation: every answer that was paid for, and what it cost.

An answer is a line, which is on disk before anything is made of it. A killed run loses at most the
answers that were on their way, never more than `--concurrency`, billed or not.
"""

import math
import re
import tomllib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import TypeAdapter

from mmsieve.clients.teacher import Usage
from mmsieve.errors import RequestError
from mmsieve.outputs import append_line, read_lines

_PRICES = Path(__file__).parent / "prices.toml"
_BATCH = 0.5  # part of the price that both providers ask for requests in a batch

_DATE = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2})$")


@dataclass(frozen=True, kw_only=True)
class JournalEntry:
    """One answer."""

    subject: str
    """The id of the request item; the name is that of journals on disk."""
    usage: Usage = field(default_factory=Usage)
    answer: dict[str, Any] | None = None
    """The answer's fields, where it can be used; else there is a `problem`."""
    problem: str | None = None
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


Line: TypeAlias = JournalEntry | BatchNote
_LINE: TypeAdapter[Line] = TypeAdapter(Line)


class AnswerJournal:
    """The answers of an output folder, by the id of the request item."""

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
        """Token -> items whose answers in that batch are here."""
        for entry in read_lines(path, _LINE.validate_json):
            self._take(entry)

    def add(self, entry: Line) -> None:
        """Keep an answer: when this returns, it survives a kill and a power cut."""
        append_line(self._path, asdict(entry))
        self._take(entry)

    def is_settled(self, item: str, attempts: int) -> bool:
        """Whether an item needn't be asked about: it has its answer, or has used up its tries."""
        settled = item in self.answers or item in self.final
        return settled or len(self.problems.get(item, ())) >= attempts

    def _take(self, entry: Line) -> None:
        if isinstance(entry, BatchNote):
            before = self.batches.pop(entry.token, entry)
            if not entry.closed:
                self.batches[entry.token] = replace(entry, subjects=before.subjects)
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


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens."""

    input: float
    output: float

    def of(self, usage: Usage, batch: bool = False) -> float:
        """Dollars for so many tokens; an upper bound, as cached ones may be cheaper."""
        cost = (usage.input * self.input + usage.output * self.output) / 1e6
        return cost * _BATCH if batch else cost


def find_price(model: str, asked: str | None) -> Price | None:
    """The price that was asked for, or the list's; None where neither is known."""
    if asked is not None:
        try:
            price = Price(*(float(part) for part in asked.split(",")))
        except (ValueError, TypeError):
            price = Price(-1, -1)
        if not all(math.isfinite(p) and p >= 0 for p in (price.input, price.output)):
            raise RequestError(
                f"--price {asked}: write IN,OUT, dollars per million tokens, for example 3,15"
            )
        return price
    prices = tomllib.loads(_PRICES.read_text("utf-8"))
    known = prices.get(model) or prices.get(_DATE.sub("", model))
    return Price(*known) if known else None


@dataclass(frozen=True)
class CostBudget:
    """What has been spent, what a request is expected to cost, and the most that may be spent."""

    journal: AnswerJournal
    price: Price | None
    first: float
    """Dollars that a request is expected to cost, before any has been answered."""
    most: float | None

    def spent(self) -> float:
        """Dollars spent by this run and those before it; 0 where the price isn't known.

        An answer without a count of tokens counts as expected, or a cap would never be reached.
        """
        if self.price is None:
            return 0.0
        metered = sum(self.price.of(usage, batch) for batch, usage in self.journal.usage.items())
        return metered + self.journal.unmetered * self.first

    def objection(self, in_flight: int) -> str | None:
        """Why another request may not be sent beside those that are under way, if so."""
        if self.most is None:
            return None
        requests = self.journal.requests
        each = self.spent() / requests if requests else self.first
        affordable = (self.most - self.spent()) / max(each, 1e-12) - in_flight
        return None if affordable >= 1 else f"--max-cost {self.most:g} is reached"

    def describe(self) -> str:
        """What has been spent."""
        used = self.journal.usage[False] + self.journal.usage[True]
        tokens = f"{used.input + used.output:,} tokens"
        return tokens if self.price is None else f"{tokens}, ${self.spent():.4f}"
