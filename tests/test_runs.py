"""A run is seen: run.json and events.jsonl beside every output, and what `status` says of them."""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import chdir
from pathlib import Path

import pyarrow as pa
import pytest

from mmsieve import cli, tables
from mmsieve.locks import writing_to
from mmsieve.resources import ProcessUse
from mmsieve.runs import RunFiles, RunLog, as_typed, carrying_out
from tests.helpers.plugins import write_plugin
from tests.helpers.selections import ratings_of, write_ratings
from tests.helpers.shards import caption, captions, write_tar

ROOT = Path(__file__).parents[1]
SCORE = "score in --model rules --workers 0 --quiet --out table"
FILTER = "filter table --by num_words --min-score 0 --quiet --out kept"
VERBS = {
    "table": SCORE,
    "kept": FILTER,
    "kept.parquet": FILTER + ".parquet",
    "chosen": "select ratings --budget 2 --quiet --out chosen",
    "curated": "export in --decisions kept --quiet --out curated",
    "drawn": "generate captions --teacher rendered --count 4 --quiet --out drawn",
    "page.html": "report table --cards 0 --out page.html",
    "form.html": "audit table in --by num_words --samples 2 --out form.html",
    "agreement": "evaluate table table --quiet --out agreement",
}
"""Output -> the command that makes it, in the order of work."""
SLOW = {
    "pool": "generate ratings --teacher rendered --count 3 --quiet --out pool",
    "judged": "enhance in --model aitqe-tiny --workers 0 --quiet --out judged",
    "rated": "rate pool/qas.json --images pool --model mmssr-tiny-scorer --workers 0 --quiet"
    " --out rated",
    "stock": "convert mmssr-tiny-styler --out stock",
    "trained": "train classifier unifilter-tiny --smoke --quiet --out trained",
}


def run(folder: Path, words: str) -> int:
    with chdir(folder), pytest.raises(SystemExit) as done:
        cli.main(shlex.split(words))
    return int(done.value.code or 0)


def record(folder: Path, out: str) -> dict[str, object]:
    return json.loads((folder / f".{out}.run" / "run.json").read_text("utf-8"))


def events(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A folder with two tars, ratings, and the outputs of all quick verbs."""
    folder = tmp_path_factory.mktemp("work")
    for number in range(2):
        write_tar(folder / "in" / f"{number}.tar", captions(3))
    rows = [{"key": f"{n}", "image_source": "a", "styles": ["b"], "ocr": n % 5} for n in range(6)]
    write_ratings(folder / "ratings", ratings_of(rows, ocr=pa.int8()))
    for words in VERBS.values():
        assert run(folder, words) == 0
    return folder


def check_record(folder: Path, out: str, words: str) -> None:
    """Whatever the verb, the record says who made what when, and how it ended."""
    found = record(folder, out)
    verb = words.split()[0]
    assert (found["verb"], found["state"], found["code"], found["out"]) == (verb, "done", 0, out)
    assert found["command"] == f"mmsieve {words}"
    assert found["process"] == os.getpid() and found["host"] and found["version"]
    assert found["started"] <= found["ended"]
    assert found["peak_memory"] > 10e6 and found["cpu_seconds"] >= 0
    assert found["report"]["out"] == out
    if verb not in ("report", "audit", "evaluate"):
        assert found["fingerprint"]
    said = events(folder / f".{out}.run" / "events.jsonl")
    assert said[0]["event"] == "begin" and said[-1]["event"] == "end"


@pytest.mark.parametrize("out", VERBS)
def test_every_output_has_a_record_of_its_run_beside_it(work, out):
    check_record(work, out, VERBS[out])


@pytest.mark.long
def test_outputs_of_models_have_one_too(work):
    for out, words in SLOW.items():
        assert run(work, words) == 0
        check_record(work, out, words)


def test_a_record_is_no_part_of_an_output(work):
    assert {p.name for p in (work / "table").iterdir()} == {"0.parquet", "1.parquet"}
    assert {p.name for p in (work / "kept").iterdir()} == {"0.parquet", "1.parquet"}


def test_what_was_counted_waited_for_and_taken_is_in_it(work):
    found = record(work, "table")
    assert found["statuses"] == {"ok": 6}
    assert (found["shards"], found["shards_before"], found["shards_done"]) == (2, 0, 2)
    assert found["waits"].keys() <= {"samples"}
    assert found["libraries"]["pyarrow"] == pa.__version__
    last = found["phases"][-1]
    assert (last["what"], last["done"], last["unit"]) == ("samples", 6, "samples")
    shards = [
        one for one in events(work / ".table.run" / "events.jsonl") if one["event"] == "shard"
    ]
    assert [(one["shard"], one["rows"], one["statuses"]) for one in shards] == [
        ("0", 3, {"ok": 3}), ("1", 3, {"ok": 3})
    ]  # fmt: skip


def test_a_rerun_adds_to_the_history(tmp_path, capsys):
    write_tar(tmp_path / "in" / "0.tar", captions(2))
    file = tmp_path / ".table.run" / "events.jsonl"
    assert run(tmp_path, SCORE) == 0
    before = file.read_bytes()
    file.write_bytes(before + b'{"time": "half a li')  # as a kill leaves it
    assert run(tmp_path, SCORE) == 0
    assert file.read_bytes().startswith(before)
    whole = [line for line in file.read_text("utf-8").splitlines() if not line.endswith("a li")]
    said = [json.loads(line)["event"] for line in whole]
    assert said.count("begin") == said.count("end") == 2
    assert record(tmp_path, "table")["shards_before"] == 1
    assert run(tmp_path, "status table") == 0
    assert "1 of 1 shard done (1 before this run), 0 left" in capsys.readouterr().out


def test_what_is_not_carried_out_is_not_recorded(tmp_path):
    write_tar(tmp_path / "in" / "0.tar", captions(2))
    assert run(tmp_path, SCORE + " --dry-run") == 0
    assert run(tmp_path, SCORE + " --image-column x") == 2
    assert run(tmp_path, FILTER) == 2
    assert not list(tmp_path.glob(".*"))
    assert run(tmp_path, SCORE) == 0
    before = (tmp_path / ".table.run" / "events.jsonl").read_bytes()
    assert run(tmp_path, SCORE + " --keep-metadata") == 2  # another request for the same output
    assert (tmp_path / ".table.run" / "events.jsonl").read_bytes() == before


def test_no_secret_is_recorded(work):
    address = "https://bob:hunter2@host/x?token=abcdef123456789"
    words = f"""filter table --by num_words --min-score 0 --where "key != '{address}'" --out bare"""
    assert run(work, words) == 0
    texts = [path.read_text("utf-8") for path in (work / ".bare.run").iterdir()]
    assert len(texts) == 2 and all("https://host/x" in text for text in texts)
    assert not [text for text in texts if "hunter2" in text or "abcdef123456789" in text]


def test_the_log_for_machines_and_the_record_say_the_same(tmp_path, capsys):
    write_tar(tmp_path / "in" / "0.tar", captions(2))
    assert run(tmp_path, SCORE.replace("--quiet", "--log-json")) == 0
    printed = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    said = events(tmp_path / ".table.run" / "events.jsonl")
    assert [one for one in printed if one["event"] == "phase"] == [
        one for one in said if one["event"] == "phase"
    ]
    assert said[-1].items() >= {k: v for k, v in printed[-1].items() if k != "time"}.items()


def test_a_full_disk_costs_the_record_alone(tmp_path, capsys):
    write_tar(tmp_path / "in" / "0.tar", captions(2))
    (tmp_path / ".table.run").mkdir()
    (tmp_path / ".table.run" / "events.jsonl").symlink_to("/dev/full")
    assert run(tmp_path, SCORE) == 0
    assert capsys.readouterr().err.count("No space left on device") == 1
    assert (tmp_path / "table" / "0.parquet").is_file()
    assert [path.name for path in (tmp_path / ".table.run").iterdir()] == ["events.jsonl"]


def test_a_run_without_progress_is_seen_too(tmp_path, capsys):
    """What needs long begins its record by itself, as it was typed."""
    with as_typed(["convert", "m", "--out", "o"]), carrying_out("convert") as log:
        log.attach(RunFiles.of(tmp_path, "o"), tmp_path / "o")
        thread = threading.Thread(target=log.begin)  # as that of the log itself, in two seconds
        thread.start()
        thread.join()
        assert record(tmp_path, "o")["command"] == "mmsieve convert m --out o"
        assert record(tmp_path, "o")["state"] == "running"
    assert run(tmp_path, "status o") == 1  # nobody has said how it ended
    assert capsys.readouterr().out.startswith("convert was killed")


def test_a_place_where_nothing_can_be_recorded_costs_the_record_alone(tmp_path, capsys):
    write_tar(tmp_path / "in" / "0.tar", captions(2))
    (tmp_path / ".table.run").write_text("in the way")
    assert run(tmp_path, SCORE) == 0
    assert "what this run does is not recorded in .table.run: " in capsys.readouterr().err.replace(
        f"{tmp_path}/", ""
    )
    assert (tmp_path / "table" / "0.parquet").is_file()


# status


def test_status_without_a_record_is_a_wrong_request(tmp_path, capsys):
    assert run(tmp_path, "status nowhere") == 2
    assert "nowhere: no run is recorded beside it" in capsys.readouterr().err


def test_status_of_a_run_that_has_done_nothing_yet(tmp_path, capsys):
    with writing_to(tmp_path / "table", "a quality table"):
        before = sorted(tmp_path.iterdir())
        assert run(tmp_path, "status table") == 0
        assert sorted(tmp_path.iterdir()) == before  # the lock is only looked at
    assert capsys.readouterr().out.startswith("a quality table begins, since ")


def test_status_of_a_damaged_record_is_one_line(tmp_path, capsys):
    files = RunFiles.of(tmp_path, "table")
    files.folder.mkdir()
    for text in ("", "[]", '{"verb": 3}'):
        files.run.write_text(text)
        assert run(tmp_path, "status table") == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_status_passes_over_lines_that_are_damaged(work, tmp_path, capsys):
    shutil.copytree(work / ".table.run", tmp_path / ".table.run")
    time = "2026-11-30T12:00:00+00:00"
    with (tmp_path / ".table.run" / "events.jsonl").open("ab") as file:
        for event in ("progress", "shard", "end", "begin"):
            damaged = {"time": time, "event": event, "statuses": {"ok": "x"}, "share": []}
            file.write(json.dumps(damaged).encode() + b"\n\xff\x00\n[]\n\n")
    (tmp_path / ".table.run" / "run.mine.json").write_text("{}")
    assert run(tmp_path, "status table") == 0
    assert "rows: 6 ok" in capsys.readouterr().out


@pytest.mark.parametrize("out", VERBS)
def test_status_of_what_is_done(work, capsys, out):
    assert run(work, f"status {out}") == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{VERBS[out].split()[0]} is done, ")


def test_status_has_its_facts_as_json(work, capsys):
    assert run(work, "status table --log-json") == 0
    (last,) = map(json.loads, capsys.readouterr().err.splitlines())
    (found,) = last["runs"]
    assert (last["state"], found["shards_done"], found["shards_left"]) == ("done", 2, 0)


def test_parts_of_a_job_array_have_a_record_each(tmp_path, capsys):
    for number in range(3):
        write_tar(tmp_path / "in" / f"{number}.tar", captions(number + 1))
    for part in ("0/3", "2/3"):
        assert run(tmp_path, f"{SCORE} --part {part}") == 0
    names = {path.name for path in (tmp_path / ".table.run").iterdir()}
    assert names == {
        f"{kind}.{n}-of-3.{ending}"
        for n in (0, 2)
        for kind, ending in (("run", "json"), ("events", "jsonl"))
    }
    capsys.readouterr()
    assert run(tmp_path, "status table") == 0
    said = capsys.readouterr().out
    assert "no record of 1 part: 1/3" in said
    assert said.endswith("2 parts: 2 done; rows: 4 ok\n")


def test_what_failed_is_named_with_its_reason(tmp_path, capsys):
    write_tar(tmp_path / "in" / "0.tar", captions(2))
    tar = write_tar(tmp_path / "in" / "1.tar", captions(40))
    tar.write_bytes(tar.read_bytes()[:20_000])
    assert run(tmp_path, SCORE) == 1
    capsys.readouterr()
    assert run(tmp_path, "status table") == 1
    said = capsys.readouterr().out
    assert said.startswith("score failed, ")
    assert "1 of 2 shards done, 1 failed or incomplete, 1 left" in said
    assert "failed: 1: incomplete: " in said
    assert f"goes on where this one stopped: mmsieve {SCORE}" in said


HANGING = "score in --model poisonous --workers 0 --quiet --out table"


def test_a_run_that_lives_and_one_that_was_killed(tmp_path, capsys):
    """In another process, which hangs at its third shard until it is killed."""
    write_plugin(tmp_path, "poisonous", "tests.helpers.plugins:make")
    for number, text in enumerate(("good", "good", "hang")):
        members = [*captions(2), *caption("z", text)]
        write_tar(tmp_path / "in" / f"{number}.tar", members)
    path = os.pathsep.join([str(tmp_path), str(ROOT), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        [sys.executable, "-m", "mmsieve", *HANGING.split()],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
    ) as process:
        file = tmp_path / ".table.run" / "events.jsonl"
        try:
            while not (file.exists() and b'"event": "shard"' in file.read_bytes()):
                assert process.poll() is None
                time.sleep(0.01)
            assert run(tmp_path, "status table") == 0
            alive = capsys.readouterr().out
        finally:
            process.kill()
    assert alive.startswith("score runs, since ")
    assert f"(process {process.pid} on " in alive
    assert "1 of 3 shards done, 2 left" in alive and "rows: 3 ok" in alive
    assert run(tmp_path, "status table") == 1
    said = capsys.readouterr().out
    assert said.startswith("score was killed: its process is gone, ")
    assert f"goes on where this one stopped: mmsieve {HANGING}" in said


def test_a_run_that_stands_still_is_told_from_one_that_goes_on(tmp_path, capsys):
    with carrying_out("train") as log:
        with writing_to(tmp_path / "o", "train"):
            log.begin()
            for minute, done in ((1, 10), (2, 20), (9, 20)):
                facts = {"what": "lesson", "unit": "steps", "done": done, "seconds": 60.0 * minute}
                line = {"time": f"2026-11-30T12:0{minute}:00+00:00", "event": "progress", **facts}
                with (tmp_path / ".o.run" / "events.jsonl").open("a") as file:
                    file.write(json.dumps(line) + "\n")
            assert run(tmp_path, "status o") == 0
        log.end(0, {})
    assert "lesson: 20 steps, 2.2/min, no more since 7 min\n" in capsys.readouterr().out


# What is counted


def test_what_other_processes_took_is_added_once(tmp_path):
    with carrying_out("score") as log:
        before = log.live()
        other = ProcessUse(host="another", process=7, cpu_seconds=5.0, memory=10**12)
        log.count({"ok": 2}, False, other)
        log.count({"ok": 1}, True, other)
        after = log.live()
    assert after["statuses"] == {"ok": 3}
    assert (after["shards_done"], after["shards_failed"]) == (1, 1)
    assert 5.0 <= after["cpu_seconds"] - before["cpu_seconds"] < 9.0
    assert 10**12 <= after["peak_memory"] < 11**12


def test_a_verb_in_another_thread_has_its_own_record(work):
    ended: list[int] = []
    words = FILTER.replace("kept", "apart")
    with carrying_out("score") as log:
        log.attach(RunFiles.of(work, "mine"), work / "mine")
        thread = threading.Thread(target=lambda: ended.append(run(work, words)))
        thread.start()
        thread.join()
        log.end(0, {})
    assert ended == [0]
    assert isinstance(log, RunLog)
    assert [record(work, out)["verb"] for out in ("mine", "apart")] == ["score", "filter"]


# Prometheus


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_prometheus_is_answered_while_a_run_goes_on(tmp_path, monkeypatch):
    parser = pytest.importorskip("prometheus_client.parser")
    port, asked = free_port(), []
    write = tables.write_file

    def write_file(*given: object) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            asked.append(answer.read().decode())
        write(*given)

    monkeypatch.setattr(tables, "write_file", write_file)
    write_tar(tmp_path / "in" / "0.tar", captions(2))
    assert run(tmp_path, f"{SCORE} --metrics-port {port}") == 0
    (text,) = asked
    found = {
        one.name: (one.labels, one.value)
        for family in parser.text_string_to_metric_families(text)
        for one in family.samples
    }
    who = {"verb": "score", "out": "table", "part": ""}
    assert found["mmsieve_units"] == (who, 2)
    assert found["mmsieve_shards"] == (who, 1)
    assert found["mmsieve_phase"] == (who | {"phase": "samples"}, 1)
    assert found["mmsieve_memory_peak_bytes"][1] > 10e6
    assert found["mmsieve_waiting_seconds_total"][0] == who | {"reason": "samples"}
    with pytest.raises(OSError):  # nobody listens any more
        socket.create_connection(("127.0.0.1", port)).close()


def test_a_port_that_will_not_do_is_refused(tmp_path, monkeypatch, capsys):
    for given in ("", "0", "65536", "http"):
        assert run(tmp_path, f"{SCORE} --metrics-port '{given}'") == 2
        assert "must be a port, 1 to 65535" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert run(tmp_path, f"{SCORE} --metrics-port=9400") == 2
    assert "pip install 'mmsieve[metrics]'" in capsys.readouterr().err


def test_a_port_that_is_taken_is_refused(tmp_path, capsys):
    pytest.importorskip("prometheus_client")
    with socket.create_server(("127.0.0.1", 0)) as one:
        assert run(tmp_path, f"{SCORE} --metrics-port {one.getsockname()[1]}") == 2
    assert "can't be used: Address already in use" in capsys.readouterr().err
