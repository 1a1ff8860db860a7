"""generate against a teacher that misbehaves: nothing lost, nothing paid twice, no key anywhere."""

import random
import re
from pathlib import Path

import pytest

from tests.helpers.teacher_protocols import Tokens
from tests.helpers.teacher_server import Fault, Plan, TeacherServer
from tests.helpers.teaching import KEY, Generation, answer, overpaid, write_documents, write_images

pytestmark = pytest.mark.slow

FAULTS = {
    Fault.RATE_LIMIT: 0.04,
    Fault.SERVER_ERROR: 0.02,
    Fault.OVERLOADED: 0.02,
    Fault.STALL: 0.01,
    Fault.CUT: 0.01,
    Fault.TRUNCATED: 0.03,
    Fault.REFUSAL: 0.01,
    Fault.WRONG_FIELDS: 0.02,
    Fault.DUPLICATES: 0.02,
}
STUBBORN = {Fault.REFUSAL: 0.02, Fault.TRUNCATED: 0.01}
PLAN = Plan(seed=5, faults=FAULTS, stubborn=STUBBORN, latency=0.01)
HASTE = ("--timeout", "2", "--max-retries", "8")
IMAGES, BROKEN, CONCURRENCY = 200, 5, 16


def generation(server: TeacherServer, provider: str, source: Path, **asked) -> Generation:
    wanted = {"options": HASTE, "concurrency": CONCURRENCY} | asked
    return Generation(server, provider, source, source.parent / "out", **wanted)


@pytest.mark.long
@pytest.mark.parametrize("provider", ["anthropic", "openai"])
def test_three_kills_among_all_faults_lose_nothing_and_pay_for_nothing_twice(tmp_path, provider):
    shown = write_images(tmp_path / "images", IMAGES, BROKEN, per_tar=100)
    with TeacherServer(answer, PLAN) as server:
        made = generation(server, provider, tmp_path / "images", count=4 * IMAGES)
        rng = random.Random(provider)
        for kill_at in sorted(rng.sample(range(10, IMAGES - 50), 3)):
            assert made.run(lambda at=kill_at: server.answers >= at, seed=kill_at) == -9
        assert made.run() == 0, made.said[-1]
        stock = made.stock()
        stock.check(shown)
        assert len(server.paid) == len(stock.records) // 4
        assert overpaid(server) <= 3 * CONCURRENCY  # what was under way at the kills
        assert server.most_busy <= CONCURRENCY
        assert set(server.met) == set(FAULTS)
        assert not server.refused
        asked = server.asked.total()
        assert made.run() == 0
        assert server.asked.total() == asked  # it is done: nothing is asked again
        assert any(KEY in " ".join(sent.values()) for sent in server.headers)
        assert not made.leaks()


@pytest.mark.long
def test_without_a_kill_no_document_is_paid_for_twice(tmp_path):
    shown = write_documents(tmp_path / "documents", 80)
    with TeacherServer(answer, PLAN) as server:
        source = tmp_path / "documents"
        made = generation(server, "anthropic", source, what="documents", count=4 * 80)
        assert made.run() == 0, made.said[-1]
        stock = made.stock()
        stock.check(shown)
        assert set(server.paid.values()) == {1}
        assert len(server.paid) == len(stock.records) // 4
        assert not made.leaks()


@pytest.mark.long
def test_a_spend_cap_stops_within_a_request_per_worker(tmp_path):
    shown = write_images(tmp_path / "images", 120)
    plan = Plan(seed=2, faults={Fault.TRUNCATED: 0.1, Fault.CUT: 0.03}, latency=0.01)
    each, workers = 0.01, 8
    with TeacherServer(answer, plan, Tokens(1000, 200)) as server:
        price = ("--price", "5,25")
        asked = {"count": 480, "concurrency": workers}
        source = tmp_path / "images"
        capped, free = (
            generation(server, "openai", source, **asked, options=(*HASTE, *price, *cap))
            for cap in (("--max-cost", "0.5"), ())
        )
        assert capped.run() == 1
        spent = server.answers * each
        assert 0.5 - workers * each <= spent <= 0.5 + workers * each
        assert "--max-cost 0.5 is reached" in capped.said[-1]
        assert f"${spent:.4f}" in capped.said[-1]
        before = server.answers
        assert capped.run() == 1  # what was spent before counts
        assert server.answers <= before + workers
        assert re.search(r"\d+ of 120 images: not done", capped.said[-1])
        assert free.run() == 0
        free.stock().check(shown)
        assert set(server.paid.values()) == {1}


@pytest.mark.long
@pytest.mark.parametrize(("provider", "kills"), [("anthropic", 3), ("openai", 1)])
def test_a_batch_is_found_again_after_a_kill_whenever_it_comes(tmp_path, provider, kills):
    shown = write_images(tmp_path / "images", 60)
    faults = {Fault.TRUNCATED: 0.1, Fault.OVERLOADED: 0.05}
    plan = Plan(seed=1, faults=faults, batch_polls=6, batch_latency=0.5)
    with TeacherServer(answer, plan, Tokens(1000, 200)) as server:
        options = (*HASTE, "--batch", "--poll", "0.1", "--price", "5,25")
        source = tmp_path / "images"
        made = generation(server, provider, source, count=240, options=options)
        batches = server.batches.made
        moments = (
            lambda: len(batches) == 1,  # before the id is told
            lambda: batches[0].polls > 1,  # while it is waited for
            lambda: len(batches) == 2,  # of those whose first answers were bad
        )
        for moment in moments[:kills]:
            assert made.run(moment) == -9
        while (code := made.run()) == 1:
            assert "OVERLOADED" in made.said[-1] or "529" in made.said[-1], made.said[-1]
            assert len(made.said) < 12
        assert code == 0, made.said[-1]
        made.stock().check(shown)
        assert set(server.paid.values()) == {1}
        assert f"${server.answers * 0.005:.4f}" in made.said[-1]  # at half the price
        assert not made.leaks()
