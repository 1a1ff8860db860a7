"""A generation over real images as it was asked for, checked before it begins; its price."""

import math
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from mmsieve.clients.connection import Connection, Usage, api_key, split_name
from mmsieve.errors import RequestError, SampleError, ShardError
from mmsieve.generation.diversity import (
    check_installed,
    cluster_sources,
    describe,
    even_draw,
    open_features,
)
from mmsieve.generation.images import ImageSource, find_images
from mmsieve.generation.items import Prompts, Subject
from mmsieve.generation.journal import Journal
from mmsieve.generation.options import TeacherOptions
from mmsieve.generation.plan import Draw, Plan, PositiveSource, make_plan, random_draw
from mmsieve.generation.tasks.task import Task
from mmsieve.methods.tower import Tower
from mmsieve.read.records import ReadOptions

# Costs: what tokens cost, and how many a request will take

_PRICES = Path(__file__).parent / "prices.toml"
_BATCH = 0.5
"""Part of the price that both providers ask for requests in a batch."""

_DATE = re.compile(r"-(\d{8}|\d{4}-\d{2}-\d{2})$")
_PIXELS_A_TOKEN = 750
"""Anthropic's rule of thumb; OpenAI's tiles and patches come to 0.5 to 1.2 times as many tokens."""
_LETTERS_A_TOKEN = 4
_NUMBERS = {1: "one", 2: "two", 4: "four"}


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


# Lesson: a generation over real images as it was asked for, checked before anything is read


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What is to be generated over real images, and how."""

    task: Task
    teacher: str
    """provider:MODEL."""
    sources: tuple[str, ...]
    count: int
    """Records."""
    seed: int
    val_fraction: float
    read: ReadOptions
    options: TeacherOptions

    def check(self) -> None:
        """Raise RequestError for what can't be carried out."""
        self.options.check()
        if self.price is None and self.options.max_cost is not None:
            raise RequestError(
                f"--max-cost: the price of {self.teacher} isn't known; say --price IN,OUT"
            )
        _ = self.prompts, self.images, self.tower
        if self.positives is not None:
            self.positives.check()

    @cached_property
    def connection(self) -> Connection:
        """How the teacher is reached; raises RequestError where its key is missing."""
        provider, model = split_name(self.teacher)
        return Connection(
            provider=provider,
            model=model,
            key=api_key(provider, self.options.base_url),
            base_url=self.options.base_url,
            max_retries=self.options.max_retries,
            timeout=self.options.timeout,
            max_tokens=self.options.max_tokens,
        )

    @cached_property
    def prompts(self) -> Prompts:
        """The prompt; raises RequestError."""
        return self.task.load_prompts(self.options.prompts)

    @cached_property
    def price(self) -> Price | None:
        """What tokens cost, if that is known; raises RequestError."""
        return find_price(split_name(self.teacher)[1], self.options.price)

    @cached_property
    def tower(self) -> Tower | None:
        """What tells kinds of images apart, if that is asked for; raises RequestError."""
        if self.options.diversify is None:
            return None
        check_installed()
        return open_features(self.options.diversify_model)

    @cached_property
    def images(self) -> list[ImageSource]:
        """What the SOURCE strings name; raises RequestError."""
        return find_images(
            self.sources,
            self.read,
            kinds=self.task.kinds,
            by_folder=self.task.by_folder,
        )

    @property
    def positives(self) -> PositiveSource | None:
        """What people wrote, if there is any; raises RequestError."""
        if self.options.positives is None:
            return None
        if self.task.name != "captions":
            raise RequestError("--positives is for captions")
        return PositiveSource(self.options.positives, self.read)

    @property
    def author(self) -> dict[str, str]:
        """Who writes, as the records say it."""
        return {"teacher": self.teacher, "prompts": self.prompts.version}

    def claim(self) -> dict[str, object]:
        """Whatever changes what is generated; a resume with another claim is refused."""
        read = {name: str(value) for name, value in asdict(self.read).items() if value}
        return {
            "what": self.task.name,
            **self.task.settings(),
            "teacher": self.teacher,
            "prompts": self.prompts.version,
            "sources": list(self.sources),
            "read": read,
            "count": self.count,
            "seed": self.seed,
            "val_fraction": self.val_fraction,
            "positives": self.options.positives,
            "diversify": self.options.diversify
            and [
                self.options.diversify,
                self.options.diversify_model,
            ],
            "max_images": self.options.max_images,
            "image_side": self.options.image_side,
            "answer_format": self.options.answer_format,
        }

    def plan(self, quiet: bool) -> Plan:
        """The images that are taken; raises RequestError where there is none."""
        if self.tower is None or self.options.diversify is None:
            return self.draft()
        labels = cluster_sources(self.images, self.tower, self.options.diversify, self.seed, quiet)
        return replace(self._plan(even_draw(labels, self.seed)), note=describe(labels))

    def draft(self) -> Plan:
        """A plan that looks at no image for more than its size: as large as the other one."""
        return self._plan(random_draw(self.seed))

    def _plan(self, draw: Draw) -> Plan:
        wanted = -(-self.count // self.task.each)
        plan = make_plan(self.images, self.task, wanted, draw, self.options.max_images)
        if not plan.subjects:
            reasons = [*plan.failed.values(), *(f"{u.key}: {u.error}" for u in plan.unusable)]
            raise RequestError(f"nothing that can be used: {[*reasons, 'no samples'][0]}")
        return plan

    def shortfall(self, plan: Plan) -> tuple[str, ...]:
        """What a plan says of sources that hold less than was asked for, in lines."""
        task = self.task
        if len(plan.subjects) * task.each >= self.count:
            return ()
        twice = f", {plan.twice} more came twice" if plan.twice else ""
        return (
            f"{self.count} {task.noun} are asked for, and the sources have {len(plan.subjects)} "
            f"{task.unit} for {_NUMBERS[task.each]} each{twice}",
        )

    def expect(self, plan: Plan) -> Usage:
        """Tokens that the plan will take: a guess."""
        said = [sum(map(len, self.task.values(subject).values())) for subject in plan.subjects]
        first = self.prompts.compose(self.task.values(plan.subjects[0]), {}, "schema")
        letters = sum(said) + (len(first) - said[0]) * len(said)
        return expect(plan.subjects, letters, self.task.tokens, self.options.image_side)

    def budget(self, plan: Plan, journal: Journal) -> Budget:
        """What may be spent."""
        first = 0.0
        if self.price is not None:
            first = self.price.of(self.expect(plan), self.options.batch) / len(plan.subjects)
        return Budget(journal, self.price, first, self.options.max_cost)

    def subjects(self, pending: list[Subject], failed: dict[str, str]) -> Iterator[Subject]:
        """The pending subjects with their images' bytes; `failed` takes those that are gone."""
        missing = {subject.id: subject for subject in pending}
        for source in self.images:
            wanted = {s.index for s in pending if s.source == source.name}
            try:
                for raw in source.read(wanted) if wanted else ():
                    if raw.problem is not None:
                        raise raw.problem
                    for subject in self.task.subjects(
                        source.name, raw, self.options.max_images, keep=True
                    ):
                        if missing.pop(subject.id, None) is not None:
                            yield subject
            except (ShardError, SampleError) as error:
                failed[source.name] = str(error)
        failed |= dict.fromkeys(missing, "its source has changed since the plan")
