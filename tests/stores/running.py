"""A server that speaks S3, running, and the environment of those who use it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECRET = "averysecretkeyofthestore"
QUICK = {"read_timeout": 1.5, "connect_timeout": 5}
"""Seconds of patience, of which stalls take more."""


@contextmanager
def serve(share: float, seed: int = 3) -> Iterator[str]:
    """The address of a server with an empty bucket, of whose answers a share fails."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.stores.server", str(share), str(seed)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def environment(address: str, tmp_path: Path) -> dict[str, str]:
    """What processes are told of the server, as its users would be."""
    return os.environ | {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "FSSPEC_S3": json.dumps({"config_kwargs": QUICK}),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path.cwd()),
    }
