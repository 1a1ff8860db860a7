"""`enhance --model endpoint:...` against servers with every fault, by requests that are counted.

Every image shows a number, and an answer repeats it: an answer that came to another sample is seen.
Waiting goes by a clock of the tests, on which it takes no time.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mmsieve.cli import main
from mmsieve.tables import table_files
from tests.helpers.clocks import FakeClock
from tests.helpers.shards import write_tar
from tests.helpers.teacher_protocols import Ask
from tests.helpers.teacher_server import Fault, Plan, TeacherServer
from tests.helpers.teaching import draw_number, read_number

COUNT, CONCURRENCY = 60, 8


def answer(ask: Ask) -> dict[str, Any]:
    number = read_number(ask.images[0])
    return {"Recaption": f"Number {number} in black.", "Overall Score": str(number % 9 + 1)}


def write_pairs(folder: Path, count: int = COUNT, shards: int = 2) -> Path:
    """Tars of caption pairs, each with a number to see."""
    each = -(-count // shards)
    for first in range(0, count, each):
        names = range(first, min(first + each, count))
        members = [(f"{n:04d}.png", draw_number(n)) for n in names]
        members += [(f"{n:04d}.txt", f"Is this {n}?".encode()) for n in names]
        write_tar(folder / f"{first:04d}.tar", sorted(members))
    return folder


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
        server.models = {"aitqe": 4096}
        yield server


class Enhancing:
    """Runs the command, and reads what it said and made."""

    def __init__(self, pairs: Path, capsys: Any) -> None:
        self.pairs, self.out, self._capsys = pairs, pairs.parent / "out", capsys
        self.said = ""

    def run(self, model: str, *more: str) -> int:
        words = ["enhance", str(self.pairs), "--model", model, "--out", str(self.out)]
        words += ["--workers", "0", "--quiet", "--concurrency", str(CONCURRENCY), *more]
        with pytest.raises(SystemExit) as end:
            main([*words, "--device", "cpu"])
        self.said = self._capsys.readouterr().err
        return end.value.code

    def rows(self) -> pl.DataFrame:
        return pl.concat([pl.read_parquet(path) for path in table_files(self.out).values()])

    def check(self, count: int = COUNT) -> None:
        """Every sample has its own answer, and nothing else is left."""
        rows = self.rows()
        assert rows["status"].to_list() == ["ok"] * count
        numbers = [int(key) for key in rows["key"]]
        assert sorted(numbers) == list(range(count))
        assert rows["recaption"].to_list() == [f"Number {n} in black." for n in numbers]
        assert {path.suffix for path in self.out.iterdir()} == {".parquet"}


@pytest.fixture
def enhancing(pairs, capsys) -> Enhancing:
    return Enhancing(pairs, capsys)


def model(server: TeacherServer) -> str:
    return f"endpoint:{server.url}/v1#aitqe"


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
    assert enhancing.run(model(served)) == 2
    assert re.search(says, enhancing.said) and served.url in enhancing.said
    assert not served.asked and not enhancing.out.exists()


def test_a_context_too_short_for_an_answer_is_a_wrong_request(enhancing, served):
    served.models = {"aitqe": 1024}
    assert enhancing.run(model(served)) == 2
    assert "max_model_len is 1024, and a short prompt" in enhancing.said
    assert enhancing.run(model(served), "--max-new-tokens", "20") == 0


def test_a_server_without_a_list_of_models_will_do(enhancing, served):
    served.models = None
    assert enhancing.run(model(served)) == 0
    enhancing.check()


# Requests that are refused


def test_the_run_stops_when_the_first_requests_are_all_refused(enhancing, served):
    served.plan = Plan(stubborn={Fault.BAD_REQUEST: 1})
    assert enhancing.run(model(served)) == 1
    assert "the first 32 requests are all refused, so the run stops" in enhancing.said
    assert "as planned: 400" in enhancing.said
    assert 32 <= served.asked.total() <= 32 + CONCURRENCY
    assert enhancing.rows()["status"].unique().to_list() == ["request_refused"]  # of one shard
    served.plan = Plan()
    assert enhancing.run(model(served)) == 0
    enhancing.check()


def test_refused_requests_have_a_status_and_are_asked_again(enhancing, served):
    served.plan = Plan(seed=1, stubborn={Fault.BAD_REQUEST: 0.2})
    assert enhancing.run(model(served)) == 1
    assert "request_refused: the same command asks again" in enhancing.said
    rows = enhancing.rows()
    refused = rows.filter(pl.col("status") == "request_refused")
    assert 3 < refused.height < 25 and set(rows["status"]) == {"ok", "request_refused"}
    assert refused["final_caption"].to_list() == [f"Is this {int(k)}?" for k in refused["key"]]
    assert "as planned: 400" in refused["error"][0]
    assert set(served.asked.values()) == {1}
    served.plan = Plan()
    assert enhancing.run(model(served)) == 0
    assert sum(count == 2 for count in served.asked.values()) == refused.height
    assert set(served.paid.values()) == {1}
    enhancing.check()


def test_a_request_that_fails_where_others_do_not_is_refused(enhancing, served):
    served.plan = Plan(seed=1, stubborn={Fault.SERVER_ERROR: 0.05})
    assert enhancing.run(model(served)) == 1
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
    assert enhancing.run(model(served)) == 0
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
    assert enhancing.run(model(served)) == 0
    assert clock.time >= 90
    enhancing.check()


def test_what_was_answered_is_kept_when_patience_ends(enhancing, served, clock):
    served.plan = Outage(clock, 1e9)
    assert enhancing.run(model(served), "--patience", "5m") == 1
    assert re.search(r"gave up after 30\d s of waiting for http", enhancing.said)
    assert "the same command, with more --patience, goes on" in enhancing.said
    assert served.paid.total() == 19
    served.plan = Plan()
    assert enhancing.run(model(served)) == 0
    enhancing.check()
    assert set(served.paid.values()) == {1}


def test_all_faults_at_once_lose_nothing_and_no_answer_is_asked_for_twice(enhancing, served, clock):
    faults = dict.fromkeys((Fault.RATE_LIMIT, Fault.SERVER_ERROR, Fault.STALL, Fault.CUT), 0.06)
    served.plan = Plan(seed=3, faults={**faults, Fault.TWICE: 0.2}, retry_after="7", latency=0.003)
    assert enhancing.run(model(served), "--timeout", "0.5") == 0
    enhancing.check()
    assert set(served.met) == {*faults, Fault.TWICE}
    # an answer that comes twice is taken for that to the next request, which is then sent again
    assert served.paid.total() - COUNT <= served.met[Fault.TWICE]
    assert clock.slept.count(7.0) >= served.met[Fault.RATE_LIMIT]
