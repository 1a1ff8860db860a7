"""Several processes with a device each: one queue of shards, one report, no death costs more."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from mmsieve import devices
from mmsieve.devices import count_processes, share_of
from mmsieve.errors import RequestError
from mmsieve.progress import Progress
from mmsieve.tables import table_files
from tests.helpers.annotators import annotate
from tests.helpers.shards import write_tar

ROOT = Path(__file__).parents[2]
SHARDS, SAMPLES = 4, 12


@pytest.fixture
def sources(tmp_path: Path) -> list[str]:
    """Shards whose images have 1 to 12 bytes: the method here never decodes them."""
    folder = tmp_path / "in"
    folder.mkdir()
    for shard in range(SHARDS):
        members = []
        for number in range(SAMPLES):
            name = f"{shard}-{number:03d}"
            members += [(f"{name}.jpg", b"x" * (number + 1)), (f"{name}.txt", b"a text")]
        write_tar(folder / f"{shard}.tar", members)
    annotate(tmp_path / "calm", str(folder), workers=0)
    return [str(folder)]


def tables(out: Path) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in table_files(out).items()}


def run(out: Path, count: int, sources: Sequence[str], **variables: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "tests.helpers.annotators", str(out), str(count), "0"]
    done = subprocess.run(
        [*command, *sources],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def test_two_processes_write_what_one_does(tmp_path, sources):
    code, said, _ = run(tmp_path / "out", 2, sources)
    assert code == 0
    assert said.splitlines()[-1].startswith(f"{SHARDS * SAMPLES} rows of {SHARDS} shards")
    assert tables(tmp_path / "out") == tables(tmp_path / "calm")


def test_a_device_that_fails_costs_its_shards_work_and_no_other(tmp_path, sources):
    (tmp_path / "fail").touch()
    code, said, _ = run(tmp_path / "out", 2, sources, FAILING=str(tmp_path / "fail"))
    assert code == 0, said
    assert not (tmp_path / "fail").exists()
    assert tables(tmp_path / "out") == tables(tmp_path / "calm")


def test_the_only_device_that_fails_ends_the_run_and_the_same_command_goes_on(tmp_path, sources):
    (tmp_path / "fail").touch()
    code, _, said = run(tmp_path / "out", 1, sources, FAILING=str(tmp_path / "fail"))
    assert code == 1
    assert "cpu has failed at 0: CUDA error: an illegal memory access" in said
    assert run(tmp_path / "out", 1, sources)[0] == 0
    assert tables(tmp_path / "out") == tables(tmp_path / "calm")


def test_a_model_that_finds_no_room_on_one_device_runs_on_the_others(tmp_path, sources):
    code, _, said = run(tmp_path / "out", 2, sources, NO_ROOM=str(tmp_path / "full"))
    assert code == 0
    assert "a process could not start: RequestError: the weights take 15 GB" in said
    assert tables(tmp_path / "out") == tables(tmp_path / "calm")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_processes_in_silence(tmp_path, sources, number):
    command = [sys.executable, "-m", "mmsieve", "score", *sources, "--model", "rules"]
    words = ["--out", str(tmp_path / "out"), "--devices", "2", "--quiet"]
    with subprocess.Popen(
        [*command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        children: list[psutil.Process] = []
        while len(children) < 2 and process.poll() is None:
            time.sleep(0.01)
            family = psutil.Process(process.pid).children()
            children = [each for each in family if "--multiprocessing-fork" in each.cmdline()]
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert len(said.splitlines()) == 1
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def test_progress_is_of_all_processes_together(tmp_path, sources, monkeypatch):
    shown = []
    monkeypatch.setattr(Progress, "_show", lambda self: shown.append((self.what, self.units)))
    annotate(tmp_path / "out", *sources, workers=0, devices=2)
    assert ("loading the model in 2 processes", 0) in shown
    assert shown[-1] == ("samples in 2 processes", SHARDS * SAMPLES)


@pytest.mark.parametrize(
    ("asked", "wanted", "spread", "count"),
    [
        ("auto", None, 1, 4),
        ("cuda", 2, 1, 2),
        ("cuda:1", None, 1, 1),
        ("auto", None, 2, 2),
        ("auto", 3, 2, 1),
        ("auto", None, 0, 1),
        ("auto", 3, 0, 3),
    ],
)
def test_all_gpus_are_used_unless_fewer_are_asked_for(monkeypatch, asked, wanted, spread, count):
    monkeypatch.setattr(devices, "_count_gpus", lambda: 4)
    assert count_processes("cuda", asked, wanted, spread) == count


def test_more_gpus_than_there_are_are_refused(monkeypatch):
    monkeypatch.setattr(devices, "_count_gpus", lambda: 4)
    with pytest.raises(RequestError, match="--devices 5: --device auto has 4 here"):
        count_processes("cuda", "auto", 5, 1)
    with pytest.raises(RequestError, match="--devices 2: --device cuda:1 has 1 here"):
        count_processes("cuda:1", "cuda:1", 2, 1)


def test_each_process_sees_its_own_gpus_and_takes_its_part_of_the_cores(monkeypatch):
    monkeypatch.setattr(devices, "_count_gpus", lambda: 4)
    monkeypatch.setattr(devices, "count_cores", lambda: 64)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert share_of("cuda", 1, count=2, spread=2) == {"CUDA_VISIBLE_DEVICES": "2,3"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b")
    assert share_of("cuda", 1, count=2, spread=1) == {"CUDA_VISIBLE_DEVICES": "GPU-b"}
    assert share_of("cpu", 0, count=8, spread=1) == {"OMP_NUM_THREADS": "8"}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert share_of("cpu", 0, count=8, spread=1) == {}
