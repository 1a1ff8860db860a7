"""Engines: kills at any moment cost nothing but time; the same tables from every engine."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mmsieve.tables import table_files
from tests.helpers.annotators import DEADLY, annotate

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SHARDS, SAMPLES = 4, 40


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Shards whose images are any bytes: the method here never decodes them."""
    import io
    import tarfile

    folder = tmp_path / "in"
    folder.mkdir()
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard}.tar", "w") as archive:
            for number in range(SAMPLES):
                for name, data in (("jpg", b"x" * (number + 1)), ("txt", b"a text")):
                    info = tarfile.TarInfo(f"{shard}-{number:03d}.{name}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return folder


def poison(sources: Path, shard: int) -> None:
    """Make one image of a shard kill whoever prepares it."""
    path = sources / f"{shard}.tar"
    path.write_bytes(path.read_bytes().replace(b"x" * SAMPLES, DEADLY.ljust(SAMPLES, b"x")))


def tables(out: Path) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in table_files(out).items()}


def command(out: Path, engine: str, workers: int, sources: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "tests.helpers.annotators",
        str(out),
        engine,
        str(workers),
        str(sources),
    ]


@pytest.mark.parametrize("whole_group", [True, False])
def test_killed_at_any_moment_and_run_again(tmp_path, sources, whole_group) -> None:
    annotate(tmp_path / "calm", str(sources), workers=0)
    out = tmp_path / "out"
    environment = os.environ | {"SECONDS_PER_SAMPLE": "0.05"}
    moments = random.Random(whole_group)
    for _ in range(2):
        done = {path: path.stat().st_mtime_ns for path in table_files(out).values()}
        run = subprocess.Popen(
            command(out, "local", 2, sources),
            cwd=ROOT,
            env=environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
        )
        time.sleep(moments.uniform(0.8, 2.0))
        assert run.poll() is None  # it needs over four seconds undisturbed
        family = psutil.Process(run.pid).children(recursive=True)
        (os.killpg if whole_group else os.kill)(run.pid, signal.SIGKILL)
        run.wait()
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
        assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in done.items())
    annotate(out, str(sources), workers=2)
    assert tables(out) == tables(tmp_path / "calm")
    assert not list(out.rglob("*.tmp"))


@pytest.mark.parametrize("engine", ["local", "2", "ray"])
def test_a_shard_that_kills_its_worker_is_named_and_the_others_are_done(
    tmp_path, sources, engine
) -> None:
    if engine == "ray":
        pytest.importorskip("ray", reason="needs the extra [ray]")
    annotate(tmp_path / "calm", str(sources), workers=0)
    poison(sources, 1)
    out = tmp_path / "out"
    run = subprocess.run(
        command(out, engine, 1, sources),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    named = [line for line in run.stdout.splitlines() if line.startswith("1 ")]
    assert len(named) == 1
    assert "out of memory" in named[0]
    calm = tables(tmp_path / "calm")
    assert tables(out) == {name: calm[name] for name in ("0", "2", "3")}


@pytest.mark.parametrize(
    ("engine", "is_worker"),
    [
        ("2", lambda line: "--multiprocessing-fork" in line),
        ("ray", lambda line: "RayActor.do" in line),
    ],
)
def test_the_same_tables_even_when_a_worker_is_killed(tmp_path, sources, engine, is_worker) -> None:
    if engine == "ray":
        pytest.importorskip("ray", reason="needs the extra [ray]")
    annotate(tmp_path / "calm", str(sources), workers=0)
    out = tmp_path / "out"
    environment = os.environ | {"SECONDS_PER_SAMPLE": "0.05"}
    with subprocess.Popen(
        command(out, engine, 1, sources),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        deadline = time.monotonic() + 60
        workers: list[psutil.Process] = []
        while not workers and time.monotonic() < deadline:
            time.sleep(0.2)
            family = psutil.Process(run.pid).children(recursive=engine == "ray")
            workers = [each for each in family if is_worker("".join(each.cmdline()))]
        workers[0].kill()
        output, _ = run.communicate(timeout=120)
    assert run.returncode == 0
    last = output.splitlines()[-1]
    assert last.startswith(f"{SHARDS * SAMPLES} rows of {SHARDS} shards")
    assert tables(out) == tables(tmp_path / "calm")
