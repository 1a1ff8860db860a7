"""A server that speaks S3 (moto's), and that fails now and then, by a seed.

    python -m tests.stores.server SHARE SEED

prints its address, and has a bucket. Of so many requests (SHARE, 0 to 1) a third each gets a 500,
stalls longer than clients wait, or has its body cut.
"""

import random
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from threading import Lock, Thread
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

STALL = 3.0
"""Seconds, beyond the patience of clients in tests."""


class Unsteady:
    """An application of which some answers fail."""

    def __init__(self, inner: Any, share: float, seed: int) -> None:
        self._inner, self._share, self._random, self._lock = (
            inner,
            share,
            random.Random(seed),
            Lock(),
        )
        self.counts = {"whole": 0, "error": 0, "stall": 0, "cut": 0}

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/unsteady":
            start("200 OK", [("Content-Type", "text/plain")])
            return [repr(self.counts).encode()]
        with self._lock:
            fails = self._random.random() < self._share
            kind = self._random.choice(["error", "stall", "cut"]) if fails else "whole"
            self.counts[kind] += 1
        if kind == "error":
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start("500 Internal Server Error", [("Content-Type", "application/xml")])
            return [b"<Error><Code>InternalError</Code><Message>injected</Message></Error>"]
        if kind == "stall":
            time.sleep(STALL)
        answer = self._inner(environ, start)
        return cut(answer) if kind == "cut" else answer


def cut(answer: Iterable[bytes]) -> Iterator[bytes]:
    """The first half of a body, then nothing more, whatever the header says."""
    data = b"".join(answer)
    yield data[: len(data) // 2]
    if data:
        raise ConnectionError("injected")


class Quiet(WSGIRequestHandler):
    """Says nothing of requests."""

    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:
        pass


def serve(share: float, seed: int) -> None:
    """Serve on a free port until killed."""
    inner = DomainDispatcherApplication(create_backend_app)
    app = Unsteady(inner, share, seed)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    address = f"http://127.0.0.1:{server.port}"
    steady = make_server("127.0.0.1", 0, inner, request_handler=Quiet)
    Thread(target=steady.handle_request).start()
    bucket = urllib.request.Request(f"http://127.0.0.1:{steady.port}/bucket", method="PUT")
    urllib.request.urlopen(bucket).close()
    print(address, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve(float(sys.argv[1]), int(sys.argv[2]))
