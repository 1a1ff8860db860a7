"""Endpoints: a model on servers of one's own that speak OpenAI's chat completions.

`endpoint:URL#NAME`, or several servers of one model, `endpoint:URL1,URL2#NAME`. Before anything is
read, `Endpoint.check` sees that they serve the model and take a picture; then `Endpoint.ask` sends
a stream of requests. Needs the extra [teachers].
"""

import asyncio
import json
import os
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from importlib.util import find_spec
from typing import Annotated, Any, TypeAlias, TypeVar

from cyclopts import Group, Parameter

from mmsieve.clients.answers import KeptAnswers
from mmsieve.clients.connection import NO_KEY, Connection, NoAnswerError
from mmsieve.clients.servers import Servers, StrayAnswerError
from mmsieve.clients.threads import iterate
from mmsieve.errors import MmsieveError, RequestError, SampleError, Status
from mmsieve.options import AboveZero, Options, Positive
from mmsieve.patience import PATIENCE
from mmsieve.sanitize import redact

T = TypeVar("T")

SCHEME = "endpoint:"
KEY_VARIABLE = "MMSIEVE_ENDPOINT_KEY"
"""Of the environment: the key, where a server wants one."""

_RETRIES = 4
"""Times that a request which failed is sent again, before it is looked who is at fault."""
_AHEAD = 8
"""Answers that wait to be taken, at most, for each request at a time."""
_DOUBT = 32
"""So many refused requests before any answer: it is not the samples that are wrong."""
_MARK = re.compile(r"mmsieve-[0-9a-f]{16}")
"""The id that a request is sent with; servers that answer with ids make theirs from it."""
GROUP = Parameter(group=Group("Endpoints", sort_key=8))
"""Of --help."""


@dataclass(frozen=True, kw_only=True)
class ServerOptions(Options):
    """How servers are asked."""

    concurrency: Annotated[Positive, GROUP] = 64
    """Requests at a time, to all servers of an endpoint together."""
    timeout: Annotated[AboveZero, GROUP] = 300.0
    """Seconds of silence after which a request to an endpoint is sent again."""


@dataclass(frozen=True, kw_only=True)
class LikeOptions(Options):
    """Which model a server has."""

    like: Annotated[str | None, GROUP] = None
    """The model that an endpoint serves: a bundled model, a folder or a Hugging Face id. Images,
    captions and the form of answers are as this model wants them."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EndpointOptions(ServerOptions, LikeOptions):
    """How a model on a server is asked, of a method whose models are known."""


@dataclass(frozen=True)
class EndpointName:
    """`endpoint:URL1,URL2#NAME`, in its parts."""

    urls: tuple[str, ...]
    model: str
    """The name that the servers know the model by."""

    @classmethod
    def parse(cls, name: str) -> "EndpointName":
        """The parts; raises RequestError."""
        places, _, model = name.removeprefix(SCHEME).partition("#")
        urls = tuple(re.split(r",(?=\w+://)", places))
        if not model or not all(re.match(r"https?://[^\s/]", url) for url in urls):
            raise RequestError(
                f"model {name!r}: give {SCHEME}URL#NAME, such as "
                f"{SCHEME}http://localhost:8000/v1#aitqe, or {SCHEME}URL1,URL2#NAME"
            )
        if len(set(urls)) < len(urls):
            raise RequestError(f"model {name!r}: names a server twice")
        if find_spec("openai") is None:
            raise RequestError(f"model {name!r}: needs a package: pip install 'mmsieve[teachers]'")
        return cls(urls, model)

    def __str__(self) -> str:
        return redact(f"{','.join(self.urls)}#{self.model}")


@dataclass(frozen=True, slots=True)
class EndpointRequest:
    """One request."""

    id: Any
    """What its answer comes back under."""
    body: Mapping[str, Any]
    """Of a chat completion, but for the model."""
    group: int | None = None
    """Requests of a group have a beginning in common: they go to the same server."""


Put: TypeAlias = Callable[[tuple[Any, Any]], Awaitable[None]]
"""Hands out an answer under the id of its request."""


class Endpoint:
    """A model on one server or several, asked many requests at a time."""

    def __init__(
        self,
        name: EndpointName,
        options: ServerOptions,
        probe: Mapping[str, Any],
        patience: timedelta = PATIENCE,
        kept: KeptAnswers | None = None,
    ) -> None:
        """`probe` is the body of a request like those to come, with a picture."""
        self.name, self.probe, self.patience = name, probe, patience
        self._options, self._kept = options, kept
        self._key = os.environ.get(KEY_VARIABLE, "").strip() or NO_KEY
        self._answered = self._refused = 0

    def open(self, urls: Sequence[str]) -> Servers:
        """Clients of servers, for one event loop; to be closed."""
        from mmsieve.clients.openai import SDK

        connections = [
            Connection(
                provider="openai",
                model=self.name.model,
                key=self._key,
                base_url=url,
                max_retries=_RETRIES,
                timeout=self._options.timeout,
                patience=self.patience,
            )
            for url in urls
        ]
        return Servers(connections, SDK)

    def ask(
        self, requests: Iterable[EndpointRequest], read: Callable[[Any], T]
    ) -> Iterator[tuple[Any, T | SampleError]]:
        """The id of each request with what `read` makes of its answer, as the answers come.

        An answer is the JSON object of a chat completion; `read` raises ValueError (or LookupError,
        TypeError) for one that isn't as the protocol says, and returns what JSON can keep, not
        None. A request that is refused, or fails again and again where others don't, comes to a
        SampleError of the status request_refused. Raises MmsieveError where no request can succeed,
        or where servers are waited for in vain. Requests are made, sent and answered in a thread
        of their own, whatever is done with the answers meanwhile.
        """

        async def produce(put: Put) -> None:
            servers = self.open(self.name.urls)
            try:
                await self._send_all(servers, iter(requests), read, put)
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from None
            finally:
                await servers.close()

        return iterate(produce, _AHEAD * self._options.concurrency)

    async def post(
        self,
        servers: Servers,
        body: Mapping[str, Any],
        read: Callable[[Any], T],
        group: int | None = None,
        once: bool = False,
    ) -> T:
        """What `read` makes of the answer to one request; raises NoAnswerError."""
        marks: set[str] = set()

        def call(client: Any) -> Any:
            mark = f"mmsieve-{secrets.token_hex(8)}"
            marks.add(mark)
            return client.chat.completions.with_raw_response.create(
                model=self.name.model,
                messages=[],  # replaced by those of the body, which the SDK then doesn't look at
                extra_body=dict(body),
                extra_headers={"X-Request-Id": mark},
            )

        def parse(text: str) -> T:
            answer = json.loads(text)
            try:
                found = _MARK.search(str(answer.get("id")))
                if found and found[0] not in marks:
                    raise StrayAnswerError("the answer to another request")
                return read(answer)
            except (AttributeError, LookupError, TypeError) as error:
                raise ValueError("the response is no chat completion") from error

        return await servers.send(call, parse, group, once)

    async def _send_all(
        self,
        servers: Servers,
        source: Iterator[EndpointRequest],
        read: Callable[[Any], Any],
        put: Put,
    ) -> None:
        """Have all requests answered, so many at a time; read in a thread, as samples may lag."""
        loop = asyncio.get_running_loop()
        slots = asyncio.Semaphore(self._options.concurrency)

        async def settle(request: EndpointRequest) -> None:
            try:
                await put((request.id, await self._answer(servers, request, read)))
            finally:
                slots.release()

        with ThreadPoolExecutor(1, "mmsieve-samples") as reader:
            async with asyncio.TaskGroup() as tasks:
                await slots.acquire()
                read_next = partial(loop.run_in_executor, reader, next, source, None)
                while (request := await read_next()) is not None:
                    tasks.create_task(settle(request))
                    await slots.acquire()

    async def _answer(
        self, servers: Servers, request: EndpointRequest, read: Callable[[Any], Any]
    ) -> Any:
        """What is made of the answer to a request, or the SampleError that it comes to."""
        kept, key = self._kept, ""
        if kept is not None:
            key = kept.key(request.body)
            if (known := kept.find(key)) is not None:
                self._answered += 1
                return known
        while True:
            try:
                answer = await self.post(servers, request.body, read, request.group)
            except NoAnswerError as error:
                if error.trouble == "refused":
                    return self._refuse(f"the endpoint refused: {error}")
                if error.trouble != "failed":
                    raise MmsieveError(f"the endpoint: {error}") from None
                if await self._is_answering(servers):
                    return self._refuse(f"the endpoint failed {_RETRIES + 1} times: {error}")
            else:
                self._answered += 1
                if kept is not None:
                    kept.add(key, answer)
                return answer

    async def _is_answering(self, servers: Servers) -> bool:
        """Whether a server answers the probe: then it is a request's own fault that it fails."""
        try:
            await self.post(servers, self.probe, _choice, once=True)
        except NoAnswerError:
            return False
        return True

    def _refuse(self, reason: str) -> SampleError:
        """Raises MmsieveError where all have been refused so far."""
        self._refused += 1
        if self._refused >= _DOUBT and not self._answered:
            raise MmsieveError(
                f"the first {_DOUBT} requests are all refused, so the run stops: {reason}"
            )
        return SampleError(Status.REQUEST_REFUSED, reason)


def _choice(answer: Any) -> Any:
    return answer["choices"][0]
