"""The teacher server's batch halves: Anthropic's message batches, OpenAI's files and batches."""

import email.parser
import email.policy
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.helpers.teacher_protocols import Ask, ProtocolError, Provider, read_ask, write_error

if TYPE_CHECKING:
    from tests.helpers.teacher_server import TeacherServer


_THEN, _LATER = "2023-11-14T22:13:20Z", "2023-11-15T22:13:20Z"


@dataclass
class _Batch:
    number: int
    asks: list[tuple[str, Ask]]
    polls: int = 0
    results: list[Any] = field(default_factory=list)
    input_file: str = ""
    metadata: Any = None


class Batches:
    """Batches are answered when they are created, and say so after some polls."""

    def __init__(self, teacher: "TeacherServer") -> None:
        self._teacher, self._polls = teacher, teacher.plan.batch_polls
        self.made: list[_Batch] = []
        self._files: dict[str, bytes] = {}

    def handle(
        self, provider: Provider, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> Any:
        """The answer to a request: a JSON value, or bytes; raises ProtocolError."""
        steps = path.removeprefix("/v1/").removeprefix("messages/").strip("/").split("/")
        match (provider, method, *steps):
            case ("anthropic", "POST", "batches"):
                return self._anthropic(self._make_anthropic(json.loads(body)))
            case ("openai", "POST", "batches"):
                return self._openai(self._make_openai(json.loads(body)))
            case (_, "GET", "batches"):
                show = self._anthropic if provider == "anthropic" else self._openai
                return {"data": [show(batch) for batch in reversed(self.made)], "has_more": False}
            case (_, "GET", "batches", name):
                batch = self._find(name)
                batch.polls += 1
                return self._anthropic(batch) if provider == "anthropic" else self._openai(batch)
            case ("anthropic", "GET", "batches", name, "results"):
                return _lines(self._find(name).results)
            case ("openai", "POST", "files"):
                return self._upload(headers, body)
            case ("openai", "GET", "files", name, "content"):
                return self._content(name)
            case ("openai", "DELETE", "files", name):
                return {"id": name, "object": "file", "deleted": True}
        raise ProtocolError(404, f"{method} {path}: not found")

    def _find(self, name: str) -> _Batch:
        number = int(name.rpartition("_")[2])
        if not 0 < number <= len(self.made):
            raise ProtocolError(404, f"batch {name}: not found")
        return self.made[number - 1]

    def _add(self, asks: list[tuple[str, Ask]], **more: Any) -> _Batch:
        names = [name for name, _ in asks]
        if len(set(names)) != len(names) or not names:
            raise ProtocolError(400, "custom_id must be unique, and there must be one")
        batch = _Batch(len(self.made) + 1, asks, **more)
        self.made.append(batch)
        batch.results = [self._result(name, ask) for name, ask in asks][::-1]
        self._teacher.closing.wait(self._teacher.plan.batch_latency)
        return batch

    def _result(self, name: str, ask: Ask) -> dict[str, Any]:
        """The outcome of one request; one that gets no whole answer has failed."""
        fault = self._teacher.draw(ask)
        failed = self._teacher.is_unpaid(fault)
        body = (
            write_error(ask.provider, 500, f"as planned: {fault}")
            if failed
            else self._teacher.reply(ask, fault)
        )
        if ask.provider == "anthropic":
            result = {"type": "errored", "error": body}
            if not failed:
                result = {"type": "succeeded", "message": body}
            return {"custom_id": name, "result": result}
        response = {"status_code": 500 if failed else 200, "request_id": "r", "body": body}
        return {"id": f"batch_req_{name}", "custom_id": name, "response": response, "error": None}

    def _make_anthropic(self, body: Any) -> _Batch:
        asks = [(r["custom_id"], read_ask("anthropic", r["params"])) for r in body["requests"]]
        return self._add(asks)

    def _make_openai(self, body: Any) -> _Batch:
        if body.get("endpoint") != "/v1/chat/completions" or body["completion_window"] != "24h":
            raise ProtocolError(400, "endpoint and completion_window: invalid")
        name = body["input_file_id"]
        asks = []
        for line in self._content(name).splitlines():
            request = json.loads(line)
            if (request["method"], request["url"]) != ("POST", body["endpoint"]):
                raise ProtocolError(400, "a line's method and url must be the batch's")
            asks.append((request["custom_id"], read_ask("openai", request["body"])))
        return self._add(asks, input_file=name, metadata=body.get("metadata"))

    def _anthropic(self, batch: _Batch) -> dict[str, Any]:
        done = batch.polls >= self._polls
        name = f"msgbatch_{batch.number}"
        good = sum(r["result"]["type"] == "succeeded" for r in batch.results) if done else 0
        count = len(batch.asks)
        counts = {"processing": 0 if done else count, "succeeded": good, "canceled": 0}
        return {
            "id": name,
            "type": "message_batch",
            "processing_status": "ended" if done else "in_progress",
            "request_counts": {**counts, "errored": count - good if done else 0, "expired": 0},
            "created_at": _THEN,
            "expires_at": _LATER,
            "ended_at": _THEN if done else None,
            "results_url": f"{self._teacher.url}/v1/messages/batches/{name}/results"
            if done
            else None,
        }

    def _openai(self, batch: _Batch) -> dict[str, Any]:
        done = batch.polls >= self._polls
        good, bad = (_openai_lines(batch, ok) for ok in (True, False))
        return {
            "id": f"batch_{batch.number}",
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "input_file_id": batch.input_file,
            "status": "completed" if done else "in_progress",
            "created_at": 1_700_000_000,
            "metadata": batch.metadata,
            "output_file_id": f"file-output-{batch.number}" if done and good else None,
            "error_file_id": f"file-errors-{batch.number}" if done and bad else None,
            "request_counts": {
                "total": len(batch.asks),
                "completed": len(good) if done else 0,
                "failed": len(bad) if done else 0,
            },
        }

    def _upload(self, headers: dict[str, str], body: bytes) -> dict[str, Any]:
        head = f"Content-Type: {headers['content-type']}\r\n\r\n".encode()
        form = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
        parts = {p.get_param("name", header="content-disposition"): p for p in form.iter_parts()}
        if parts["purpose"].get_payload(decode=True).decode().strip() != "batch":
            raise ProtocolError(400, "purpose: invalid")
        name = f"file-{len(self._files) + 1}"
        data = parts["file"].get_payload(decode=True)
        self._files[name] = data
        return {
            "id": name,
            "object": "file",
            "bytes": len(data),
            "created_at": 1_700_000_000,
            "filename": parts["file"].get_filename() or "file",
            "purpose": "batch",
            "status": "processed",
        }

    def _content(self, name: str) -> bytes:
        kind, _, number = name.removeprefix("file-").partition("-")
        if number:
            return _lines(_openai_lines(self._find(f"batch_{number}"), kind == "output"))
        if name not in self._files:
            raise ProtocolError(404, f"{name}: not found")
        return self._files[name]


def _openai_lines(batch: _Batch, ok: bool) -> list[Any]:
    return [line for line in batch.results if (line["response"]["status_code"] == 200) is ok]


def _lines(values: list[Any]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)
