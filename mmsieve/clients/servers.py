"""Servers of one model: requests go to the one that has least to do, and again where that helps.

A server that fails is asked by one request at a time until it answers: at once where another
server takes the others, else after a pause that grows. So one that is dead, starts anew or stalls
costs little, and is returned to. A request that fails by itself (500, silence, a cut answer) is
sent again a few times; waiting for a server (503, nobody there) and for one's turn (429) is bounded
by patience alone, which begins anew with each answer.
"""

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar
from urllib.parse import parse_qsl

from mmsieve.clients.connection import Connection, NoAnswerError
from mmsieve.errors import MmsieveError
from mmsieve.patience import Clock, Patience
from mmsieve.resources import add_wait
from mmsieve.sanitize import write

T = TypeVar("T")
Call: TypeAlias = Callable[[Any], Awaitable[Any]]
"""Sends a request through an SDK's client, and returns its raw response."""

CLOCK = Clock()
"""The time by which servers are waited for."""
_FIRST, _LONGEST = 0.5, 8.0
"""Seconds of the first pause, and of the longest; each is twice the one before."""
_CONNECT = 10.0
"""Seconds until a server is reached, at most."""
_DRIP = 60.0
"""Seconds that an answer may take beyond the time without a byte of it."""
_SLACK = 16
"""Requests that a group's own server may have to do beyond another's."""
_SAID_AFTER = 3
"""Failures in a row after which it is said that a server of several is left."""


class StrayAnswerError(ValueError):
    """A response is the answer to another request."""


@dataclass(frozen=True)
class Sdk:
    """What is used of a provider's package."""

    client: Any
    """The class of asynchronous clients."""
    errors: type[Exception]
    """What they raise."""
    timeout: Any
    """The class of timeouts."""


class Server:
    """One address: the client, how busy it is, and whether it answers."""

    def __init__(self, connection: Connection, sdk: Sdk) -> None:
        self.connection = connection
        self._sdk, self._left = sdk, list[Any]()
        self.client = self._open()
        self.in_flight = 0
        self.failures = 0
        """In a row."""
        self.not_before = 0.0
        """When one that failed may be asked again."""

    def _open(self) -> Any:
        address, _, query = (self.connection.base_url or "").partition("?")
        seconds = self.connection.timeout
        return self._sdk.client(
            api_key=self.connection.key,
            base_url=address or None,
            default_query=dict(parse_qsl(query)),
            max_retries=0,  # what is sent again, and when, is decided here
            timeout=self._sdk.timeout(seconds, connect=min(seconds, _CONNECT)),
        )

    def reconnect(self) -> None:
        """Use new connections: what comes next on an old one may be a stray answer too."""
        self._left.append(self.client)
        self.client = self._open()

    async def close(self) -> None:
        """Close all connections."""
        for client in (self.client, *self._left):
            await client.close()

    def is_ready(self, now: float) -> bool:
        """Whether a request may be sent: where it failed, one at a time."""
        return self.failures == 0 or (self.in_flight == 0 and now >= self.not_before)


class Servers:
    """The servers of a model, for one event loop; `close` them."""

    def __init__(self, connections: Sequence[Connection], sdk: Sdk) -> None:
        first = connections[0]
        self._errors, self._retries = sdk.errors, first.max_retries
        self.clock = CLOCK
        self._patience = Patience(first.patience, self.clock.now)
        self._servers = [Server(connection, sdk) for connection in connections]
        self._change = asyncio.Event()
        self._failing_since: float | None = None
        self._given_up: str | None = None

    @property
    def client(self) -> Any:
        """The SDK's client of the first server."""
        return self._servers[0].client

    async def close(self) -> None:
        """Close the connections."""
        for server in self._servers:
            await server.close()

    async def send(
        self, call: Call, read: Callable[[str], T], group: int | None = None, once: bool = False
    ) -> T:
        """What `read` makes of the body of the response to a request; raises NoAnswerError.

        `read` raises ValueError where the body isn't what the protocol says. Requests of a group go
        to the same server while it is no busier than others. `once`: it is never sent again.
        """
        failures = pauses = 0
        while True:
            server = await self._choose(group)
            try:
                answer = read(await self._try(server, call))
            except ValueError as error:
                if isinstance(error, StrayAnswerError):
                    server.reconnect()
                trouble = NoAnswerError("failed", server.connection.scrub(str(error)))
            except NoAnswerError as error:
                trouble = error
            else:
                self._note_answer(server)
                return answer
            if trouble.trouble in ("stop", "refused"):
                self._note_answer(server)
            failures += trouble.trouble == "failed"
            if once or trouble.trouble in ("stop", "refused"):
                raise trouble
            self._note_failure(server, trouble)
            if failures > self._retries:
                raise trouble
            if trouble.trouble == "busy":
                pauses += 1
                await self.clock.sleep(trouble.wait or pause(pauses))

    async def _try(self, server: Server, call: Call) -> str:
        """Send a request to a server, once; returns the body.

        The SDK's timeout is for silence: a bound for the whole keeps a server that drips from
        holding a request for ever.
        """
        most = server.connection.timeout + _DRIP
        server.in_flight += 1
        try:
            async with asyncio.timeout(most):
                response = await call(server.client)
            body: str = response.http_response.text
        except TimeoutError:
            raise NoAnswerError("failed", f"no answer within {most:.0f} s") from None
        except self._errors as error:
            raise server.connection.as_trouble(error) from None
        finally:
            server.in_flight -= 1
            self._announce()
        return body

    async def _choose(self, group: int | None) -> Server:
        """The server that the next request goes to, once there is one."""
        while True:
            if self._given_up is not None:
                raise NoAnswerError("stop", self._given_up)
            now = self.clock.now()
            ready = [server for server in self._servers if server.is_ready(now)]
            if ready:
                least = min(ready, key=lambda server: server.in_flight)
                home = least if group is None else self._servers[group % len(self._servers)]
                is_near = home in ready and home.in_flight <= least.in_flight + _SLACK
                return home if is_near else least
            await self._wait(now)

    async def _wait(self, now: float) -> None:
        """Wait until a server answers or fails, or may be asked again."""
        waits: set[asyncio.Future[Any]] = {asyncio.ensure_future(self._change.wait())}
        times = [server.not_before for server in self._servers if server.in_flight == 0]
        if times:
            waits.add(asyncio.ensure_future(self.clock.sleep(max(0.0, min(times) - now))))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _announce(self) -> None:
        """Let those that wait look again."""
        self._change.set()
        self._change = asyncio.Event()

    def _note_answer(self, server: Server) -> None:
        if server.failures >= _SAID_AFTER and len(self._servers) > 1:
            write(f"{server.connection.place} answers again", sys.stderr)
        self._note_wait()
        server.failures = 0
        self._announce()

    def _note_wait(self) -> None:
        """A time ends in which no server answered."""
        if self._failing_since is not None:
            add_wait("servers", self.clock.now() - self._failing_since)
            self._failing_since = None

    def _note_failure(self, server: Server, error: NoAnswerError) -> None:
        """Raises NoAnswerError where nothing has been answered for too long."""
        now, place = self.clock.now(), server.connection.place
        if self._failing_since is None:
            self._failing_since = now
            self._patience.renew()
        if error.trouble != "busy":
            server.failures += 1
            server.not_before = now + max(pause(server.failures), error.wait or 0)
            others = any(one.failures == 0 for one in self._servers)
            if server.failures == _SAID_AFTER and others:
                left = "the others are asked, and it is tried again now and then"
                write(f"{place} does not answer ({error}): {left}", sys.stderr)
        try:
            self._patience.check(lambda: f"{place} to answer ({error})")
        except MmsieveError as given_up:
            self._given_up = str(given_up)
            self._note_wait()
            self._announce()
            raise NoAnswerError("stop", str(given_up)) from None


def pause(number: int) -> float:
    """Seconds of the pause after so many failures."""
    usual: float = _FIRST * 2 ** min(number - 1, 10)
    return min(usual, _LONGEST) * random.uniform(1, 1.25)  # noqa: S311 - not all at one moment
