"""SIGINT and SIGTERM: one line, an exit code that says which, and the same command goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from tests.helpers.plugins import write_plugin
from tests.helpers.shards import captions, write_tar
from tests.helpers.tables import rows_of, write_table

pytestmark = pytest.mark.slow
ON = "; the same command goes on where this one stopped\n"


def end(words: Sequence[str | Path], number: int, begun: Callable[[int], bool]) -> tuple[int, str]:
    """Send a signal to a command's process group when it has begun; its exit code and stderr."""
    with subprocess.Popen(
        [sys.executable, "-m", "mmsieve", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        while not begun(process.pid) and process.poll() is None:
            time.sleep(0.005)
        os.killpg(process.pid, number)
        said = process.communicate(timeout=120)[1]
    return process.returncode, said


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_command_that_is_told_to_end_says_so_in_a_line(tmp_path, number, code, word):
    out = tmp_path / "out"
    words = [
        "generate",
        "captions",
        "--teacher",
        "rendered",
        "--count",
        "400",
        "--quiet",
        "--out",
        out,
    ]
    assert end(words, number, lambda _: (out / "images").is_dir()) == (code, word + ON)
    record = tmp_path / ".out.run" / "run.json"
    assert json.loads(record.read_text("utf-8"))["state"] == word
    assert subprocess.run([sys.executable, "-m", "mmsieve", *words], check=False).returncode == 0
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".out.run"}


def test_workers_are_silent_also_while_they_begin(tmp_path):
    source = write_tar(tmp_path / "in.tar", captions(400))
    words = [
        "score",
        source,
        "--model",
        "rules",
        "--workers",
        "2",
        "--quiet",
        "--out",
        tmp_path / "out",
    ]

    def begun(process: int) -> bool:
        return len(psutil.Process(process).children()) >= 2  # the tracker of resources is one

    assert end(words, signal.SIGINT, begun) == (130, "interrupted" + ON)


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
@pytest.mark.parametrize("module", ["cyclopts", "mmsieve_plugin"])
def test_a_command_that_is_told_to_end_while_it_imports_says_so_too(
    tmp_path, module, number, code, word
):
    """In a text that is executed, as named tuples are made, Python notes a KeyboardInterrupt."""
    kill = f"import os\nos.kill(os.getpid(), {int(number)})\nsum(range(10**6))\n"
    write_plugin(tmp_path, "rude", "mmsieve_plugin:make")
    (tmp_path / f"{module}.py").write_text(f"exec({kill!r})\nraise SystemExit(9)\n")
    source, out = write_tar(tmp_path / "in.tar", captions(1)), tmp_path / "out"
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        [sys.executable, "-m", "mmsieve", "score", source, "--model", "rude", "--out", out],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (code, word + ON)


_WAIT = """
import os, queue, signal, threading, mmsieve.tables
signal.signal(signal.SIGALRM, lambda *_: os._exit(9))
signal.alarm(60)
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
queue.SimpleQueue().get()
"""


def test_an_interrupt_is_heard_while_the_main_thread_waits():
    """As for a server that is down. (polars, imported, would have such a wait begin again.)"""
    run = subprocess.run([sys.executable, "-c", _WAIT], capture_output=True, check=False)
    assert run.returncode == -signal.SIGINT and b"KeyboardInterrupt" in run.stderr


_SLOW_FILTER = """
import os, sys, threading
from mmsieve.cli import main
from mmsieve.filtering.decide import Database

def run(database, query):
    threading.Timer(0.3, os.kill, (os.getpid(), int(sys.argv[1]))).start()
    rows = "range(3000000) a, range(300) b WHERE a.range * b.range % 7 = 3"
    database.frame(f"SELECT count(*) FROM {rows}")

Database.run = run
main(["filter", sys.argv[2], "--min-score", "1", "--out", sys.argv[3], "--quiet"])
"""


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_library_that_makes_an_error_of_an_order_to_end_ends_all_the_same(
    tmp_path, number, code, word
):
    """DuckDB raises RuntimeError("Query interrupted"), and keeps to itself why."""
    table = write_table(tmp_path / "table", {"a": rows_of("a", [1.0, 2.0])})
    done = subprocess.run(
        [sys.executable, "-c", _SLOW_FILTER, str(int(number)), table, tmp_path / "kept"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, word + ON)
    record = json.loads((tmp_path / ".kept.run" / "run.json").read_text("utf-8"))
    assert (record["state"], record["error"]) == (word, None)
