"""A generation over real images: the request for it, and its way from sources to training files.

plan (which images) -> ask (answers into the journal) -> collect (training files from the journal).
Each step starts from what the one before left on disk, so any can be killed. What is planned is in
the training files or in rejects.jsonl, or it has no answer yet and the next run asks for it.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any

from mmsieve.clients.connection import Connection
from mmsieve.clients.teacher import Usage, api_key, open_teacher, split_name
from mmsieve.clients.threads import run_to_end
from mmsieve.errors import RequestError
from mmsieve.generation import diversity
from mmsieve.generation.files import TrainingFiles, choose_val, text_fields
from mmsieve.generation.journal import AnswerJournal, CostBudget, Price, find_price
from mmsieve.generation.loop import AnswerKeeper, BatchLoop, LoopOutcome, RequestLoop
from mmsieve.generation.options import TeacherOptions
from mmsieve.generation.plan import (
    HUMAN,
    Draw,
    GenerationPlan,
    HumanCaptions,
    HumanCaptionSource,
    ImageSource,
    find_images,
    make_plan,
    random_draw,
    read_plan,
)
from mmsieve.generation.preparing import (
    Pending,
    Prepare,
    RequestBuilder,
    SourceItems,
    WantedRequests,
    prepare_here,
)
from mmsieve.generation.tasks import GenerationTask, Prompts, RequestItem
from mmsieve.methods.tower import Tower
from mmsieve.outputs import check_below, write_text
from mmsieve.patience import PATIENCE
from mmsieve.progress import show_progress
from mmsieve.read import ReadOptions
from mmsieve.sanitize import redact
from mmsieve.validated import say_invalid
from mmsieve.wording import counted

PLAN, JOURNAL, REJECTS = "plan.json", "journal.jsonl", "rejects.jsonl"
FILES = (PLAN, JOURNAL, REJECTS)
"""What is in an output folder beside the training files."""

_NUMBERS = {1: "one", 2: "two", 4: "four"}
_LETTERS_A_TOKEN = 4
_PIXELS_A_TOKEN = 750
"""Anthropic's rule of thumb; OpenAI's tiles and patches come to 0.5 to 1.2 times as many tokens."""


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """What is to be generated over real images, and how; checked before anything is read."""

    task: GenerationTask
    teacher: str
    """provider:MODEL."""
    sources: tuple[str, ...]
    count: int
    """Records."""
    seed: int
    val_fraction: float
    read: ReadOptions
    options: TeacherOptions
    patience: timedelta = PATIENCE
    """How long a teacher that is down is waited for."""

    def check(self) -> None:
        """Raise RequestError for what can't be carried out."""
        self.options.check()
        if self.price is None and self.options.max_cost is not None:
            raise RequestError(
                f"--max-cost: the price of {self.teacher} isn't known; say --price IN,OUT"
            )
        _ = self.prompts, self.images, self.tower
        if self.human_captions is not None:
            self.human_captions.check()

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
            patience=self.patience,
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
        return diversity.open_features(self.options.diversify_model)

    @cached_property
    def images(self) -> list[ImageSource]:
        """What the SOURCE strings name; raises RequestError."""
        task = self.task
        return find_images(self.sources, self.read, kinds=task.kinds, by_folder=task.by_folder)

    @property
    def human_captions(self) -> HumanCaptionSource | None:
        """What people wrote, if there is any; raises RequestError."""
        if self.options.positives is None:
            return None
        if self.task.name != "captions":
            raise RequestError("--positives is for captions")
        return HumanCaptionSource(self.options.positives, self.read)

    def config(self) -> dict[str, object]:
        """Whatever changes what is generated; a resume with another one is refused."""
        read = {name: str(value) for name, value in asdict(self.read).items() if value}
        clusters = self.options.diversify
        return {
            "what": self.task.name,
            **self.task.settings(),
            "teacher": self.teacher,
            "prompts": self.prompts.version,
            "sources": [redact(source) for source in self.sources],
            "read": read,
            "count": self.count,
            "seed": self.seed,
            "val_fraction": self.val_fraction,
            "positives": self.options.positives and redact(self.options.positives),
            "diversify": clusters and [clusters, self.options.diversify_model],
            "max_images": self.options.max_images,
            "image_side": self.options.image_side,
            "answer_format": self.options.answer_format,
        }

    def plan(self, quiet: bool) -> GenerationPlan:
        """The images that are taken; raises RequestError where there is none."""
        clusters, seed = self.options.diversify, self.seed
        if self.tower is None or clusters is None:
            return self._plan(random_draw(self.seed))
        labels = diversity.cluster_sources(self.images, self.tower, clusters, seed, quiet)
        plan = self._plan(diversity.even_draw(labels, seed))
        return replace(plan, note=diversity.describe(labels))

    def _plan(self, draw: Draw) -> GenerationPlan:
        wanted = -(-self.count // self.task.each)
        plan = make_plan(self.images, self.task, wanted, draw, self.options.max_images)
        if not plan.items:
            reasons = [*plan.failed.values(), *(f"{u.key}: {u.error}" for u in plan.unusable)]
            raise RequestError(f"nothing that can be used: {[*reasons, 'no samples'][0]}")
        return plan

    def shortfall(self, plan: GenerationPlan) -> tuple[str, ...]:
        """What a plan says of sources that hold less than was asked for, in lines."""
        task = self.task
        if len(plan.items) * task.each >= self.count:
            return ()
        twice = f", {plan.twice:,} more came twice" if plan.twice else ""
        return (
            f"asked for: {counted(self.count, task.noun)}; the sources have "
            f"{counted(len(plan.items), task.unit)} for {_NUMBERS[task.each]} each{twice}",
        )

    def expect(self, plan: GenerationPlan) -> Usage:
        """Tokens that the plan will take: a guess, good to a factor of two."""
        values = [self.task.values(item) for item in plan.items]
        lengths = [sum(map(len, one.values())) for one in values]
        first = self.prompts.compose(values[0], {}, "schema")
        letters = sum(lengths) + (len(first) - lengths[0]) * len(lengths)
        pixels = 0.0
        for picture in (picture for item in plan.items for picture in item.pictures):
            shrink = min(1.0, self.options.image_side / max(picture.width, picture.height))
            pixels += picture.width * picture.height * shrink**2
        shown = round(pixels / _PIXELS_A_TOKEN)
        return Usage(shown + letters // _LETTERS_A_TOKEN, len(plan.items) * self.task.tokens)

    def budget(self, plan: GenerationPlan, journal: AnswerJournal) -> CostBudget:
        """What may be spent."""
        first = 0.0
        if self.price is not None:
            first = self.price.of(self.expect(plan), self.options.batch) / len(plan.items)
        return CostBudget(journal, self.price, first, self.options.max_cost)

    def estimate(self) -> tuple[str, ...]:
        """What the generation would take, in lines: images, tokens, dollars."""
        plan = self._plan(random_draw(self.seed))  # as large as one that looks at the images
        usage, cost = self.expect(plan), "unknown, say --price IN,OUT"
        images = sum(len(item.pictures) for item in plan.items)
        if self.price is not None:
            cost = f"about ${self.price.of(usage, self.options.batch):.2f}"
        memory = () if self.tower is None else (diversity.estimate_features(self.tower).line,)
        return (
            *self.shortfall(plan),
            *memory,
            f"would ask {self.teacher} about {counted(len(plan.items), self.task.unit)}: "
            f"{counted(images, 'images')} of {counted(plan.samples, 'samples')}, "
            f"{len(plan.unusable):,} more can't be used",
            f"about {usage.input:,} tokens in and {usage.output:,} out, more where the model "
            f"thinks; cost: {cost}",
        )

    def builder(self) -> RequestBuilder:
        """What builds the requests; without the key, so that it may travel."""
        return RequestBuilder(
            task=self.task,
            prompts=self.prompts,
            format=self.options.answer_format,
            side=self.options.image_side,
            max_images=self.options.max_images,
        )

    def by_source(
        self, items: Iterable[RequestItem], failed: dict[str, str]
    ) -> Iterator[SourceItems]:
        """The items, put together by source; `failed` takes those whose source is gone."""
        found: dict[str, list[RequestItem]] = {}
        for item in items:
            found.setdefault(item.source, []).append(item)
        for source in self.images:
            if of_source := found.pop(source.name, None):
                yield SourceItems(source, of_source)
        failed |= dict.fromkeys(found, "it isn't there any more")


@dataclass(frozen=True)
class GenerationResult:
    """What is in the output folder, and how far a generation has come."""

    written: dict[str, int]
    """File -> its records."""
    rejects: int
    undone: int
    """Items without an answer, though they may get one."""
    failed: dict[str, str]
    """What isn't done, or a shard that can't be read -> why."""
    spent: str = ""
    notes: tuple[str, ...] = ()


def generate(
    request: GenerationRequest, out: Path, quiet: bool, prepare: Prepare = prepare_here
) -> GenerationResult:
    """Generate into a folder, going on from what an earlier run left there."""
    if (out / PLAN).exists():  # sources are only searched once
        plan = read_plan(out / PLAN)
        check_below(out, (name for item in plan.items for name in item.names))
    else:
        plan = request.plan(quiet)
        plan.write(out / PLAN)
    journal = AnswerJournal(out / JOURNAL)
    outcome = LoopOutcome()
    if journal.batches or _left(request, plan, journal):
        outcome = _Asking(request, plan, journal, out, prepare).run(quiet)
    result = collect(request, plan, journal, out)
    failed = plan.failed | result.failed
    if result.undone:
        reason = outcome.stopped or next(iter(outcome.failed.values()), "no answer")
        name = f"{result.undone:,} of {len(plan.items):,} {request.task.unit}"
        failed[name] = f"not done: {reason}; the same command goes on"
    spent = request.budget(plan, journal).describe()
    notes = tuple(note for note in (plan.note, *request.shortfall(plan)) if note)
    return replace(result, failed=failed, spent=spent, notes=notes)


def _left(request: GenerationRequest, plan: GenerationPlan, journal: AnswerJournal) -> set[str]:
    attempts = request.options.attempts
    return {item.id for item in plan.items if not journal.is_settled(item.id, attempts)}


@dataclass(frozen=True)
class _Asking:
    """Asks about all items of a plan that are left."""

    request: GenerationRequest
    plan: GenerationPlan
    journal: AnswerJournal
    out: Path
    prepare: Prepare
    failed: dict[str, str] = field(default_factory=dict)
    """What can't be prepared, and why."""

    def run(self, quiet: bool) -> LoopOutcome:
        """Collect the batches that are under way, then ask about the rest."""
        request, options, journal = self.request, self.request.options, self.journal
        keeper = AnswerKeeper(
            task=request.task, journal=journal, folder=self.out, format=options.answer_format
        )
        budget = request.budget(self.plan, journal)
        outcome = LoopOutcome()
        total, left = len(self.plan.items), len(_left(request, self.plan, journal))
        with show_progress(
            request.task.name, total, quiet, request.task.unit, total - left, say=budget.describe
        ) as advance:
            shared: dict[str, Any] = {
                "keeper": keeper,
                "budget": budget,
                "attempts": options.attempts,
                "advance": advance,
            }
            if options.batch or journal.batches:
                items = {item.id: item for item in self.plan.items}
                teacher = open_teacher(request.connection)
                batches = BatchLoop(teacher=teacher, items=items, poll=options.poll, **shared)
                pending = partial(self._pending, enough=batches.enough)
                outcome = run_to_end(batches.run(pending if options.batch else None))
            if not options.batch and outcome.stopped is None:
                loop = RequestLoop(
                    teacher=open_teacher(request.connection),
                    concurrency=options.concurrency,
                    max_bytes=options.max_in_flight * 2**20,
                    **shared,
                )
                wanted = _left(request, self.plan, journal)
                outcome = run_to_end(loop.run(self._pending(wanted, loop.enough)))
        outcome.failed |= self.failed
        return outcome

    def _pending(self, wanted: set[str], enough: Event) -> Iterator[Pending]:
        items = (item for item in self.plan.items if item.id in wanted)
        wanted_requests = WantedRequests(
            builder=self.request.builder(),
            sources=list(self.request.by_source(items, self.failed)),
            requests=self.request.options.concurrency,
            failed=self.failed,
            is_enough=enough.is_set,
        )
        return self.prepare(wanted_requests)


def collect(
    request: GenerationRequest, plan: GenerationPlan, journal: AnswerJournal, out: Path
) -> GenerationResult:
    """Write train.json, val.json and rejects.jsonl from what has been answered so far."""
    task, source = request.task, request.human_captions
    human = HumanCaptions() if source is None else source.take(out)
    items = [*plan.items, *human.items.values()]
    images = [[picture.sha256 for picture in item.pictures] for item in items]
    sides = choose_val(images, request.val_fraction, request.seed)
    files = TrainingFiles(out)
    rejects = [{**asdict(one), "requests": 0} for one in (*plan.unusable, *human.unusable)]
    author = {"teacher": request.teacher, "prompts": request.prompts.version}
    undone = 0
    for number, (item, digests, is_val) in enumerate(zip(items, images, sides, strict=True)):
        origin = {"source": item.source, "key": item.key, "sha256": digests}
        if item.id in human.texts:
            records = text_fields(item.names, human.texts[item.id])
            files.add(item.id, records, is_val, {"teacher": HUMAN, **origin})
        elif item.id in journal.answers:
            try:
                answered = list(task.records(item, journal.answers[item.id]))
            except ValueError as error:
                raise RequestError(
                    f"{out / JOURNAL}: answer about {item.id}: {say_invalid(error)}: remove its "
                    "line, and the same command asks again"
                ) from error
            records = islice(answered, request.count - number * task.each)
            files.add(item.id, records, is_val, {**author, **origin})
        elif journal.is_settled(item.id, request.options.attempts):
            problems = journal.problems[item.id]
            reject: dict[str, Any] = {"source": item.source, "key": item.key}
            reject |= {"status": "model_output_invalid", "error": problems[-1]}
            reject |= {"requests": len(problems), "id": item.id, "sha256": digests}
            rejects.append(reject)
            for name in item.names:
                (out / name).unlink(missing_ok=True)
        else:
            undone += 1
    text = "".join(json.dumps(reject, ensure_ascii=False) + "\n" for reject in rejects)
    write_text(out / REJECTS, text)
    return GenerationResult(files.finish(), len(rejects), undone, human.failed)
