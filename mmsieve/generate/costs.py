"""Costs: what tokens cost, and how many a request will take."""

import math
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmsieve.errors import RequestError
from mmsieve.generate.journal import Journal
from mmsieve.generate.subjects import Subject
from mmsieve.generate.teachers.protocol import Usage

_PRICES = Path(__file__).parent / "prices.toml"
_BATCH = 0.5
"""Part of the price that both providers ask for requests in a batch."""

_DATE = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2})$")
_PIXELS_A_TOKEN = 750
"""Anthropic's rule of thumb; OpenAI's tiles and patches come to 0.5 to 1.2 times as many tokens."""
_LETTERS_A_TOKEN = 4


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens."""

    input: float
    output: float

    def of(self, usage: Usage, batch: bool = False) -> float:
        """Dollars for so many tokens; an upper bound, as cached ones may be cheaper."""
        cost = (usage.input * self.input + usage.output * self.output) / 1e6
        return cost * _BATCH if batch else cost

    def spent(self, journal: Journal) -> float:
        """Dollars for all answers of a journal."""
        return sum(self.of(usage, batch) for batch, usage in journal.usage.items())


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


def expect(subjects: Sequence[Subject], letters: int, answer: int, side: int) -> Usage:
    """Tokens that requests will take: a guess, good to a factor of two.

    `letters` are those of all requests, `answer` the tokens of an answer, `side` the longest
    that images are shown with.
    """
    pixels = 0.0
    for picture in (picture for subject in subjects for picture in subject.pictures):
        shrink = min(1.0, side / max(picture.width, picture.height))
        pixels += picture.width * picture.height * shrink**2
    shown = round(pixels / _PIXELS_A_TOKEN)
    return Usage(shown + letters // _LETTERS_A_TOKEN, len(subjects) * answer)


@dataclass(frozen=True)
class Budget:
    """What has been spent, what a request is expected to cost, and the most that may be spent."""

    journal: Journal
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
        return self.price.spent(self.journal) + self.journal.unmetered * self.first

    def each(self) -> float:
        """Dollars that the next request is expected to cost."""
        seen = self.journal.requests
        return self.spent() / seen if seen else self.first

    def affordable(self, in_flight: int) -> float:
        """Requests that can still be paid for, beyond those that are under way."""
        if self.most is None:
            return math.inf
        return (self.most - self.spent()) / max(self.each(), 1e-12) - in_flight

    def objection(self, in_flight: int) -> str | None:
        """Why another request may not be sent, if so."""
        if self.affordable(in_flight) >= 1:
            return None
        return f"--max-cost {self.most:g} is reached"

    def words(self) -> str:
        """What has been spent."""
        used = self.journal.usage[False] + self.journal.usage[True]
        tokens = f"{used.input + used.output:,} tokens"
        return tokens if self.price is None else f"{tokens}, ${self.spent():.4f}"
