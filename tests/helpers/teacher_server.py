"""A teacher on 127.0.0.1 that speaks both providers' protocols, misbehaves, and keeps count.

    with TeacherServer(answer, Plan(faults={Fault.RATE_LIMIT: 0.1})) as server:
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="k")
        anthropic.Anthropic(base_url=server.url, api_key="k")

What goes wrong is drawn from the plan's seed, the images of a request and how often they were
asked about, so it doesn't depend on the order in which requests arrive.
"""

import itertools
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from mmsieve.methods.aitqe.endpoint import PROBE
from tests.helpers.teacher_batches import Batches
from tests.helpers.teacher_protocols import (
    REFUSED,
    Ask,
    ProtocolError,
    Provider,
    Reply,
    Tokens,
    check_key,
    read_ask,
    write_error,
    write_reply,
)


class Fault(StrEnum):
    """What can go wrong: below HTTP, in its status, or in an answer that is paid for."""

    BAD_REQUEST = "400"
    UNKNOWN = "404"
    RATE_LIMIT = "429"
    SERVER_ERROR = "500"
    UNAVAILABLE = "503"
    OVERLOADED = "529"
    STALL = "stall"
    CUT = "cut"
    TWICE = "twice"
    TRUNCATED = "truncated"
    REFUSAL = "refusal"
    WRONG_FIELDS = "wrong_fields"
    DUPLICATES = "duplicates"


STATUSES = {fault: int(fault) for fault in Fault if fault.isdecimal()}
UNPAID = (*STATUSES, Fault.STALL, Fault.CUT)
"""Faults that give no whole answer, so nobody pays for one."""


@dataclass(frozen=True)
class Plan:
    """How the server misbehaves."""

    seed: int = 0
    faults: Mapping[Fault, float] = field(default_factory=dict)
    """Fault -> its share of all requests."""
    stubborn: Mapping[Fault, float] = field(default_factory=dict)
    """Fault -> the share of images for which every request meets it."""
    retry_after: str = "0.05"
    """Seconds, as all but 400 and 404 ask for."""
    stall: float = 30
    """Seconds without an answer; then the connection is closed."""
    latency: float = 0
    """Seconds that a whole answer takes, on average."""
    batch_polls: int = 2
    """Looks at a batch until it has ended."""
    batch_latency: float = 0
    """Seconds from a batch's being made to its maker's being told."""

    def wait(self) -> None:
        """Take the time that an answer takes."""
        time.sleep(self.latency * random.uniform(0.5, 1.5))

    def fault(self, key: str, attempt: int) -> Fault | None:
        """What goes wrong at the `attempt`-th request about these images."""
        lasting = _draw(self.stubborn, f"{self.seed} {key}")
        return lasting or _draw(self.faults, f"{self.seed} {key} {attempt}")


def _draw(shares: Mapping[Fault, float], seed: str) -> Fault | None:
    at = random.Random(seed).random()
    for fault, share in shares.items():
        at -= share
        if at < 0:
            return fault
    return None


Answer = Callable[[Ask], dict[str, Any]]


class TeacherServer:
    """The server: use it as a context manager; everything it saw can be read afterwards."""

    def __init__(
        self,
        answer: Answer,
        plan: Plan = Plan(),
        tokens: Tokens = Tokens(),  # noqa: B008 - frozen
        port: int = 0,
    ) -> None:
        self.answer, self.plan, self.tokens = answer, plan, tokens
        self.models: dict[str, int] | None = None
        """The only models it has: name -> max_model_len. None: any, and it lists none."""
        self.probes = 0
        """Requests of which an endpoint's users know no answer yet; they are not counted below."""
        self.probe_fault: Fault | None = None
        self.asked: Counter[str] = Counter()
        """Images (`Ask.key`) -> requests about them."""
        self.paid: Counter[str] = Counter()
        """Images -> good answers given about them."""
        self.wasted: Counter[str] = Counter()
        """Images -> whole answers that no one can use: paid for as well."""
        self.met: Counter[Fault] = Counter()
        self.headers: list[dict[str, str]] = []
        """Of every request, names in lower case."""
        self.refused: list[str] = []
        """Protocol errors: requests that the real server would not have taken."""
        self.failures: list[BaseException] = []
        """Of the server's own making: a test should find none."""
        self.connections = 0
        self.busy = 0
        """Requests being answered now."""
        self.most_busy = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.batches = Batches(self)
        self._numbers = itertools.count(1)
        self._http = _Http(("127.0.0.1", port), _Handler)
        self._http.teacher = self
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Where it listens, without `/v1`."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def answers(self) -> int:
        """Whole answers given: what the provider would bill."""
        return self.paid.total() + self.wasted.total()

    def __enter__(self) -> "TeacherServer":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        if self.failures and exc[0] is None:
            raise self.failures[0]

    def draw(self, ask: Ask) -> Fault | None:
        """Count a request, and say what goes wrong with it."""
        with self.lock:
            if PROBE in ask.text:
                self.probes += 1
                return self.probe_fault
            fault = self.plan.fault(ask.key, self.asked[ask.key])
            self.asked[ask.key] += 1
            if fault is not None:
                self.met[fault] += 1
            if fault not in UNPAID:
                (self.paid if fault in (None, Fault.TWICE) else self.wasted)[ask.key] += 1
        return fault

    @staticmethod
    def is_unpaid(fault: Fault | None) -> bool:
        """Whether a request that meets this gets no whole answer."""
        return fault in UNPAID

    def reply(self, ask: Ask, fault: Fault | None) -> dict[str, Any]:
        """The body of a whole answer, spoiled by the fault."""
        said = _said(self.answer(ask), fault)
        return write_reply(ask, said, self.tokens, next(self._numbers))


def _said(answer: dict[str, Any], fault: Fault | None) -> Reply:
    if fault is Fault.TWICE:
        return Reply(json.dumps(answer))
    if fault is Fault.REFUSAL:
        return Reply(REFUSED, "refusal")
    if fault is Fault.WRONG_FIELDS:
        answer = {f"not_{name}": value for name, value in answer.items()}
    elif fault is Fault.DUPLICATES:
        answer = _all_alike(answer)
    text = json.dumps(answer)
    if fault is Fault.TRUNCATED:
        return Reply(text[: len(text) // 2], "length")
    return Reply(text)


def _all_alike(answer: dict[str, Any]) -> dict[str, Any]:
    """The first text in the place of every text, and the first entry in that of every entry."""
    first = next((value for value in answer.values() if isinstance(value, str)), None)
    alike: dict[str, Any] = {}
    for name, value in answer.items():
        if isinstance(value, list) and value:
            alike[name] = [value[0]] * len(value)
        else:
            alike[name] = first if isinstance(value, str) else value
    return alike


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    teacher: TeacherServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a client that went away; what is ours is in `failures`


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16  # head and body in one packet
    server: _Http

    def setup(self) -> None:
        super().setup()
        with self.server.teacher.lock:
            self.server.teacher.connections += 1

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve(b"")

    def do_DELETE(self) -> None:
        self._serve(b"")

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        body = self.rfile.read(size)
        if len(body) == size:
            self._serve(body)
        else:  # the client was killed while it was writing
            self.close_connection = True

    def _serve(self, body: bytes) -> None:
        teacher = self.server.teacher
        headers = {name.lower(): value for name, value in self.headers.items()}
        provider: Provider = "anthropic" if "anthropic-version" in headers else "openai"
        with teacher.lock:
            teacher.headers.append(headers)
            teacher.busy += 1
            teacher.most_busy = max(teacher.most_busy, teacher.busy)
        try:
            check_key(provider, headers)
            self._route(provider, self.path.partition("?")[0], headers, body)
        except ProtocolError as error:
            teacher.refused.append(str(error))
            self._send(error.status, write_error(provider, error.status, str(error)))
        except OSError:
            self.close_connection = True
        except BaseException as error:
            teacher.failures.append(error)
            raise
        finally:
            with teacher.lock:
                teacher.busy -= 1

    def _route(self, provider: Provider, path: str, headers: dict[str, str], body: bytes) -> None:
        if path in ("/v1/messages", "/v1/chat/completions"):
            self._answer(read_ask(provider, json.loads(body)), headers)
        elif path == "/v1/models" and self.server.teacher.models is not None:
            listed = self.server.teacher.models.items()
            models = [{"id": name, "object": "model", "max_model_len": n} for name, n in listed]
            self._send(200, {"object": "list", "data": models})
        elif not path.startswith("/v1/") or path == "/v1/models":
            self._send(404, {"detail": "Not Found"})
        else:
            found = self.server.teacher.batches.handle(provider, self.command, path, headers, body)
            self._send(200, found)

    def _answer(self, ask: Ask, headers: dict[str, str]) -> None:
        teacher = self.server.teacher
        plan = teacher.plan
        if teacher.models and ask.provider == "openai" and ask.model not in teacher.models:
            message = f"The model `{ask.model}` does not exist."
            self._send(404, write_error(ask.provider, 404, message))
            return
        fault = teacher.draw(ask)
        if fault in STATUSES:
            status = STATUSES[fault]
            self._send(status, write_error(ask.provider, status, f"as planned: {fault}"))
        elif fault is Fault.STALL:
            teacher.closing.wait(plan.stall)
            self.close_connection = True
        else:
            plan.wait()
            reply = teacher.reply(ask, fault)
            if "x-request-id" in headers:  # as vLLM does
                reply["id"] = f"chatcmpl-{headers['x-request-id']}"
            self._send(200, reply, cut=fault is Fault.CUT)
            if fault is Fault.TWICE:
                self._send(200, reply)

    def _send(self, status: int, body: Any, cut: bool = False) -> None:
        """A JSON value, or bytes as they are; `cut`: half of it, and the line goes dead."""
        is_json = not isinstance(body, bytes)
        data = json.dumps(body).encode() if is_json else body
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if is_json else "application/binary")
        self.send_header("Content-Length", str(len(data)))
        if status in STATUSES.values() and status not in (400, 404):
            self.send_header("Retry-After", self.server.teacher.plan.retry_after)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.wfile.flush()
        if cut:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
