"""What runs record beside outputs at stores, and how others see it."""

import errno
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import fsspec
import pytest

from mmsieve.leftovers import host
from mmsieve.runs import RunFiles, carrying_out
from mmsieve.stores.paths import StorePath, forbid, place_of
from tests.helpers.command_line import Ended, run_line
from tests.helpers.shards import captions, write_tar

OUT = "memory://bucket/table"


@pytest.fixture(autouse=True)
def _store() -> Iterator[None]:
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]
    yield
    forbid(place_of(OUT), False)


@pytest.fixture
def line(tmp_path) -> tuple[object, ...]:
    for number in range(2):
        write_tar(tmp_path / "in" / f"{number}.tar", captions(3))
    return ("score", tmp_path / "in", "--model", "rules", "--workers", "0", "--out", OUT)


def recorded(name: str) -> bytes:
    return place_of(f"memory://bucket/.table.run/{name}").read_bytes()


def events() -> list[dict[str, Any]]:
    return [json.loads(one) for one in recorded("events.jsonl").splitlines()]


def leave_lease(**facts: object) -> None:
    """The lease of a run that began as the one that is recorded."""
    run = json.loads(recorded("run.json"))
    facts.pop("silence", None)
    lease = {"verb": "score", "held": True, "since": run["started"], "process": run["process"]}
    text = json.dumps(lease | {"host": run["host"], "machine": host(), "beat": 1} | facts)
    place_of("memory://bucket/.table.leases/a.json").write_bytes(text.encode())


def leave_running() -> None:
    """The record of a run that has not ended."""
    run = json.loads(recorded("run.json")) | {"state": "running", "process": os.getppid()}
    place_of("memory://bucket/.table.run/run.json").write_bytes(json.dumps(run).encode())


def status() -> Ended:
    return run_line("status", OUT)


def test_all_runs_are_recorded_beside_the_output(line):
    assert run_line(*line).code == 0
    seen = status()
    assert seen.code == 0 and seen.out.startswith("score is done")
    assert "2 of 2 shards done" in seen.out and "rows: 6 ok" in seen.out
    assert run_line(*line).code == 0
    assert [one["event"] for one in events()].count("begin") == 2


def test_a_part_has_a_record_of_its_own(line):
    assert run_line(*line, "--part", "1/2").code == 0
    seen = status()
    assert "no record of 1 part: 0/2" in seen.out and "1 part: 1 done" in seen.out


def test_a_refused_run_leaves_none_and_nowhere_is_a_wrong_request(line):
    assert run_line(*line, "--where", "nonsense !!").code == 2
    seen = status()
    assert seen.code == 2 and f"{OUT}: no run is recorded beside it" in seen.err


@pytest.mark.parametrize(
    ("lease", "said"),
    [
        ({}, "score runs, since"),
        ({"process": 2**22 + 1}, "score was killed"),
        ({"machine": "another", "silence": 0}, "score runs, since"),
        ({"machine": "another", "silence": 120}, "score runs, as far as is known here"),
        ({"machine": "another", "silence": 3600}, "score was killed"),
        (None, "score was killed"),
    ],
)
def test_whether_it_lives_is_asked_of_its_lease(line, lease, said):
    assert run_line(*line).code == 0
    leave_running()
    if lease is not None:
        leave_lease(at=time.time() - lease.get("silence", 0), **lease)
        if "process" in lease:
            run = json.loads(recorded("run.json")) | {"process": lease["process"]}
            place_of("memory://bucket/.table.run/run.json").write_bytes(json.dumps(run).encode())
    assert status().out.startswith(said)


def test_whoever_was_taken_over_records_no_more(line):
    assert run_line(*line).code == 0
    before = recorded("run.json")
    with carrying_out("score") as log:
        log.attach(RunFiles.of(place_of(OUT).parent, "table"), place_of(OUT))
        forbid(place_of(OUT))
        log.end(1, {})
    assert recorded("run.json") == before


def test_a_store_that_is_away_for_a_while_has_the_end(line, monkeypatch):
    put, tried = StorePath.put, []

    def fail_first(path, local):
        if path.parent.name.endswith(".run") and len(tried) < 1:
            tried.append(path)
            raise OSError(errno.EIO, "no answer")
        put(path, local)

    monkeypatch.setattr(StorePath, "put", fail_first)
    ended = run_line(*line)
    assert ended.code == 0 and ended.err.count("is not recorded") == 1
    assert status().out.startswith("score is done")


def test_without_a_place_for_it_there_is_no_record(line, monkeypatch):
    def fail():
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mmsieve.runs.scratch_folder", fail)
    ended = run_line(*line)
    assert ended.code == 0 and "No space left on device" in ended.err
    assert status().code == 2


def test_a_store_that_takes_nothing_costs_the_record_alone(line, monkeypatch):
    put = StorePath.put

    def refuse(path, local):
        if path.parent.name.endswith(".run"):
            raise PermissionError(13, "Forbidden")
        put(path, local)

    monkeypatch.setattr(StorePath, "put", refuse)
    ended = run_line(*line)
    assert ended.code == 0
    assert ended.err.count("what this run does is not recorded in memory://bucket/.table.run") == 1
