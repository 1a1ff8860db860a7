"""A teacher server that answers well, in both protocols, and remembers what it was asked."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

from mmsieve.methods.aitqe.endpoint import PROBE

KEY = "sk-test-0123456789abcdef"
TOKENS = (1000, 200)
"""In and out, of every answer."""


class Server:
    """What a server was asked; `answer` may be replaced by one that misbehaves."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[dict[str, Any]] = []
        """Bodies of requests for an answer, in order of arrival, but for probes."""
        self.probes: list[dict[str, Any]] = []
        """Those that come before all others, to an endpoint; they are answered well."""
        self.answer: Callable[[dict[str, Any]], str | int] = good_answer
        """The text of an answer, or an HTTP status instead of one."""
        self.odds: Callable[[dict[str, Any]], dict[str, float]] = lambda body: {}
        """Log-probabilities of tokens that may be an answer's first, where they are asked for."""
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.lose_ids = False
        """Make batches, and fail to say so."""
        self.lock = Lock()

    def make_batch(self, requests: list[tuple[str, dict[str, Any]]], metadata: Any) -> str:
        """Answer a batch: a status in place of an answer is an errored request."""
        results = []
        for name, body in requests:
            with self.lock:
                self.requests.append(body)
            answer = self.answer(body)
            is_good = isinstance(answer, str)
            reply = reply_body(body, answer) if is_good else {"error": {"message": str(answer)}}
            results.append((name, answer if not is_good else 200, reply))
        name = f"batch_{len(self.batches)}"
        self.batches[name] = {"results": results, "metadata": metadata, "looks": 0}
        return name

    def base_url(self, provider: str) -> str:
        return self.url + ("/v1" if provider == "openai" else "")

    def shown(self) -> list[str]:
        """A digest of the images of every request."""
        return [image_digest(body) for body in self.requests]


def image_digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(b"".join(images(body))).hexdigest()[:8]


def images(body: dict[str, Any]) -> list[bytes]:
    """The images of a request, decoded."""
    found = []
    for part in body["messages"][0]["content"]:
        if part["type"] == "image":
            found.append(part["source"]["data"])
        elif part["type"] == "image_url":
            found.append(part["image_url"]["url"].partition("base64,")[2])
    return [base64.b64decode(data, validate=True) for data in found]


def words(body: dict[str, Any]) -> str:
    return body["messages"][0]["content"][-1]["text"]


def good_fields(body: dict[str, Any]) -> dict[str, Any]:
    """The fields of a good answer to a request."""
    shown = images(body)
    name = image_digest(body)
    if "`bad_caption`" in words(body):
        return assessed(name, given_caption(body))
    if "Evaluate the caption: " in words(body):
        return {"Recaption": f"A square, really {name}.", "Overall Score": "3"}
    if "`styles`" in words(body):
        return rated(body)
    if "`changed`" in words(body):
        return {
            "positive": f"A red square numbered {name} fills the whole picture.",
            "changed": {"property": "colour", "right": "red", "wrong": "blue"},
            "hard_negative": f"A blue square numbered {name} fills the whole picture.",
            "medium_negative": f"Some squares, {name}, near a dog.",
            "easy_negative": f"A train to {name} leaves the station.",
        }
    marks = "\n\n<image>\n\nMore words.\n" * len(shown)
    return {
        "positive": f"All about {name}.{marks}",
        "hard_negative": f"All abuot {name}, nearly.{marks}",
        "medium_negative": f"Somthing like {name}.{marks}",
        "easy_negative": f"Trains {name} goes.{marks}",
    }


DETAILS = (
    "text_quality",
    "image_text_matching",
    "object_detail",
    "semantic_understanding",
    "text_chart_description",
)


def given_caption(body: dict[str, Any]) -> str:
    """The caption that a request is about: the only JSON string on a line of its own."""
    return next(json.loads(line) for line in words(body).splitlines() if line.startswith('"'))


def judged(overall: int, why: str) -> dict[str, Any]:
    """A judgement."""
    fields: dict[str, Any] = {}
    for scale in (*DETAILS, "overall"):
        fields |= {f"{scale}_explanation": f"{scale}: {why}", f"{scale}_score": overall}
    return fields


def assessed(name: str, caption: str) -> dict[str, Any]:
    """A caption with an even number, or none, is poor."""
    number = int("".join(filter(str.isdigit, caption)) or 0)
    good = bool(number % 2)
    return {
        "raw": judged(8 if good else 4, "as found"),
        "recaption": None if good else f"A square, really {name}.",
        "bad_caption": f"Cheap flights to {name}!" if good else None,
        "partner": judged(2 if good else 9, "as written"),
    }


def named(body: dict[str, Any]) -> list[str]:
    """The capabilities that a request lists."""
    lines = words(body).splitlines()
    return [line.split("`")[1] for line in lines if line.startswith("- `") and "`: " in line]


def rated(body: dict[str, Any]) -> dict[str, Any]:
    """A rating for each capability that is asked about, and two styles in another order."""
    ratings = {
        name: {"reason": f"Because of {name}.", "rating": n % 6}
        for n, name in enumerate(named(body))
    }
    return {"ratings": ratings, "styles": ["short description", "yes/no"]}


def good_answer(body: dict[str, Any]) -> str:
    return json.dumps(good_fields(body))


def stop_at(body: dict[str, Any], text: str) -> tuple[str, str | None]:
    """A text up to the first of a request's stop strings, and which that is, as vLLM has it."""
    for stop in body.get("stop") or ():
        before, found, _ = text.partition(stop)
        if found:
            return before + stop * bool(body.get("include_stop_str_in_output")), stop
    return text, None


def reply_body(
    body: dict[str, Any], text: str, odds: dict[str, float] | None = None
) -> dict[str, Any]:
    """The body of a response of the protocol that a request is in."""
    if "max_tokens" in body:
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": TOKENS[0], "output_tokens": TOKENS[1]},
        }
    text, stopped = stop_at(body, text)
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "stop_reason": stopped}
    if body.get("logprobs"):
        top = [{"token": token, "logprob": value} for token, value in (odds or {}).items()]
        first = {"token": text, "logprob": 0.0, "top_logprobs": top}
        choice["logprobs"] = {"content": [first]}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [choice],
        "usage": {
            "prompt_tokens": TOKENS[0],
            "completion_tokens": TOKENS[1],
            "total_tokens": sum(TOKENS),
        },
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if KEY not in (self.headers.get("x-api-key") or self.headers.get("Authorization") or ""):
            self._send(401, {"error": {"type": "authentication_error", "message": f"not {KEY}"}})
            return
        if self.path in ("/v1/messages/batches", "/v1/files", "/v1/batches"):
            self._send(*self._make(data))
            return
        body = json.loads(data)
        if PROBE in words(body):
            self.state.probes.append(body)
            self._send(200, reply_body(body, "{}"))
            return
        with self.state.lock:
            self.state.requests.append(body)
        answer = self.state.answer(body)
        if isinstance(answer, int):
            self._send(answer, {"error": {"message": f"status {answer} for {KEY}"}})
        else:
            self._send(200, reply_body(body, answer, self.state.odds(body)))

    def _make(self, data: bytes) -> tuple[int, Any]:
        state = self.state
        if self.path == "/v1/files":
            start = data.index(b'{"custom_id"')
            name = f"file_{len(state.files)}"
            state.files[name] = data[start : data.rindex(b"}") + 1]
            return 200, {"id": name, "object": "file"}
        body = json.loads(data)
        if "requests" in body:
            asked = [(request["custom_id"], request["params"]) for request in body["requests"]]
        else:
            lines = map(json.loads, state.files[body["input_file_id"]].splitlines())
            asked = [(line["custom_id"], line["body"]) for line in lines]
        name = state.make_batch(asked, body.get("metadata"))
        return (500, {}) if state.lose_ids else (200, self._batch(name))

    def _batch(self, name: str) -> dict[str, Any]:
        batch = self.state.batches[name]
        is_ended = batch["looks"] >= 2
        if self.path.startswith("/v1/messages"):
            return {
                "id": name,
                "processing_status": "ended" if is_ended else "in_progress",
                "request_counts": {"processing": len(batch["results"])},
                "results_url": f"{self.state.url}/v1/messages/batches/{name}/results",
            }
        status = "completed" if is_ended else "in_progress"
        files = {"output_file_id": f"{name}-out" if is_ended else None}
        return {"id": name, "status": status, "metadata": batch["metadata"], **files}

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._send(200, {"object": "list", "data": [{"id": "aitqe", "object": "model"}]})
            return
        name = self.path.split("?")[0].removesuffix("/results").removesuffix("/content")
        name = name.rpartition("/")[2].removesuffix("-out")
        if name == "batches":
            self._send(200, {"data": [self._batch(one) for one in self.state.batches]})
        elif not self.path.endswith(("/results", "/content")):
            self.state.batches[name]["looks"] += 1
            self._send(200, self._batch(name))
        else:
            lines = [self._result(*result) for result in self.state.batches[name]["results"]]
            self._send(200, "\n".join(map(json.dumps, reversed(lines))))

    def _result(self, name: str, status: int, body: dict[str, Any]) -> dict[str, Any]:
        if self.path.startswith("/v1/messages"):
            result: dict[str, Any] = {"type": "succeeded", "message": body}
            if status != 200:
                result = {"type": "errored", "error": {"type": "error", **body}}
            return {"custom_id": name, "result": result}
        return {"custom_id": name, "response": {"status_code": status, "body": body}}

    def _send(self, status: int, body: Any) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serve() -> Iterator[Server]:
    """A server in this process, for as long as it is needed."""
    state = Server()
    handler = type("Handler", (_Handler,), {"state": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
