"""Generations whose images are prepared on a Ray cluster: the files of one machine."""

import json
import pickle
import signal
from pathlib import Path

import pytest

from mmsieve.errors import MmsieveError
from tests.helpers.clusters import stand_in
from tests.helpers.command_line import run_line
from tests.helpers.lessons import entries, generate, lines
from tests.helpers.shards import image, write_tar
from tests.helpers.teacher_server import Plan, TeacherServer
from tests.helpers.teaching import Generation, answer, write_images
from tests.helpers.well_behaved import KEY, good_answer


def write_more(folder: Path) -> Path:
    """A tar of eight pairs beside those of `source`."""
    return write_tar(
        folder / "in" / "more.tar", [(f"{n:04d}.jpg", image(90 + n)) for n in range(8)]
    )


@pytest.fixture
def engine(monkeypatch):
    return stand_in(monkeypatch, "generate")


@pytest.mark.slow
@pytest.mark.long
def test_a_kill_on_a_cluster_loses_nothing_and_the_files_are_those_of_one_machine(tmp_path):
    pytest.importorskip("ray", reason="needs the extra [ray]")
    shown = write_images(tmp_path / "images", 300, broken=3, per_tar=60)
    with TeacherServer(answer, Plan(seed=3, latency=0.02)) as server:
        made = [
            Generation(server, "openai", tmp_path / "images", tmp_path / name, 1200, options=more)
            for name, more in (("here", ()), ("there", ("--engine", "ray")))
        ]
        assert made[0].run() == 0, made[0].said
        before = server.answers
        assert made[1].run(lambda: server.answers >= before + 100) == -9
        assert made[1].run() == 0, made[1].said[-1]
        for each in made:
            each.stock().check(shown)
            assert not each.leaks()
        here, there = ((each.out / "train.json").read_bytes() for each in made)
        assert there == here


def test_nodes_prepare_and_are_not_told_the_key(tmp_path, server, source, engine):
    more = write_more(tmp_path)
    sources = (source, more)
    for name, asked in (("here", {}), ("there", {"engine": "ray"})):
        report = generate(server, *sources, out=tmp_path / name, count=64, **asked)
        assert report.failed == {} and report.written["train.json"] == 64
    assert entries(tmp_path / "there") == entries(tmp_path / "here")
    assert engine.sent and KEY.encode() not in engine.sent
    words = [str(request) for request in server.requests]
    assert sorted(words[:16]) == sorted(words[16:])


def test_a_source_whose_workers_die_is_named_and_asked_about_later(
    tmp_path, server, source, engine
):
    more = write_more(tmp_path)
    asked = {"out": tmp_path / "out", "count": 64, "engine": "ray"}
    engine.problem, engine.deadly = "its worker died 3 times", "more"
    report = generate(server, source, more, **asked)
    ((what, why),) = report.failed.items()
    assert what == "8 of 16 images" and "its worker died 3 times; the same command" in why
    engine.problem = ""
    server.requests.clear()
    assert generate(server, source, more, **asked).failed == {}
    assert len(server.requests) == 8 and len(entries(tmp_path / "out")) == 64
    assert lines(tmp_path / "out" / "rejects.jsonl") == []


def test_no_node_returns_more_than_so_many_images_at_once(
    tmp_path, server, source, engine, monkeypatch
):
    monkeypatch.setattr("mmsieve.generation.preparing._IMAGES", 3)
    parts = []
    run_each = engine.run_each

    def watched(self, make, items, *how):
        parts.extend(len(part.items) for part in items)
        return run_each(self, make, items, *how)

    monkeypatch.setattr(engine, "run_each", watched)
    assert generate(server, source, out=tmp_path / "out", engine="ray").failed == {}
    assert parts == [3, 3, 2] and len(entries(tmp_path / "out")) == 32


@pytest.mark.parametrize("words", [("--engine", "ray"), ("--patience", "5m")])
def test_what_draws_its_images_has_no_use_for_a_cluster(tmp_path, words):
    drawn = ("--teacher", "rendered", "--count", 8, "--out", tmp_path / "out")
    ended = run_line("generate", "captions", *drawn, *words)
    assert ended.code == 2
    assert f"{words[0]} is for --teacher anthropic:MODEL and openai:MODEL" in ended.err


def test_of_a_folder_a_part_knows_its_own_files_alone(tmp_path, server, engine, monkeypatch):
    monkeypatch.setattr("mmsieve.generation.preparing._IMAGES", 2)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number:04d}.jpg").write_bytes(image(number))
    sent = []
    run_each = engine.run_each

    def watched(self, make, items, *how):
        sent.extend(pickle.dumps(part.source) for part in items)
        return run_each(self, make, items, *how)

    monkeypatch.setattr(engine, "run_each", watched)
    for name, how in (("here", {}), ("there", {"engine": "ray"})):
        assert generate(server, folder, out=tmp_path / name, **how).failed == {}
    assert entries(tmp_path / "there") == entries(tmp_path / "here")
    assert [part.count(b".jpg") for part in sent] == [2] * 4


def test_a_cluster_that_gives_up_costs_no_answer(tmp_path, server, source, engine):
    more = write_more(tmp_path)
    asked = {"out": tmp_path / "out", "count": 64, "engine": "ray"}
    engine.ends_with = MmsieveError("gave up after 1800 s")
    report = generate(server, source, more, **asked)
    ((what, why),) = report.failed.items()
    assert what == "8 of 16 images" and "gave up after 1800 s; the same command goes on" in why
    assert len(server.requests) == 8 and len(entries(tmp_path / "out")) == 32
    engine.ends_with = None
    assert generate(server, source, more, **asked).failed == {}
    assert len(server.requests) == 16 and len(entries(tmp_path / "out")) == 64


def test_a_fault_on_a_node_is_not_taken_for_a_source_that_failed(tmp_path, server, source, engine):
    engine.problem, engine.details = "KeyError: 'x'", "Traceback ...\nKeyError: 'x'"
    with pytest.raises(RuntimeError, match="on a node: Traceback"):
        generate(server, source, out=tmp_path / "out", engine="ray")


def test_where_all_is_settled_no_cluster_is_joined(tmp_path, server, source, engine):
    server.answer = lambda body: 401
    asked = {"out": tmp_path / "out", "engine": "ray"}
    assert generate(server, source, **asked).failed
    assert engine.joined == 1
    server.answer = good_answer
    assert generate(server, source, **asked).failed == {}
    assert engine.joined == 2
    record = json.loads((tmp_path / "out" / "generate.json").read_text())
    (tmp_path / "out" / "generate.json").write_text(json.dumps(record | {"complete": False}))
    assert generate(server, source, **asked).failed == {}
    assert engine.joined == 2 and len(entries(tmp_path / "out")) == 32


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_who_waits_for_a_cluster_is_told_to_end(tmp_path, number, code):
    """Its requests wait in another thread than signals come to."""
    clusters = pytest.importorskip("ray.cluster_utils", reason="needs the extra [ray]")
    write_images(tmp_path / "images", 4)
    cluster = clusters.Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        with TeacherServer(answer, Plan(seed=1)) as server:
            how = ("--engine", "ray", "--ray-address", cluster.address)
            made = Generation(
                server, "openai", tmp_path / "images", tmp_path / "out", 16, options=how
            )
            planned = tmp_path / "out" / "plan.json"
            assert made.run(planned.exists, number=number, after=8) == code, made.said
    finally:
        cluster.shutdown()
    assert "the same command goes on" in made.said[-1]
