"""generate waits for a server as endpoints do: the same client, the same patience."""

import pytest

from tests.helpers.clocks import FakeClock
from tests.helpers.lessons import entries, generate
from tests.helpers.well_behaved import good_answer


@pytest.fixture
def clock(monkeypatch) -> FakeClock:
    made = FakeClock()
    monkeypatch.setattr("mmsieve.clients.servers.CLOCK", made)
    return made


def test_two_minutes_of_503_are_waited_for(tmp_path, server, source, clock, capsys):
    answered = []

    def answer(body):
        if len(answered) >= 3 and clock.time < 120:
            return 503
        answered.append(body)
        return good_answer(body)

    server.answer = answer
    report = generate(server, source, out=tmp_path / "out", concurrency=4)
    assert report.failed == {} and len(entries(tmp_path / "out")) == 32
    assert len(answered) == 8 and clock.time >= 120
    assert "gives up after 1800 s (--patience)" in capsys.readouterr().err


def test_what_was_answered_is_kept_when_patience_ends(tmp_path, server, source, clock):
    server.answer = lambda body: good_answer(body) if len(server.requests) <= 3 else 503
    report = generate(server, source, out=tmp_path / "out", concurrency=2)
    ((what, why),) = report.failed.items()
    assert what == "5 of 8 images" and "gave up after 18" in why and "goes on" in why
    assert len(entries(tmp_path / "out")) == 12
    server.answer = good_answer
    server.requests.clear()
    assert generate(server, source, out=tmp_path / "out").failed == {}
    assert len(server.requests) == 5
