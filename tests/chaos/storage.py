"""A web server of a folder, in a process of its own, that fails as long as a file tells it to."""

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.helpers.file_server import FileServer, answer

SHARE = 0.3
"""Of requests that meet a fault."""
STALL = 0.5
"""Seconds in which nothing comes."""


class Orders:
    """What the server is told: a seed, in a file; none, and all is well."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fail(self, seed: int) -> None:
        """Let requests fail from now on, by this seed."""
        self._path.write_text(str(seed), "utf-8")

    def be_well(self) -> None:
        """Let none fail any more."""
        self._path.unlink(missing_ok=True)

    def draw(self, number: int) -> str:
        """The fault of a request; "" for none."""
        if not self._path.exists():
            return ""
        rng = random.Random(f"{self._path.read_text('utf-8')} {number}")
        kinds = ["500", "503", "404", "403", "cut", "stall", "longer", "no size", "no ranges"]
        return rng.choice(kinds) if rng.random() < SHARE else ""


def failing(server: FileServer, fault: str, size: int) -> FileServer:
    """The server as it is for one request."""
    if fault.isdigit():
        return replace(server, always=int(fault))
    if fault == "stall":
        time.sleep(STALL)
    files = {name: data + b"more" for name, data in server.files.items()}
    changed = {
        "cut": {"missing": max(1, size // 2)},
        "longer": {"files": files},
        "no size": {"says_size": False},
        "no ranges": {"ranges": False},
    }
    return replace(server, **changed.get(fault, {}))


@contextmanager
def storage_server(folder: Path, orders: Orders) -> Iterator[str]:
    """The address at which the files of a folder are served, as they are when asked for."""
    listening = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    process = os.fork()
    if process == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # it says who was gone before the answer
        asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._answer(with_body=False)

            def do_GET(self) -> None:
                self._answer(with_body=True)

            def _answer(self, with_body: bool) -> None:
                name = self.path.partition("?")[0]
                file = folder / name.lstrip("/")
                data = file.read_bytes() if file.is_file() else None
                server = FileServer({} if data is None else {name: data})
                asked.append(name)
                fault = orders.draw(len(asked))
                answer(self, failing(server, fault, len(data or b"")), with_body)

        listening.RequestHandlerClass = Handler
        listening.serve_forever()
        os._exit(0)
    try:
        yield f"http://127.0.0.1:{listening.server_port}"
    finally:
        os.kill(process, 9)
        os.waitpid(process, 0)
        listening.server_close()
