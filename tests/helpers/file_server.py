"""An HTTP server of files in memory, which can be busy, forbid, cut short, or send no ranges."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class FileServer:
    """What is served, and how."""

    files: Mapping[str, bytes]
    """Path, without query -> content."""
    ranges: bool = True
    """Whether a part of a file can be asked for."""
    says_size: bool = True
    statuses: list[int] = field(default_factory=list)
    """Of the next answers, in turn; after the last one, all is well."""
    always: int | None = None
    """The status of every answer."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of answers that are not well."""
    missing: int = 0
    """Bytes at the end that are announced and not sent."""
    url: str = ""
    asked: list[str] = field(default_factory=list)
    """Requests: method, path with query."""


@contextmanager
def serve_files(files: Mapping[str, bytes], **how: object) -> Iterator[FileServer]:
    """A server that runs while the block does."""
    server = FileServer(files, **how)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            answer(self, server, with_body=False)

        def do_GET(self) -> None:
            answer(self, server, with_body=True)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        server.url = f"http://127.0.0.1:{listening.server_port}"
        thread = Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()


def answer(handler: BaseHTTPRequestHandler, server: FileServer, with_body: bool) -> None:
    server.asked.append(f"{handler.command} {handler.path}")
    data = server.files.get(handler.path.partition("?")[0])
    status = server.always or (server.statuses.pop(0) if server.statuses else 200)
    if status == 200 and data is None:
        status = 404
    if status != 200:
        handler.send_response(status)
        for name, value in server.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    assert data is not None
    asked = re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("Range", ""))
    if asked and server.ranges:
        start, stop = int(asked[1]), min(int(asked[2]) + 1, len(data))
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        data = data[start:stop]
    else:
        handler.send_response(200)
    if server.says_size:
        handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    if with_body:
        handler.wfile.write(data[: len(data) - server.missing])
