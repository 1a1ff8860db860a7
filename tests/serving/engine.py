"""A vLLM that serves a folder on this machine, for as long as it is needed."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "fork",  # its processes need not import all anew
}
START = 600.0
"""Seconds that servers may take to start: what they import alone is a minute of CPU."""


@contextmanager
def serving(folders: Mapping[str, Path]) -> Iterator[dict[str, str]]:
    """A server for each name's folder; the endpoints by name."""
    with ExitStack() as stack:
        ports = {name: stack.enter_context(_started(name, at)) for name, at in folders.items()}
        for port in ports.values():
            _await(port)
        yield {name: f"endpoint:http://127.0.0.1:{port}/v1#{name}" for name, port in ports.items()}


@contextmanager
def _started(name: str, folder: Path) -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(folder)]
    where = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", name]
    how = ["--enforce-eager", "--dtype", "float32", "--disable-uvicorn-access-log"]
    log = (folder.parent / f"{name}.log").open("wb")
    process = subprocess.Popen(
        [*serve, *where, *how],
        env=os.environ | ENVIRONMENT,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield port
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
        log.close()


def _await(port: int) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise TimeoutError(f"the server on port {port} did not start within {START:.0f} s")
