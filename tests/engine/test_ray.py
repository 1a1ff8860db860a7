"""The Ray engine waits neither in silence nor for ever, and a shard's error is that shard's."""

import os
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mmsieve.engine.annotator import RunnerOptions
from mmsieve.engine.crew import Actor
from mmsieve.engine.job import ShardJob, ShardReport
from mmsieve.engine.ray import RayEngine
from mmsieve.errors import MmsieveError, RequestError
from mmsieve.patience import Patience
from mmsieve.progress import Progress
from mmsieve.read import ReadOptions
from mmsieve.sources import Shard
from tests.helpers.annotators import ImageBytes

ROOT = Path(__file__).parents[2]


class RayError(Exception):
    cause: Exception | None = None


class RayActorError(RayError):
    pass


class ObjectLostError(RayError):
    pass


class FakeRay:
    """A cluster of one node, whose clock goes on while somebody waits."""

    exceptions = SimpleNamespace(
        RayError=RayError, RayActorError=RayActorError, ObjectLostError=ObjectLostError
    )

    def __init__(self, cpus: int = 4, gpus: int = 0) -> None:
        self.resources: dict[str, float] = {"CPU": cpus, "GPU": gpus}
        self.free = dict(self.resources)
        self.now = 0.0
        self.silent: set[str] = set()
        """Calls that are never answered."""
        self.answers: dict[str, Any] = {}
        """Call -> what it returns or raises, instead of None."""
        self.killed = self.hired = 0

    def clock(self) -> float:
        return self.now

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": self.resources}, {"Alive": False, "Resources": {}}]

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def available_resources(self) -> dict[str, float]:
        return self.free

    def remote(self, **needs: int) -> Any:
        self.needs = needs
        return lambda made: SimpleNamespace(remote=self.hire)

    def hire(self, *given: Any) -> Any:
        self.hired += 1
        do = SimpleNamespace(remote=lambda name, *given: (name, object(), given))
        return SimpleNamespace(do=do)

    def put(self, made: Any) -> Any:
        return made

    def wait(self, calls: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], Any]:
        self.now += timeout
        done = [call for call in calls if call[0] not in self.silent]
        return done[:1], []

    def get(self, call: Any) -> Any:
        name, _, given = call
        answer = self.answers.get(name)
        answer = answer(*given) if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    def kill(self, actor: Any) -> None:
        self.killed += 1


@pytest.fixture
def fake(monkeypatch, tmp_path) -> FakeRay:
    monkeypatch.chdir(tmp_path)
    ray = FakeRay()
    ray.answers["run"] = lambda shard: ShardReport(shard=shard.name, rows=1)
    monkeypatch.setitem(sys.modules, "ray", ray)
    return ray


def engine(ray: FakeRay, workers: int | None = None, minutes: float = 30) -> RayEngine:
    return RayEngine(None, workers, Patience(timedelta(minutes=minutes), ray.clock))


def run(ray: FakeRay, count: int = 3, device: Any = "cpu", **how: Any) -> list[ShardReport]:
    options = RunnerOptions(device=device, batch_tokens=None)
    job = ShardJob(
        annotator=ImageBytes(), out=Path("o"), read=ReadOptions(), runner=options, fingerprint={}
    )
    shards = [Shard(f"{n}.tar", str(n), 1) for n in range(count)]
    Path("o").mkdir()
    for shard in shards:  # what the actors would have written
        job.path(shard).touch()
    return list(engine(ray, **how).run(job, shards, Progress("", 0)))


def test_all_shards_are_done_and_all_actors_end(fake):
    assert [report.problem for report in run(fake)] == [None] * 3
    assert fake.killed == fake.hired == 3


def test_more_are_asked_for_as_long_as_there_is_work_for_them(fake):
    fake.resources = {"CPU": 1}
    assert len(run(fake, count=9)) == 9
    assert 2 <= fake.hired == fake.killed <= 9


def test_another_version_on_a_node_is_no_node(fake, capsys):
    """One good node beside one where no actor can start: few are tried there, and it is named."""
    with pytest.raises(MmsieveError) as wrong:
        Actor().answer("0.0.0")
    assert f"{socket.gethostname()} has mmsieve" in str(wrong.value)
    asked: list[str] = []

    def answer(version):
        asked.append(version)
        return wrong.value if len(asked) != 1 else None

    fake.answers["answer"] = answer
    assert len(run(fake, count=50)) == 50
    assert fake.hired == fake.killed <= 30
    said = capsys.readouterr().err
    assert said.count("a Ray actor could not start") == 1 and "has mmsieve" in said


def test_a_model_that_is_never_loaded_is_given_up_beside_nodes_that_cannot_start(fake):
    fake.silent, asked = {"load"}, []

    def answer(version):
        asked.append(version)
        return RayActorError("gone") if len(asked) > 1 else None

    fake.answers["answer"] = answer
    with pytest.raises(MmsieveError, match="1 Ray actor to load the model"):
        run(fake, count=9, minutes=2)
    assert fake.hired < 30 and fake.now < 200


def test_taken_cpus_are_said_after_a_minute_and_given_up_in_the_end(fake, capsys):
    fake.silent, fake.free["CPU"] = {"answer"}, 1
    with pytest.raises(MmsieveError, match="gave up after 1800 s of waiting for 2 CPUs on one"):
        run(fake, workers=2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert lines[0] == (
        "waiting for 60 s now for 2 CPUs on one node of the Ray cluster, where 1 of 4 CPUs are "
        "free; gives up after 1800 s (--patience)"
    )
    assert fake.killed == fake.hired


def test_a_model_that_is_never_loaded_is_given_up(fake):
    fake.silent = {"load"}
    with pytest.raises(MmsieveError, match="3 Ray actors to load the model"):
        run(fake, minutes=2)
    assert 120 <= fake.now <= 125


def test_a_shard_may_take_longer_than_any_patience(fake, capsys):
    fake.silent = {"run"}

    def wait(calls, num_returns, timeout, wait=fake.wait):
        fake.silent = set() if fake.now > 10_000 else fake.silent
        return wait(calls, num_returns, timeout)

    fake.wait = wait
    assert len(run(fake)) == 3
    assert capsys.readouterr().err == ""


def test_who_is_slow_to_take_results_has_not_waited_for_workers(fake):
    """The worker in the place of one that died has all its time to begin."""
    fake.resources = {"CPU": 1}

    def die(item):
        fake.silent = {"answer"}
        return RayActorError()

    def wait(calls, num_returns, timeout, wait=fake.wait):
        done = wait(calls, num_returns, timeout)
        fake.silent = fake.silent if done[0] else set()
        return done

    fake.answers["run"], fake.wait = die, wait
    shards = [Shard(f"{n}.tar", f"{n}", 1) for n in range(2)]
    for _, failure in engine(fake, minutes=2).run_each(Actor, shards, most=1):
        fake.now += 1000
        assert "died 3 times" in failure.problem


def test_patience_begins_with_the_waiting(fake):
    cluster = engine(fake, minutes=2)
    for _ in range(2):
        fake.now += 1000
        assert len(list(cluster.run_each(Actor, [Shard("0.tar", "0", 1)]))) == 1


def test_what_nobody_takes_any_more_is_left(fake):
    fake.silent = {"answer"}
    shards = [Shard("0.tar", "0", 1)]
    assert list(engine(fake).run_each(Actor, shards, is_enough=lambda: fake.now > 5)) == []
    assert fake.killed == fake.hired > 0 and fake.now < 10


def test_no_more_actors_than_are_asked_for_where_they_are_said(fake):
    fake.resources = {"CPU": 64}
    shards = [Shard(f"{n}.tar", f"{n}", 1) for n in range(9)]
    assert len(list(engine(fake).run_each(Actor, shards, most=2))) == 9
    assert fake.hired == 2


def test_a_result_that_is_lost_with_its_node_is_made_again(fake):
    lost = []

    def lose_first(item):
        lost.append(item)
        return ObjectLostError() if len(lost) == 1 else "done"

    fake.answers["run"] = lose_first
    ((_, found),) = engine(fake).run_each(Actor, [Shard("0.tar", "0", 1)])
    assert found == "done" and len(lost) == 2


def test_workers_that_are_gone_are_waited_for_no_longer_than_for_the_first(fake):
    def die(shard):
        fake.silent, fake.resources, fake.free = {"answer"}, {}, {}
        return RayActorError()

    fake.answers["run"] = die
    with pytest.raises(MmsieveError, match="where 0 of 0 CPUs are free"):
        run(fake, count=1)


def test_actors_that_never_start_end_the_run(fake):
    started = []

    def load():
        started.append(1)
        return None if len(started) == 1 else RayActorError("long\nThe node has no CUDA")

    fake.answers |= {"load": load, "run": lambda shard: RayActorError()}
    with pytest.raises(MmsieveError, match="no Ray actor could start: The node has no CUDA"):
        run(fake, count=1)


def test_a_table_that_is_written_elsewhere_is_not_there(fake):
    fake.answers["run"] = lambda shard: (Path("o") / "0.parquet").unlink() or ShardReport(shard="0")
    (report,) = run(fake, count=1)
    assert report.problem.startswith("its table isn't here: --out must be the same folder")


def test_an_error_of_one_shard_is_its_own(fake):
    error = RayError("a traceback\nTypeError: cannot pickle")
    error.cause = TypeError("cannot pickle 'lock'")

    def answer(shard):
        return {"0": error, "1": ValueError("no result")}.get(shard.name, ShardReport(shard="2"))

    fake.answers["run"] = answer
    problems = {report.shard: report.problem for report in run(fake)}
    assert problems == {"0": "TypeError: cannot pickle 'lock'", "1": "no result", "2": None}


def test_what_stops_a_run_stops_it_from_an_actor_too(fake):
    error = RayError()
    error.cause = MmsieveError("the disk is full")
    fake.answers["run"] = lambda shard: error
    with pytest.raises(MmsieveError, match="the disk is full"):
        run(fake)


@pytest.mark.parametrize(("gpus", "workers", "fits"), [(0, 5, False), (0, 4, True), (1, 5, False)])
def test_more_cpus_than_any_node_has_are_refused_at_once(fake, gpus, workers, fits):
    fake.resources["GPU"] = gpus
    if fits:
        assert engine(fake, workers).device("auto") == "cpu"
        return
    with pytest.raises(RequestError, match=f"--workers {workers}: .* largest node has 4"):
        engine(fake, workers).device("auto")


def test_a_small_node_with_a_gpu_will_do(fake):
    fake.resources = {"CPU": 2, "GPU": 1}
    assert engine(fake).device("auto") == "cuda"
    run(fake, device="cuda")
    assert fake.needs == {"num_cpus": 2, "num_gpus": 1}


def test_a_cluster_without_nodes_yet_is_waited_for(fake, capsys):
    fake.resources, fake.free, fake.silent = {}, {}, {"answer"}
    with pytest.raises(MmsieveError, match="where 0 of 0 CPUs"):
        run(fake, minutes=1)


def score(source: Path, *words: str, **environment: str) -> tuple[int, str, float]:
    pytest.importorskip("ray", reason="needs the extra [ray]")
    command = [sys.executable, "-m", "mmsieve", "score", str(source), "--model", "rules"]
    command += ["--out", str(source.parent / "out"), "--engine", "ray", "--quiet", *words]
    started = time.monotonic()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stderr, time.monotonic() - started


@pytest.mark.slow
@pytest.mark.long
def test_too_many_workers_on_a_real_cluster(source):
    code, said, _ = score(source, "--workers", "9999")
    assert code == 2
    assert "mmsieve: --workers 9999: each Ray actor has so many CPUs" in said


@pytest.mark.slow
@pytest.mark.parametrize("by_environment", [True, False])
@pytest.mark.long
def test_an_address_where_nobody_listens(source, by_environment):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    words = ["--patience", "2s"]
    if by_environment:
        code, said, seconds = score(source, *words, RAY_ADDRESS=address)
    else:
        code, said, seconds = score(source, *words, "--ray-address", address)
    assert code == 1
    assert f"of waiting for a Ray cluster at {address} to answer" in said
    assert seconds < 60
