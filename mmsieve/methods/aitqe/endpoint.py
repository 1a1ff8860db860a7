"""AITQE behind a server that speaks OpenAI's chat completions: `endpoint:URL#NAME`.

What `convert` writes can be served by vLLM, SGLang or `transformers serve`; the server puts the
image in front of the text that it is sent. Needs the extra [teachers].
"""

import asyncio
import base64
import io
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import islice
from typing import Any, Literal, TypeAlias

import PIL.Image
from pydantic import BaseModel

from mmsieve.clients.connection import NO_KEY, Connection, Teacher, TeacherError, open_teacher
from mmsieve.devices import resolve_device
from mmsieve.engine.annotator import Annotator, Row, Runner, RunnerOptions
from mmsieve.errors import RequestError, SampleError, ShardError, Status
from mmsieve.images import ImageLimits, decode
from mmsieve.methods.aitqe.annotator import EnhanceOptions
from mmsieve.methods.aitqe.answers import MARKER, AssessmentError, kept, read_answer
from mmsieve.methods.aitqe.inputs import question, read_caption
from mmsieve.methods.base import Result
from mmsieve.methods.unifilter.annotator import ScoringOptions
from mmsieve.sample import Sample
from mmsieve.sanitize import redact

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


SCHEME = "endpoint:"
KEY_VARIABLE = "MMSIEVE_ENDPOINT_KEY"


def parse_endpoint(name: str) -> tuple[str, str]:
    """URL and model of `endpoint:URL#NAME`; raises RequestError."""
    url, _, model = name.removeprefix(SCHEME).partition("#")
    if not re.match(r"https?://[^\s/]", url) or not model:
        raise RequestError(
            f"model {name!r}: give {SCHEME}URL#NAME, such as {SCHEME}http://localhost:8000/v1#aitqe"
        )
    if find_spec("openai") is None:
        raise RequestError(f"model {name!r}: needs a package: pip install 'mmsieve[teachers]'")
    return url, model


class AitqeEndpoint(Annotator):
    """AITQE on a server, as an annotator."""

    kind: Literal["assessment"] = "assessment"

    def __init__(self, name: str, enhancing: EnhanceOptions, options: ScoringOptions) -> None:
        """Raises RequestError for options that can't be meant."""
        self._url, self._model = parse_endpoint(name)
        self._enhancing, self._options = enhancing, options
        self.device = resolve_device(options.device)
        self.schema = enhancing.rows.schema
        self.fingerprint = {
            "method": "aitqe endpoint 1",
            "endpoint": redact(f"{self._url}#{self._model}"),
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

    def runner(self, options: RunnerOptions) -> Runner:
        """The half that holds the connections; `options` are for devices of one's own."""
        connection = Connection(
            provider="openai",
            model=self._model,
            # a server of one's own may want no key, but the SDK wants one
            key=os.environ.get(KEY_VARIABLE, "").strip() or NO_KEY,
            base_url=self._url,
            max_retries=_RETRIES,
            timeout=_TIMEOUT,
            max_tokens=self._enhancing.max_new_tokens,
        )
        return EndpointRunner(connection, self._enhancing)


# The half that holds the connections: a bounded number of requests at a time

Outcome: TypeAlias = tuple[int, Row | SampleError | ShardError]
Request: TypeAlias = "asyncio.Task[Outcome]"

_RETRIES = 4
"""After 429, 5xx, a timeout or a broken connection."""
_TIMEOUT = 300.0
"""Seconds of silence after which a request has failed: local servers queue."""


class _AnswerChoice(BaseModel):
    message: dict[str, Any]
    finish_reason: str | None = None


class _AnswerCompletion(BaseModel):
    """What is read of a chat completion."""

    choices: list[_AnswerChoice]


class EndpointRunner:
    """Rows of a stream of items, in the order in which the answers come."""

    def __init__(self, connection: Connection, enhancing: EnhanceOptions) -> None:
        self._connection, self._enhancing = connection, enhancing
        self.notes = {"endpoint": redact(f"{connection.base_url}#{connection.model}")}

    def run(self, items: Iterable[tuple[int, EndpointItem]]) -> Iterator[Result]:
        """Rows for a stream of (index, item); a request that is refused is that sample's error.

        Raises ShardError where the server can't be reached or doesn't know the model or the key.
        """
        with asyncio.Runner() as loop:
            client = open_teacher(self._connection)
            create = loop.get_loop().create_task
            stream = iter(items)
            pending: set[Request] = set()
            first = asyncio.FIRST_COMPLETED
            try:
                while True:
                    for indexed in islice(stream, self._enhancing.concurrency - len(pending)):
                        pending.add(create(self._ask(client, *indexed)))
                    if not pending:
                        return
                    done, pending = loop.run(asyncio.wait(pending, return_when=first))
                    for index, row in [task.result() for task in done]:
                        if isinstance(row, ShardError):
                            raise row
                        yield index, row
            finally:
                loop.run(_stop(pending, client))

    async def _ask(self, client: Teacher, index: int, item: EndpointItem) -> Outcome:
        """The row of an item; an error of the shard is returned too, so that none is lost."""
        create = client.client.chat.completions.with_raw_response.create
        try:
            asked = partial(create, **self._parameters(item))
            completion = await client.read(_AnswerCompletion, asked)
        except TeacherError as error:
            if error.trouble != "refused":
                return index, ShardError(f"the endpoint: {error}")
            message = f"the endpoint refused: {error}"
            return index, SampleError(Status.MODEL_OUTPUT_INVALID, message, kept(item.caption))
        choice = completion.choices[0] if completion.choices else _AnswerChoice(message={})
        text = str(choice.message.get("content") or "").strip()
        if choice.finish_reason == "stop":
            try:
                read_answer(text)
            except AssessmentError:  # it stopped at the marker, which servers leave out
                text += MARKER
        return index, self._enhancing.rows.make(item.caption, text)

    def _parameters(self, item: EndpointItem) -> dict[str, Any]:
        image = {"type": "image_url", "image_url": {"url": item.url}}
        content = [image, {"type": "text", "text": item.words}]
        parameters: dict[str, Any] = {
            "model": self._connection.model,
            "max_completion_tokens": self._connection.max_tokens,
            "temperature": 0,
            "messages": [{"role": "user", "content": content}],
        }
        return parameters if self._enhancing.explain else {**parameters, "stop": [MARKER]}


async def _stop(pending: set[Request], client: Teacher) -> None:
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    await client.close()
