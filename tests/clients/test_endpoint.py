"""`enhance --model endpoint:...` against servers with every fault, by requests that are counted.

Every image shows a number, and an answer repeats it: an answer that came to another sample is seen.
Waiting goes by a clock of the tests, on which it takes no time.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import polars as pl
import pytest

from mmsieve.methods.base import Window
from mmsieve.methods.rules import RulesRunner
from tests.helpers.clocks import FakeClock
from tests.helpers.endpoints import (
    CONCURRENCY,
    COUNT,
    NAME,
    Enhancing,
    ServerProcess,
    answer,
    endpoint,
    write_pairs,
)
from tests.helpers.teacher_server import Fault, Plan, TeacherServer


@pytest.fixture(autouse=True)
def clock(monkeypatch) -> FakeClock:
    made = FakeClock()
    monkeypatch.setattr("mmsieve.clients.servers.CLOCK", made)
    return made


@pytest.fixture
def pairs(tmp_path) -> Path:
    return write_pairs(tmp_path / "pairs")


@pytest.fixture
def served() -> Iterator[TeacherServer]:
    with TeacherServer(answer) as server:
        server.models = {NAME: 4096}
        yield server


@pytest.fixture
def enhancing(pairs, capsys) -> Enhancing:
    return Enhancing(pairs, capsys)


# Before anything is read


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("endpoint:{url}/v1#other", "serves aitqe, not other: .*`other` does not exist"),
        ("endpoint:{url}#aitqe", r"write endpoint:\S+/v1#aitqe: "),
        ("endpoint:{url}/nothing/v1#aitqe", "refuses|is not|404"),
        ("endpoint:http://127.0.0.1:9/v1#aitqe", "can't be reached: .*start the server"),
        (
            "endpoint:http://me:secret-word@127.0.0.1:9/v1?api_key=secret-key-7#aitqe",
            "endpoint http://127.0.0.1:9/v1: can't be reached",
        ),
    ],
)
def test_a_wrong_address_or_name_is_a_wrong_request(enhancing, served, asked, says):
    assert enhancing.run(asked.format(url=served.url)) == 2
    assert re.search(says, enhancing.said) and enhancing.said.count("\n") == 1
    assert "secret" not in enhancing.said
    assert not served.asked and not enhancing.out.exists()


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault.BAD_REQUEST, "refuses a picture with a text: .*as planned: 400"),
        (Fault.SERVER_ERROR, "does not answer a picture with a text: .*as planned: 500"),
        (Fault.CUT, "does not answer a picture with a text"),
    ],
)
def test_a_probe_that_is_not_answered_is_a_wrong_request(enhancing, served, fault, says):
    served.probe_fault = fault
    assert enhancing.run(endpoint(served.url)) == 2
    assert re.search(says, enhancing.said) and served.url in enhancing.said
    assert not served.asked and not enhancing.out.exists()


def test_a_context_too_short_for_an_answer_is_a_wrong_request(enhancing, served):
    served.models = {"aitqe": 1024}
    assert enhancing.run(endpoint(served.url)) == 2
    assert "max_model_len is 1024, and a short prompt" in enhancing.said
    assert enhancing.run(endpoint(served.url), "--max-new-tokens", "20") == 0


def test_a_server_without_a_list_of_models_will_do(enhancing, served):
    served.models = None
    assert enhancing.run(endpoint(served.url)) == 0
    enhancing.check()


# Requests that are refused


def test_the_run_stops_when_the_first_requests_are_all_refused(enhancing, served):
    served.plan = Plan(stubborn={Fault.BAD_REQUEST: 1})
    assert enhancing.run(endpoint(served.url)) == 1
    assert "the first 32 requests are all refused, so the run stops" in enhancing.said
    assert "as planned: 400" in enhancing.said
    assert 32 <= served.asked.total() <= 32 + CONCURRENCY
    assert enhancing.rows()["status"].unique().to_list() == ["request_refused"]  # of one shard
    served.plan = Plan()
    assert enhancing.run(endpoint(served.url)) == 0
    enhancing.check()


def test_refused_requests_have_a_status_and_are_asked_again(enhancing, served):
    served.plan = Plan(seed=1, stubborn={Fault.BAD_REQUEST: 0.2})
    assert enhancing.run(endpoint(served.url)) == 1
    assert "request_refused: the same command asks again" in enhancing.said
    rows = enhancing.rows()
    refused = rows.filter(pl.col("status") == "request_refused")
    assert 3 < refused.height < 25 and set(rows["status"]) == {"ok", "request_refused"}
    assert refused["final_caption"].to_list() == [f"Is this {int(k)}?" for k in refused["key"]]
    assert "as planned: 400" in refused["error"][0]
    assert set(served.asked.values()) == {1}
    served.plan = Plan()
    assert enhancing.run(endpoint(served.url)) == 0
    assert sum(count == 2 for count in served.asked.values()) == refused.height
    assert set(served.paid.values()) == {1}
    enhancing.check()


def test_a_request_that_fails_where_others_do_not_is_refused(enhancing, served):
    served.plan = Plan(seed=1, stubborn={Fault.SERVER_ERROR: 0.05})
    assert enhancing.run(endpoint(served.url)) == 1
    refused = enhancing.rows().filter(pl.col("status") == "request_refused")
    assert 0 < refused.height < 10
    assert all(error.startswith("the endpoint failed 5 times: ") for error in refused["error"])
    assert served.probes == 1 + refused.height
    assert set(served.paid.values()) == {1}


# Servers that are down, or not themselves


class Outage(Plan):
    """Says that it isn't ready from the 20th request on, for some seconds of a clock."""

    def __init__(self, clock: FakeClock, seconds: float) -> None:
        super().__init__(retry_after="0")
        object.__setattr__(self, "_of", (clock, seconds, []))

    def fault(self, key: str, attempt: int) -> Fault | None:
        clock, seconds, asked = self._of
        asked.append(clock.time)
        if len(asked) < 20 or clock.time >= asked[19] + seconds:
            return None
        return Fault.UNAVAILABLE


def test_two_minutes_of_503_are_waited_for(enhancing, served, clock):
    served.plan = Outage(clock, 120)
    assert enhancing.run(endpoint(served.url)) == 0
    enhancing.check()
    assert 120 <= clock.time < 180
    assert set(served.paid.values()) == {1}
    assert served.met[Fault.UNAVAILABLE] < CONCURRENCY + 60  # then one at a time
    assert re.search(
        r"waiting for \d+ s now for http://127.0.0.1:\d+/v1 to answer \(.*as planned: 503.*\); "
        r"gives up after 1800 s \(--patience\)",
        enhancing.said,
    )


def test_a_server_that_is_not_ready_at_first_is_waited_for(enhancing, served, clock):
    served.probe_fault, served.plan = Fault.UNAVAILABLE, Plan(retry_after="10")

    def start() -> None:
        served.probe_fault = Fault.UNAVAILABLE if clock.time < 90 else None

    clock.passed = start
    assert enhancing.run(endpoint(served.url)) == 0
    assert clock.time >= 90
    enhancing.check()


def test_what_was_answered_is_kept_when_patience_ends(enhancing, served, clock):
    served.plan = Outage(clock, 1e9)
    assert enhancing.run(endpoint(served.url), "--patience", "5m") == 1
    assert re.search(r"gave up after 30\d s of waiting for http", enhancing.said)
    assert "the same command, with more --patience, goes on" in enhancing.said
    assert served.paid.total() == 19
    served.plan = Plan()
    assert enhancing.run(endpoint(served.url)) == 0
    enhancing.check()
    assert set(served.paid.values()) == {1}


def test_all_faults_at_once_lose_nothing_and_no_answer_is_asked_for_twice(enhancing, served, clock):
    faults = dict.fromkeys((Fault.RATE_LIMIT, Fault.SERVER_ERROR, Fault.STALL, Fault.CUT), 0.06)
    served.plan = Plan(seed=3, faults={**faults, Fault.TWICE: 0.2}, retry_after="7", latency=0.003)
    command = endpoint(served.url), "--timeout", "0.5"
    if enhancing.run(*command):  # a request may meet a fault each of the five times
        assert "request_refused: the same command asks again" in enhancing.said
        assert enhancing.run(*command) == 0
    enhancing.check()
    assert set(served.met) == {*faults, Fault.TWICE}
    # an answer that comes twice is taken for that to the next request, which is then sent again
    assert served.paid.total() - COUNT <= served.met[Fault.TWICE]
    # the last of five tries is not waited for
    assert clock.slept.count(7.0) >= served.met[Fault.RATE_LIMIT] // 2


# Processes that are killed, and several servers


@pytest.fixture
def process(tmp_path) -> Iterator[ServerProcess]:
    made = ServerProcess(tmp_path / "asked.txt")
    yield made
    made.end()


def revive(clock: FakeClock, process: ServerProcess, seconds: float) -> None:
    """Start the server again some time after it has died."""
    died: list[float] = []

    def look() -> None:
        if process.is_dead:
            died.append(clock.time)
            if clock.time >= died[0] + seconds:
                process.start()

    clock.passed = look


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again(enhancing, process, clock):
    process.start(die_at=25)
    revive(clock, process, seconds=100)
    assert enhancing.run(endpoint(process.url)) == 0
    enhancing.check()
    asked = process.asked()
    assert len(asked) == COUNT and max(asked.values()) == 2
    assert 0 < asked.total() - COUNT <= CONCURRENCY  # what was under way
    assert "s now for http://" in enhancing.said and 100 <= clock.time < 130


def test_a_dead_one_of_several_servers_is_left_and_returned_to(enhancing, served, process, clock):
    served.plan = Plan(latency=0.01)
    process.start(die_at=15)
    revive(clock, process, seconds=0)
    assert enhancing.run(endpoint(served.url, process.url)) == 0
    enhancing.check()
    assert served.paid.total() > 15
    asked = process.asked() + served.asked
    assert len(asked) == COUNT and asked.total() - COUNT <= CONCURRENCY


def test_a_server_that_is_not_there_is_no_matter_where_others_are(enhancing, served):
    assert enhancing.run(endpoint(served.url, "http://127.0.0.1:9")) == 0
    enhancing.check()
    assert "http://127.0.0.1:9/v1 does not answer (" in enhancing.said
    assert set(served.asked.values()) == {1}


def test_load_is_spread(enhancing, served):
    with TeacherServer(answer, Plan(latency=0.01)) as other:
        served.plan = Plan(latency=0.01)
        assert enhancing.run(endpoint(served.url, other.url)) == 0
        assert abs(other.paid.total() - served.paid.total()) < COUNT // 2
        assert other.paid.total() + served.paid.total() == COUNT
        assert max(other.most_busy, served.most_busy) <= CONCURRENCY // 2 + 1
    enhancing.check()


class Killing(Plan):
    """Kills a process at a request."""

    def __init__(self, number: int) -> None:
        super().__init__(latency=0.01)
        object.__setattr__(self, "process", None)
        object.__setattr__(self, "_left", number)

    def fault(self, key: str, attempt: int) -> Fault | None:
        object.__setattr__(self, "_left", self._left - 1)
        if self._left == 0:
            self.process.kill()
        return None


@pytest.mark.slow
def test_a_run_that_is_killed_asks_again_for_what_was_under_way_at_most(enhancing, served):
    for number in (13, 17):
        served.plan = killing = Killing(number)
        words = [sys.executable, "-m", "mmsieve", *enhancing.words(endpoint(served.url))]
        with subprocess.Popen(words, stderr=subprocess.PIPE) as client:
            object.__setattr__(killing, "process", client)
            assert client.wait() == -9, client.stderr.read().decode()
    served.plan = Plan()
    assert enhancing.run(endpoint(served.url)) == 0
    enhancing.check()
    assert len(served.paid) == COUNT
    assert 0 < served.paid.total() - COUNT <= 2 * CONCURRENCY


# The table, and the judge


def test_a_table_goes_on_at_another_address_and_not_with_another_model(enhancing, served):
    assert enhancing.run(endpoint(served.url), "--limit", "10") == 0
    with TeacherServer(answer) as other:
        assert enhancing.run(endpoint(other.url)) == 0
        assert enhancing.run(endpoint(other.url)) == 0  # it is done
        assert other.paid.total() == COUNT - 10 and other.probes == 1  # the trial counts
        assert enhancing.run(endpoint(other.url).replace("#aitqe", "#other")) == 2
        assert "was made with another served name" in enhancing.said
        assert enhancing.run(endpoint(other.url), "--like", "aitqe-tiny") == 2
        assert "was made with another" in enhancing.said and "like form" in enhancing.said
    enhancing.check()


def test_the_server_is_asked_while_the_judge_computes(tmp_path, served, capsys, monkeypatch):
    monkeypatch.setattr("mmsieve.methods.aitqe.runner._WINDOW_AHEAD", Window(4, 4, 1))
    enhancing = Enhancing(write_pairs(tmp_path / "pairs", shards=1), capsys)
    judging, asked = Event(), Event()

    class Judge(RulesRunner):
        def run(self, items):
            judging.set()
            assert asked.wait(60)
            return super().run(items)

    class Waiting(Plan):
        def fault(self, key: str, attempt: int) -> Fault | None:
            if served.asked.total() == 30:
                asked.set()
            return None

        def wait(self) -> None:
            if served.asked.total() > 12:
                assert judging.wait(60)

    served.plan = Waiting()
    monkeypatch.setattr("mmsieve.methods.rules.RulesRunner", Judge)
    assert enhancing.run(endpoint(served.url), "--accept-if-better", "rules") == 0
    assert enhancing.rows()["recaption_quality"].is_not_null().any()
