"""The whole demo with every path at a server that speaks S3 and fails now and then."""

import io
import pickle
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mmsieve.synthetic.demo import demo_steps
from tests.stores.running import SECRET, environment, serve

COUNT, SHARE, SEED = 12, 0.05, 3
KILLS = 1
"""Of each command, before it may end."""
pytestmark = pytest.mark.stores
moto = pytest.importorskip("moto", reason="needs moto's server: make test-stores")


def content(data: bytes, name: str) -> Any:
    """What a file holds, apart from where it was made."""
    return pl.read_parquet(io.BytesIO(data)).rows() if name.endswith(".parquet") else data


def test_the_demo_at_an_unsteady_store_killed_and_resumed_is_that_of_here(tmp_path):
    with serve(SHARE, SEED) as server:
        check_demo(server, tmp_path)


def check_demo(server: str, tmp_path: Path) -> None:
    env, chance = environment(server, tmp_path), random.Random(SEED)
    said = ""
    for here, there in zip(
        demo_steps(tmp_path / "demo", COUNT), demo_steps("s3://bucket/demo", COUNT), strict=True
    ):
        line = [sys.executable, "-m", "mmsieve"]
        began = time.monotonic()
        subprocess.run([*line, *here.words], check=True, capture_output=True, env=env)
        took = time.monotonic() - began
        for _ in range(KILLS):
            process = subprocess.Popen([*line, *there.words], env=env, stderr=subprocess.PIPE)
            try:
                said += process.communicate(timeout=chance.uniform(0.3, 1.5) * took)[1].decode()
            except subprocess.TimeoutExpired:
                process.kill()
                said += process.communicate()[1].decode()
        done = subprocess.run([*line, *there.words], capture_output=True, text=True, env=env)
        said += done.stdout + done.stderr
        assert done.returncode == 0, done.stderr
    made = dict(objects(env))
    assert not any(SECRET.encode() in data for data in made.values()) and SECRET not in said
    files = (path for path in (tmp_path / "demo").rglob("*") if path.is_file())
    wanted = {path.relative_to(tmp_path / "demo").as_posix(): path for path in files}
    assert set(shown(made)) == set(shown(wanted))
    for name, path in wanted.items():
        if name in shown(made) and name != "report.html":
            assert content(made[name], name) == content(path.read_bytes(), name), name
    assert b"samples" in made["report.html"]
    counts = urllib.request.urlopen(f"{server}/unsteady").read().decode()
    print(counts)
    assert all(f"'{kind}': 0" not in counts for kind in ("error", "stall", "cut"))


def shown(names: Iterable[str]) -> list[str]:
    """Those of names that aren't hidden, as receipts, journals and what killed runs leave are."""
    return [name for name in names if not any(part.startswith(".") for part in name.split("/"))]


def objects(env: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """The objects of the demo, asked for by a process of its own that is patient."""
    code = """
import fsspec, pickle, sys, time
fs = fsspec.filesystem("s3", config_kwargs={"retries": {"mode": "standard", "max_attempts": 20}})
names = fs.find("bucket/demo")
sys.stdout.buffer.write(pickle.dumps({name[12:]: fs.cat_file(name) for name in names}))
"""
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True)
        if done.returncode == 0:
            yield from pickle.loads(done.stdout).items()
            return
    raise AssertionError(done.stderr.decode())
