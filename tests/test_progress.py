"""What a terminal and a log are told while work goes on: phases, counts, rates, time left."""

import io
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmsieve import cli
from mmsieve.progress import Progress, show_progress
from mmsieve.sanitize import log_as_json
from mmsieve.wording import counted, duration, rate
from tests.helpers.shards import captions, write_tar


class Clock:
    """In the place of `time`: it stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("mmsieve.progress.time", found)
    return found


# Words


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (60, "1 min"),
        (125, "2 min 5 s"),
        (3600, "1 h"),
        (7_800, "2 h 10 min"),
        (86_400, "1 d"),
        (273_600, "3 d 4 h"),
    ],
)
def test_times_are_read_at_a_glance(seconds, said):
    assert duration(seconds) == said


@given(st.floats(60, 1e9))
def test_times_have_two_units_at_most(seconds):
    parts = duration(seconds).split()
    assert len(parts) in (2, 4)
    sizes = {"d": 86_400, "h": 3_600, "min": 60, "s": 1}
    told = sum(
        int(value) * sizes[unit] for value, unit in zip(parts[::2], parts[1::2], strict=True)
    )
    assert abs(told - seconds) <= sizes[parts[1]] * 0.51 + 1


def test_counts_have_their_nouns():
    assert [counted(n, "shards") for n in (0, 1, 2, 12345)] == [
        "0 shards", "1 shard", "2 shards", "12,345 shards"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("units", "seconds", "said"),
    [
        (12345, 1, "12,345/s"),
        (32, 10, "3.2/s"),
        (5, 25, "12/min"),
        (5, 3600, "5.0/h"),
        (0, 5, ""),
        (5, 0, ""),
    ],
)
def test_rates(units, seconds, said):
    assert rate(units, seconds) == said


# Progress


def test_nothing_is_guessed_at_the_beginning(clock):
    advance = Progress("samples", 1_000_000)
    clock.now += 3
    assert advance.words == []
    advance(1, 10.0)
    assert advance.words == ["1 sample", "20/min"]  # no 83 hours left
    clock.now += 7
    advance(4_999, 99_990.0)
    assert advance.words == ["5,000 samples", "500/s", "1 min 30 s left"]


def test_slow_work_is_estimated_after_a_minute(clock):
    advance = Progress("samples", 1_000_000)
    clock.now += 78
    advance(10, 10_000)
    assert advance.words[-1] == "2 h 8 min left"


def test_what_loading_took_is_no_part_of_the_rate(clock):
    advance = Progress("loading the model", 100)
    clock.now += 500
    advance.phase("samples")
    clock.now += 2
    advance(20, 50)
    assert advance.words == ["20 samples", "10/s", "2 s left"]


def test_what_was_done_before_counts_in_the_share_alone(clock):
    advance = Progress("samples", 100, before=50)
    clock.now += 10
    advance(5, 25)
    assert advance.share == 0.75
    assert advance.seconds_left == 10


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [30, 60, 120])
def test_a_terminal_of_any_width_has_its_line(monkeypatch, width):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with show_progress("first samples", 10, False) as progress:
        progress.phase("loading the model")
        progress.phase("samples")
        progress(10, 10)
    shown = terminal.getvalue()
    assert "samples" in shown
    assert ("\u2501" in shown) == (width >= 80)


def test_a_log_has_a_line_now_and_then(monkeypatch, capsys, clock):
    monkeypatch.setenv("NO_COLOR", "1")
    with show_progress("first samples", 100, False, say=lambda: "1 of 3 shards") as progress:
        clock.now += 11
        progress.phase("samples")
        progress(1, 1)  # nothing is told of the first instant
        clock.now += 11
        progress(1_500, 49)
    (said,) = capsys.readouterr().err.splitlines()
    assert said == "samples: 50%, 1,501 samples, 136/s, 11 s left, 1 of 3 shards"


# For machines


def lines(capsys) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_log_of_json_has_progress(capsys, clock):
    with log_as_json(True), show_progress("first samples", 100, False) as progress:
        progress.phase("samples")
        clock.now += 20
        progress(1_000, 50)
    phase, line = lines(capsys)
    assert (phase["event"], phase["text"]) == ("phase", "samples")
    assert line["event"] == "progress"
    known = {"what": "samples", "unit": "samples", "done": 1000, "share": 0.5}
    assert line.items() >= (known | {"seconds": 20.0, "seconds_left": 20}).items()


def test_a_run_ends_with_its_facts_as_json(tmp_path, capsys):
    tar = write_tar(tmp_path / "a.tar", captions(2))
    words = ["score", str(tar), "--model", "rules", "--out", str(tmp_path / "out"), "--log-json"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--workers", "0"])
    assert ended.value.code == 0
    last = lines(capsys)[-1]
    assert (last["event"], last["code"], last["rows"]) == ("end", 0, 2)
    assert last["out"] == str(tmp_path / "out")


def test_what_is_wrong_is_json_too(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["score", "nowhere", "--model", "rules", "--out", "o", "--log-json"])
    assert ended.value.code == 2
    (line,) = lines(capsys)
    assert (line["event"], line["code"]) == ("error", 2)
    assert "nowhere" in str(line["text"])
