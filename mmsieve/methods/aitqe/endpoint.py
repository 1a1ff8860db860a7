"""AITQE behind a server that speaks OpenAI's chat completions: `endpoint:URL#NAME`.

What `convert` writes can be served by vLLM, SGLang or `transformers serve`; the server puts the
image in front of the text that it is sent. Needs the extra [teachers].
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from mmsieve.clients.checking import PROBE as PROBE
from mmsieve.clients.checking import check_endpoint, probe_picture
from mmsieve.clients.endpoint import Endpoint, EndpointName, EndpointRequest
from mmsieve.devices import resolve_device
from mmsieve.engine.annotator import Annotator, Row, Runner, RunnerOptions
from mmsieve.errors import RequestError, SampleError
from mmsieve.images import ImageLimits
from mmsieve.methods.aitqe.annotator import Aitqe, EnhanceOptions
from mmsieve.methods.aitqe.answers import MARKER, kept
from mmsieve.methods.aitqe.checkpoint import CHAT, EnhancerCheckpoint, chat_text
from mmsieve.methods.aitqe.forms import AnswerForm
from mmsieve.methods.aitqe.inputs import AitqePreparer, question, read_caption
from mmsieve.methods.base import Portable, Result
from mmsieve.methods.folders import hash_files
from mmsieve.methods.stock import ServedTokenizer, file_part, image_part
from mmsieve.methods.tokenizer import FILES, IMAGE
from mmsieve.methods.unifilter.annotator import ScoringOptions
from mmsieve.sample import Sample


@dataclass(frozen=True, slots=True)
class EndpointItem:
    """What is sent for one sample."""

    words: str
    image: dict[str, Any]
    """Part of a chat."""
    caption: str
    sample: Sample | None
    truncated: bool = False
    """Whether the caption was cut for the model."""

    @property
    def nbytes(self) -> int:
        """What it takes in memory, more or less."""
        return len(self.image["image_url"]["url"])


@dataclass(frozen=True)
class EndpointPreparer:
    """The CPU half: checks the image, and encodes it for sending."""

    orient: bool
    limits: ImageLimits
    keep_sample: bool

    def prepare(self, sample: Sample) -> EndpointItem:
        """The request of a caption pair; raises SampleError where it can't be judged."""
        caption = read_caption(sample)
        try:
            image = file_part(sample.images[0].data, self.limits, self.orient)
        except SampleError as error:
            raise error.knowing(kept(caption)) from error
        words = "\n" + question(caption, plain=False)
        return EndpointItem(words, image, caption, sample if self.keep_sample else None)


@dataclass(frozen=True)
class LikePreparer(Portable):
    """The CPU half where it is known which model is served: what the torch runner would be given,
    the square to the pixel and the caption cut alike, and how a chat says it."""

    local: AitqePreparer
    served: ServedTokenizer

    def prepare(self, sample: Sample) -> EndpointItem:
        """The request of a caption pair; raises SampleError where it can't be judged."""
        item = self.local.prepare(sample)
        words = "\n" + self.local.write(item.caption)[0]
        try:
            self.served.check(chat_text(words), [IMAGE, *item.ids.tolist()])
        except SampleError as error:
            raise error.knowing(kept(item.caption)) from error
        image = image_part(item.image)
        return EndpointItem(words, image, item.caption, item.sample, item.truncated)


class AitqeEndpoint(Annotator):
    """AITQE on a server, as an annotator."""

    kind: Literal["assessment"] = "assessment"
    spread = 0

    def __init__(
        self,
        name: str,
        enhancing: EnhanceOptions,
        options: ScoringOptions,
        like: EnhancerCheckpoint | None = None,
    ) -> None:
        """`like` is the model that is served; raises RequestError for what can't be meant.

        The fingerprint says which model it is, not where: servers come and go.
        """
        if enhancing.backend != "torch":
            raise RequestError(f"--backend {enhancing.backend} is for models in this process")
        self._name = EndpointName.parse(name)
        self._enhancing, self._options = enhancing, options
        self.device = resolve_device(options.device)
        self.schema = enhancing.rows.schema
        self._like = None if like is None else Aitqe(like, enhancing, options)
        self._form = None if like is None else AnswerForm.of(like, enhancing)
        inputs = {
            "apply_orientation": str(options.apply_orientation),
            "image_limits": str(options.image_limits),
            **enhancing.fingerprint,
        }
        if self._like is not None:
            of_the_model = ("method", "weights", "tokenizer", "dtype")
            known = self._like.fingerprint.items()
            inputs = {name: value for name, value in known if name not in of_the_model}
        self.fingerprint = {
            "method": "aitqe endpoint 2",
            "served name": self._name.model,
            **({} if like is None else describe_like(like)),
            **inputs,
        }

    def preparer(self) -> "EndpointPreparer | LikePreparer":
        """The CPU half."""
        if self._like is not None:
            served = ServedTokenizer.of(self._like.checkpoint, CHAT)
            return LikePreparer(self._like.preparer(), served)
        return EndpointPreparer(
            orient=self._options.apply_orientation,
            limits=self._options.image_limits,
            keep_sample=self._enhancing.accept_if_better is not None,
        )

    def check(self, options: RunnerOptions) -> None:
        """Raise RequestError unless the servers have the model and take a request."""
        check_endpoint(self._endpoint(options))

    def runner(self, options: RunnerOptions) -> Runner:
        """The half that holds the connections; a device is for models of one's own."""
        return EndpointRunner(self._endpoint(options), self._enhancing, self._form)

    def _endpoint(self, options: RunnerOptions) -> Endpoint:
        sample = Sample.caption(probe_picture(), PROBE)
        probe = request_body(self.preparer().prepare(sample), self._enhancing, self._form)
        return Endpoint(self._name, self._enhancing, probe, options.patience, options.kept)


def describe_like(like: EnhancerCheckpoint) -> dict[str, str]:
    """What of the served model changes requests and answers: size, tokenizer, form."""
    return {
        "like image": str(like.image),
        "like tokenizer": hash_files(like.folder / name for name in FILES),
        "like form": "published" if like.own is None else "pieces",
    }


# The half that holds the connections


def request_body(
    item: EndpointItem, enhancing: EnhanceOptions, form: AnswerForm | None = None
) -> dict[str, Any]:
    """The body of the request about an item; `form` is what an answer is held to.

    What OpenAI's protocol hasn't is sent only where `--like` says that the server is known.
    """
    content = [item.image, {"type": "text", "text": item.words}]
    body: dict[str, Any] = {
        "max_completion_tokens": enhancing.max_new_tokens if form is None else form.max_tokens,
        "temperature": 0,
        "messages": [{"role": "user", "content": content}],
    }
    if enhancing.like is not None:
        body["repetition_penalty"] = 1.0  # else that of the folder, which counts the prompt too
    if form is not None:
        return {**body, "structured_outputs": {"regex": form.pattern}}
    if enhancing.explain:
        return body
    said = {} if enhancing.like is None else {"include_stop_str_in_output": True}
    return {**body, "stop": [MARKER], **said}


def read_choice(answer: Any) -> dict[str, Any]:
    """What is kept of an answer: its text, and why it ended; raises LookupError or TypeError.

    The marker that a server stopped at, and says so, belongs to the text.
    """
    choice = answer["choices"][0]
    text = str(choice["message"]["content"] or "")
    stopped = choice.get("stop_reason", choice.get("matched_stop"))
    if stopped == MARKER and MARKER not in text:
        text += MARKER
    return {"text": text.strip(), "end": choice.get("finish_reason")}


class EndpointRunner:
    """Rows of a stream of items, in the order in which the answers come."""

    ahead = True
    """Answers go on coming while something else is done with the rows."""

    def __init__(
        self, endpoint: Endpoint, enhancing: EnhanceOptions, form: AnswerForm | None
    ) -> None:
        self._endpoint, self._enhancing, self._form = endpoint, enhancing, form
        self.notes = {"endpoint": str(endpoint.name)}

    def run(self, items: Iterable[tuple[int, EndpointItem]]) -> Iterator[Result]:
        """Rows for a stream of (index, item); a request that is refused is that sample's error.

        Raises MmsieveError where no request can succeed.
        """
        captions: dict[int, tuple[str, bool]] = {}

        def requests() -> Iterator[EndpointRequest]:
            for index, item in items:
                captions[index] = item.caption, item.truncated
                yield EndpointRequest(index, request_body(item, self._enhancing, self._form))

        for index, answer in self._endpoint.ask(requests(), read_choice):
            yield index, self._row(*captions.pop(index), answer)

    def _row(
        self, caption: str, truncated: bool, answer: dict[str, Any] | SampleError
    ) -> Row | SampleError:
        if isinstance(answer, SampleError):
            return answer.knowing(kept(caption))
        text = answer["text"]
        cut = self._form is not None and self._form.is_cut(text)
        return self._enhancing.rows.make(caption, text, truncated, cut)
