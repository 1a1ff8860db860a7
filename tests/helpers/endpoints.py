"""Runs `enhance` against servers of one's own, in this process or as processes that can be killed.

Every image shows a number, and an answer repeats it: an answer that came to another sample is seen.
`python -m tests.helpers.endpoints PORT LOG COUNT` is such a server: it notes each request in a
file, and kills itself (SIGKILL) at the COUNT-th, if that isn't 0.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mmsieve.cli import main
from mmsieve.tables import table_files
from tests.helpers.shards import write_tar
from tests.helpers.teacher_protocols import Ask
from tests.helpers.teacher_server import Fault, Plan, TeacherServer
from tests.helpers.teaching import draw_number, read_number

COUNT, CONCURRENCY = 60, 8
NAME = "aitqe"


def answer(ask: Ask) -> dict[str, Any]:
    """A rewrite that names the number that is shown."""
    number = read_number(ask.images[0])
    return {"Recaption": f"Number {number} in black.", "Overall Score": str(number % 9 + 1)}


def write_pairs(folder: Path, pairs: int = COUNT, shards: int = 2) -> Path:
    """Tars of caption pairs, each with a number to see."""
    each = -(-pairs // shards)
    for first in range(0, pairs, each):
        names = range(first, min(first + each, pairs))
        members = [(f"{n:04d}.png", draw_number(n)) for n in names]
        members += [(f"{n:04d}.txt", f"Is this {n}?".encode()) for n in names]
        write_tar(folder / f"{first:04d}.tar", sorted(members))
    return folder


def endpoint(*urls: str) -> str:
    """The model behind servers."""
    return f"endpoint:{','.join(f'{url}/v1' for url in urls)}#{NAME}"


class Enhancing:
    """Runs the command, and reads what it said and made."""

    def __init__(self, pairs: Path, capsys: Any) -> None:
        self.pairs, self.out, self._capsys = pairs, pairs.parent / "out", capsys
        self.said = ""

    def words(self, model: str, *more: str) -> list[str]:
        """The command line, without the program."""
        asked = ["enhance", str(self.pairs), "--model", model, "--out", str(self.out)]
        asked += ["--workers", "0", "--quiet", "--concurrency", str(CONCURRENCY)]
        return [*asked, "--device", "cpu", *more]

    def run(self, model: str, *more: str) -> Any:
        """Run it in this process; returns the exit code."""
        with pytest.raises(SystemExit) as end:
            main(self.words(model, *more))
        self.said = self._capsys.readouterr().err
        return end.value.code

    def rows(self) -> pl.DataFrame:
        """The table."""
        return pl.concat([pl.read_parquet(path) for path in table_files(self.out).values()])

    def check(self) -> None:
        """Every sample has its own answer, and nothing else is left."""
        rows = self.rows()
        assert rows["status"].to_list() == ["ok"] * COUNT
        numbers = [int(key) for key in rows["key"]]
        assert sorted(numbers) == list(range(COUNT))
        assert rows["recaption"].to_list() == [f"Number {n} in black." for n in numbers]
        assert {path.suffix for path in self.out.iterdir()} == {".parquet"}


class ServerProcess:
    """A server as a process of its own."""

    def __init__(self, log: Path) -> None:
        self._log = log
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, die_at: int = 0) -> None:
        """Start it (again), and wait until it listens."""
        words = [sys.executable, "-m", "tests.helpers.endpoints", str(self._port), str(self._log)]
        started = subprocess.Popen([*words, str(die_at)], cwd=Path(__file__).parents[2])
        self._processes.append(started)
        while True:
            assert started.poll() is None, "the server did not start"
            try:
                socket.create_connection(("127.0.0.1", self._port)).close()
            except OSError:
                time.sleep(0.01)
            else:
                return

    @property
    def is_dead(self) -> bool:
        """Whether it has been killed."""
        return self._processes[-1].poll() is not None

    def end(self) -> None:
        """Kill what is left."""
        for process in self._processes:
            process.kill()
            process.wait()

    def asked(self) -> Counter[str]:
        """Images -> requests about them that were read."""
        return Counter(self._log.read_text().split()) if self._log.exists() else Counter()


def serve(port: int, log: Path, die_at: int) -> None:
    """Serve until killed; what is asked about is noted before it is answered."""
    numbers = count(1)

    class Noting(Plan):
        def fault(self, key: str, attempt: int) -> Fault | None:
            with log.open("a") as file:
                file.write(f"{key}\n")
            if next(numbers) == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return None

    with TeacherServer(answer, Noting(latency=0.01), port=port) as server:
        server.models = {NAME: 4096}
        signal.pause()


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
