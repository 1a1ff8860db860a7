"""A hub for data sets, as far as uploads ask for it: commits are all or nothing."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKEN = "hf_secretsecretsecret"


@dataclass
class Hub:
    """The repositories of a running hub, and what it was asked."""

    address: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Repository -> its files."""
    commits: list[str] = field(default_factory=list)
    """Summaries."""
    fail: bool = False
    """Refuse the next commits."""
    licence: str | None = None
    """Of a repository's card data."""

    @property
    def head(self) -> str:
        return f"{len(self.commits):040d}"

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = self.files[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            elif line["key"] == "header":
                self.commits.append(value["summary"])


class HubServer(ThreadingHTTPServer):
    """Serves one hub."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub = Hub(f"http://127.0.0.1:{self.server_port}")


class Handler(BaseHTTPRequestHandler):
    """Answers what clients of the hub ask for uploads, and no more."""

    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *given: Any) -> None:
        pass

    def answer(self, status: int, content: Any = b"", **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def do_GET(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts == ["api", "whoami-v2"]:
            known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            return self.answer(200 if known else 401, {"name": "me"})
        start = 1 if parts[0] == "datasets" else 2
        name, rest = "/".join(parts[start : start + 2]), parts[start + 2 :]
        if name not in self.server.hub.files:
            return self.answer(404, X_Error_Code="RepoNotFound")
        if start == 1:  # datasets/OWNER/NAME/resolve/REVISION/PATH
            return self.answer_file(name, "/".join(rest[2:]))
        if rest[:1] == ["tree"]:
            files = {file: len(data) for file, data in self.server.hub.files[name].items()}
            found = [{"type": "file", "path": f, "size": n, "oid": f} for f, n in files.items()]
            return self.answer(200, found)
        return self.answer_info(name)

    def do_HEAD(self) -> None:
        self.do_GET()

    def answer_file(self, name: str, file: str) -> None:
        data = self.server.hub.files[name].get(file)
        if data is None:
            return self.answer(404, X_Error_Code="EntryNotFound")
        tags = {"ETag": f'"{hash(data)}"', "X-Repo-Commit": self.server.hub.head}
        return self.answer(200, data, **tags)

    def answer_info(self, name: str) -> None:
        hub = self.server.hub
        siblings = [{"rfilename": file} for file in hub.files[name]]
        card = {} if hub.licence is None else {"license": hub.licence}
        info = {"id": name, "sha": hub.head, "siblings": siblings, "cardData": card} | {
            "private": True
        }
        return self.answer(200, info)

    def do_POST(self) -> None:
        hub, body = self.server.hub, self.rfile.read(int(self.headers["Content-Length"]))
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts == ["api", "validate-yaml"]:
            return self.answer(200, {"warnings": [], "errors": []})
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            hub.files[name] = {}
            return self.answer(200, {"url": f"{hub.address}/datasets/{name}"})
        name = "/".join(parts[2:4])
        if parts[4] == "preupload":
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            return self.answer(200, {"files": [{"path": file} | modes for file in files]})
        if hub.fail:
            return self.answer(403, {"error": "not now"})
        hub.commit(name, list(map(json.loads, body.splitlines())))
        url = f"{hub.address}/datasets/{name}/commit/{hub.head}"
        return self.answer(200, {"commitUrl": url, "commitOid": hub.head})


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """A hub on a free port."""
    server = HubServer()
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server.hub
    server.shutdown()
    thread.join()
    server.server_close()
