"""mmSSR behind servers that speak OpenAI's chat completions: `endpoint:URL#NAME --like MODEL`.

A request per question: what questions have in common the server's cache of prefixes computes once.
Ids and pixels are those of the torch runner, the squares as PNG; the ratings' probabilities come
as `logprob_token_ids`, or else among the 20 likeliest tokens; styles are held to by a regular
expression. Needs the extra [teachers].
"""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import inf
from typing import Any, TypeAlias

from mmsieve.clients.checking import PROBE, check_endpoint, probe_picture
from mmsieve.clients.endpoint import Endpoint, EndpointName, EndpointRequest
from mmsieve.engine.annotator import Row, Runner, RunnerOptions
from mmsieve.errors import SampleError
from mmsieve.methods.base import Portable, Result, Window
from mmsieve.methods.folders import hash_files
from mmsieve.methods.mmssr.annotator import (
    LONGEST,
    LONGEST_STYLES,
    MmSSR,
    RatingOptions,
    digit_ids,
    parse_styles,
    style_pattern,
)
from mmsieve.methods.mmssr.checkpoint import CHAT, OneVision, chat_text
from mmsieve.methods.mmssr.inputs import (
    MARK,
    STYLE_QUESTION,
    RatingItem,
    RatingPreparer,
    format_turns,
)
from mmsieve.methods.mmssr.rows import DIGITS, SampleRatings, expect, known
from mmsieve.methods.stock import ServedTokenizer, image_part
from mmsieve.methods.tokenizer import FILES
from mmsieve.sample import Sample, Turn

_WINDOW = Window(items=512, tokens=512, nbytes=256 * 2**20)
"""Samples that two endpoints are asked about at once."""
_TOP = 20
"""Likeliest tokens that a server without `logprob_token_ids` is asked for: OpenAI's most."""


Key: TypeAlias = tuple[int, int, int]
"""Of a request: the sample's index, the model's number, the question's number."""


@dataclass(frozen=True, slots=True)
class ServedRatingItem:
    """What is sent for one sample."""

    item: RatingItem
    """Without pixels, as many images as there are."""
    conversations: tuple[str, ...]
    """One per model, with a mark where an image stands."""
    images: tuple[dict[str, Any], ...]
    """Parts of a chat, in order."""

    @property
    def nbytes(self) -> int:
        """What it takes in memory, more or less."""
        return sum(len(image["image_url"]["url"]) for image in self.images)

    def body(self, model: int, question: str) -> dict[str, Any]:
        """The beginning of the request with a question to a model."""
        words = f"{self.conversations[model]}\n{question}"
        parts: list[dict[str, Any]] = []
        for number, piece in enumerate(words.split(MARK)):
            parts += [self.images[number - 1]] if number else []
            parts += [{"type": "text", "text": piece}] if piece else []
        return {
            "messages": [{"role": "user", "content": parts}],
            "temperature": 0,
            "repetition_penalty": 1.0,  # else that of the folder, which counts the prompt too
        }


@dataclass(frozen=True)
class ServedRatingPreparer(Portable):
    """The CPU half: what the torch runner would be given, and how a chat says it."""

    local: RatingPreparer
    served: tuple[ServedTokenizer, ...]
    """One per model."""

    def prepare(self, sample: Sample) -> ServedRatingItem:
        """The requests of a sample; raises SampleError where it can't be rated as it is."""
        item = self.local.prepare(sample)
        writers = self.local.writers
        texts = [format_turns(sample.turns, writer.clean) for writer in writers]
        for text, writer, served, prompt in zip(
            texts, writers, self.served, item.prompts, strict=True
        ):
            asked = chat_text(f"{text}\n{writer.questions[0]}")
            try:
                served.check(asked, [*prompt.shared.tolist(), *prompt.ends[0]])
            except SampleError as error:
                raise error.knowing(known(item)) from error
        images = tuple(image_part(square) for square in item.images)
        return ServedRatingItem(replace(item, images=item.images[:, :0]), tuple(texts), images)


class MmSSREndpoint(MmSSR):
    """A scorer on servers, with or without a styler, as an annotator."""

    def __init__(
        self,
        names: tuple[EndpointName, ...],
        scorer: OneVision,
        styler: OneVision | None,
        options: RatingOptions,
    ) -> None:
        """`names` are of the scorer's endpoint and, where it is another, the styler's; the models
        are those that they serve. Raises RequestError for what can't be meant.

        The fingerprint says which models they are, not where: servers come and go.
        """
        super().__init__(scorer, styler, options, is_served=True)
        self._names = names
        roles = ("served name", "served name of styles")
        served = {role: name.model for role, name in zip(roles, names, strict=False)}
        known_by = {"scorer": scorer, "styler": styler}
        models = {
            role: hash_files(model.folder / name for name in FILES)
            for role, model in known_by.items()
            if model is not None
        }
        self.fingerprint |= {"method": "mmssr endpoint 1", **served, **models}
        del self.fingerprint["dtype"]

    def preparer(self) -> ServedRatingPreparer:  # type: ignore[override]
        """The CPU half."""
        served = tuple(ServedTokenizer.of(model, CHAT) for model in self.models)
        return ServedRatingPreparer(super().preparer(), served)

    def check(self, options: RunnerOptions) -> None:
        """Raise RequestError unless the servers have the models and take a request."""
        for endpoint in self.requests(options).endpoints:
            check_endpoint(endpoint)

    def runner(self, options: RunnerOptions) -> Runner:
        """The half that holds the connections; a device is for models of one's own."""
        return RatingEndpointRunner(self, self.requests(options))

    def requests(self, options: RunnerOptions) -> "RatingRequests":
        """What each endpoint is asked."""
        preparer = self.preparer()
        questions = tuple(writer.questions for writer in preparer.local.writers)
        rating: dict[str, Any] = {"max_completion_tokens": 1}
        if self.options.expected:
            asked = {"logprob_token_ids": digit_ids(self.scorer)}
            rating |= {"logprobs": True, "top_logprobs": _TOP, **asked}
        styles: dict[str, Any] = {"max_completion_tokens": LONGEST}
        if self.constrained:
            styles = {"max_completion_tokens": LONGEST_STYLES}
            styles["structured_outputs"] = {"regex": style_pattern()}
        turns = [Turn("user", f"{MARK}\n{PROBE}"), Turn("assistant", "Yes.")]
        item = preparer.prepare(Sample.instruction([probe_picture()], turns))
        form = {True: styles, False: rating}
        probes = [
            item.body(number, own[-1]) | form[own[-1] == STYLE_QUESTION]
            for number, own in enumerate(questions)
        ]
        endpoints = [
            Endpoint(name, self.options, probe, options.patience, options.kept)
            for name, probe in zip(self._names, probes, strict=True)
        ]
        return RatingRequests(endpoints, questions, rating, styles)


@dataclass(frozen=True)
class RatingRequests:
    """What each endpoint is asked."""

    endpoints: list[Endpoint]
    questions: tuple[tuple[str, ...], ...]
    """Of each."""
    rating: Mapping[str, Any]
    """What the body of a request for a rating has beside the question."""
    styles: Mapping[str, Any]
    """The same for styles."""

    def ask(self, model: int, items: Iterable[tuple[int, ServedRatingItem]]) -> Iterator[Any]:
        """The answers to all questions to a model as they come, each under its Key."""

        def requests() -> Iterator[EndpointRequest]:
            for index, item in items:
                for number, question in enumerate(self.questions[model]):
                    form = self.styles if question == STYLE_QUESTION else self.rating
                    body = {**item.body(model, question), **form}
                    yield EndpointRequest((index, model, number), body, group=index)

        return self.endpoints[model].ask(requests(), read_answer)


def read_answer(answer: Any) -> dict[str, Any]:
    """What is kept of an answer: its text, and log-probabilities of ratings where there are any;
    raises LookupError or TypeError."""
    choice = answer["choices"][0]
    found = {"text": str(choice["message"].get("content") or "")}
    logprobs = choice.get("logprobs")
    if not logprobs:
        return found
    top = {each["token"]: each["logprob"] for each in logprobs["content"][0]["top_logprobs"]}
    return found | {"top": {digit: top[digit] for digit in DIGITS if digit in top}}


class RatingEndpointRunner:
    """Rows of a stream of items, in the order in which the answers come."""

    ahead = True
    """Answers go on coming while something else is done with the rows."""

    def __init__(self, asked: MmSSREndpoint, requests: RatingRequests) -> None:
        self._asked, self._requests = asked, requests
        names = [str(endpoint.name) for endpoint in requests.endpoints]
        self.notes = {"endpoint": ", ".join(names)}

    def run(self, items: Iterable[tuple[int, ServedRatingItem]]) -> Iterator[Result]:
        """Rows for a stream of (index, item); where a request is refused, that is the sample's
        error. Raises MmsieveError where no request can succeed."""
        pending: dict[int, tuple[RatingItem, dict[tuple[int, int], Any]]] = {}

        def noted() -> Iterator[tuple[int, ServedRatingItem]]:
            for index, item in items:
                pending[index] = item.item, {}
                yield index, item

        asked = sum(map(len, self._requests.questions))
        for (index, model, number), answer in self._answers(noted()):
            item, answers = pending[index]
            answers[model, number] = answer
            if len(answers) == asked:
                del pending[index]
                yield index, self._row(item, [answers[key] for key in sorted(answers)])

    def _answers(
        self, items: Iterable[tuple[int, ServedRatingItem]]
    ) -> Iterator[tuple[Key, dict[str, Any] | SampleError]]:
        """The answers of all models; two are asked at the same time."""
        if len(self._requests.endpoints) == 1:
            yield from self._requests.ask(0, items)
            return
        for window in _WINDOW.split(items, lambda indexed: (1, indexed[1].nbytes)):
            with ThreadPoolExecutor(len(self._requests.endpoints)) as pool:
                models = range(len(self._requests.endpoints))
                each = [pool.submit(list, self._requests.ask(model, window)) for model in models]
                for found in each:
                    yield from found.result()

    def _row(self, item: RatingItem, answers: list[Any]) -> Row | SampleError:
        for answer in answers:
            if isinstance(answer, SampleError):
                return answer.knowing(known(item))
        rated = answers[: len(self._asked.capabilities)]
        texts = [answer["text"] for answer in rated]
        ratings = [int(text) if text in tuple(DIGITS) else None for text in texts]
        means = [expect([a.get("top", {}).get(digit, -inf) for digit in DIGITS]) for a in rated]
        styles = None
        if self._asked.styler is not None:
            styles = parse_styles(answers[-1]["text"].strip())
        return self._asked.rows.make(item, SampleRatings(ratings, means, texts), styles)
