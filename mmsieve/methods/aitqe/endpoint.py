"""AITQE behind a server that speaks OpenAI's chat completions: `endpoint:URL#NAME`.

What `convert` writes can be served by vLLM, SGLang or `transformers serve`; the server puts the
image in front of the text that it is sent. Needs the extra [teachers].
"""

import base64
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import PIL.Image

from mmsieve.clients.checking import check_endpoint
from mmsieve.clients.endpoint import Endpoint, EndpointName, EndpointRequest
from mmsieve.devices import resolve_device
from mmsieve.engine.annotator import Annotator, Row, Runner, RunnerOptions
from mmsieve.errors import SampleError
from mmsieve.images import ImageLimits, decode
from mmsieve.methods.aitqe.annotator import EnhanceOptions
from mmsieve.methods.aitqe.answers import MARKER, AssessmentError, kept, read_answer
from mmsieve.methods.aitqe.checkpoint import EnhancerCheckpoint
from mmsieve.methods.aitqe.inputs import question, read_caption
from mmsieve.methods.base import Result
from mmsieve.methods.folders import hash_files
from mmsieve.methods.tokenizer import FILES
from mmsieve.methods.unifilter.annotator import ScoringOptions
from mmsieve.sample import Sample

_AS_IT_IS = {b"\xff\xd8\xff": "jpeg", b"\x89PNG\r\n\x1a\n": "png"}
"""First bytes of files that any server reads; others are sent as PNG."""


@dataclass(frozen=True, slots=True)
class EndpointItem:
    """What is sent for one sample."""

    words: str
    url: str
    """The image, as a data URL."""
    caption: str
    sample: Sample | None

    @property
    def nbytes(self) -> int:
        """What it takes in memory, more or less."""
        return len(self.url)


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
            url = self._url(sample.images[0].data)
        except SampleError as error:
            raise error.knowing(kept(caption)) from error
        words = "\n" + question(caption, plain=False)
        return EndpointItem(words, url, caption, sample if self.keep_sample else None)

    def _url(self, data: bytes) -> str:
        pixels = decode(data, self.limits, 0, self.orient)
        kind = next((kind for magic, kind in _AS_IT_IS.items() if data.startswith(magic)), None)
        if kind is None or self.orient or self.limits.convert_well:
            out = io.BytesIO()
            PIL.Image.fromarray(pixels).save(out, "PNG")
            kind, data = "png", out.getvalue()
        return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


PROBE = "A red square, to see whether pictures are taken."
"""The caption of the request that is sent before all others."""


class AitqeEndpoint(Annotator):
    """AITQE on a server, as an annotator."""

    kind: Literal["assessment"] = "assessment"

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
        self._name = EndpointName.parse(name)
        self._enhancing, self._options = enhancing, options
        self.device = resolve_device(options.device)
        self.schema = enhancing.rows.schema
        self.fingerprint = {
            "method": "aitqe endpoint 2",
            "served name": self._name.model,
            **({} if like is None else describe_like(like)),
            "apply_orientation": str(options.apply_orientation),
            "image_limits": str(options.image_limits),
            **enhancing.fingerprint,
        }

    def preparer(self) -> EndpointPreparer:
        """The CPU half."""
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
        return EndpointRunner(self._endpoint(options), self._enhancing)

    def _endpoint(self, options: RunnerOptions) -> Endpoint:
        file = io.BytesIO()
        PIL.Image.new("RGB", (64, 64), "red").save(file, "PNG")
        sample = Sample.caption(file.getvalue(), PROBE)
        probe = request_body(self.preparer().prepare(sample), self._enhancing)
        return Endpoint(self._name, self._enhancing, probe, options.patience, options.kept)


def describe_like(like: EnhancerCheckpoint) -> dict[str, str]:
    """What of the served model changes requests and answers: size, tokenizer, form."""
    return {
        "like image": str(like.image),
        "like tokenizer": hash_files(like.folder / name for name in FILES),
        "like form": "published" if like.own is None else "pieces",
    }


# The half that holds the connections


def request_body(item: EndpointItem, enhancing: EnhanceOptions) -> dict[str, Any]:
    """The body of the request about an item."""
    image = {"type": "image_url", "image_url": {"url": item.url}}
    content = [image, {"type": "text", "text": item.words}]
    body: dict[str, Any] = {
        "max_completion_tokens": enhancing.max_new_tokens,
        "temperature": 0,
        "messages": [{"role": "user", "content": content}],
    }
    return body if enhancing.explain else {**body, "stop": [MARKER]}


def read_choice(answer: Any) -> dict[str, Any]:
    """What is kept of an answer: its text, and why it ended; raises LookupError or TypeError."""
    choice = answer["choices"][0]
    text = choice["message"]["content"] or ""
    return {"text": str(text).strip(), "end": choice.get("finish_reason")}


class EndpointRunner:
    """Rows of a stream of items, in the order in which the answers come."""

    ahead = True
    """Answers go on coming while something else is done with the rows."""

    def __init__(self, endpoint: Endpoint, enhancing: EnhanceOptions) -> None:
        self._endpoint, self._enhancing = endpoint, enhancing
        self.notes = {"endpoint": str(endpoint.name)}

    def run(self, items: Iterable[tuple[int, EndpointItem]]) -> Iterator[Result]:
        """Rows for a stream of (index, item); a request that is refused is that sample's error.

        Raises MmsieveError where no request can succeed.
        """
        captions: dict[int, str] = {}

        def requests() -> Iterator[EndpointRequest]:
            for index, item in items:
                captions[index] = item.caption
                yield EndpointRequest(index, request_body(item, self._enhancing))

        for index, answer in self._endpoint.ask(requests(), read_choice):
            yield index, self._row(captions.pop(index), answer)

    def _row(self, caption: str, answer: dict[str, Any] | SampleError) -> Row | SampleError:
        if isinstance(answer, SampleError):
            return answer.knowing(kept(caption))
        text = answer["text"]
        if answer["end"] == "stop":
            try:
                read_answer(text)
            except AssessmentError:  # it stopped at the marker, which servers leave out
                text += MARKER
        return self._enhancing.rows.make(caption, text)
