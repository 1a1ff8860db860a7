"""Samples per second of caption scoring on a CPU, contestants taking turns in one run.

    python -m benchmarks.score_speed CHECKPOINT TAR [--published REPOSITORY PYTHON] [--rounds 3]

mmsieve in float32 and bfloat16, a plain loop over stock layers, and (where a checkout of the
published code and a Python with its requirements are given) the published scorer's own loop. Each
loads its model once; a round is one pass of each over the shard, reading and preparing included.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent / "contestants"


class Contestant:
    """A child process that scores the shard whenever it is told to."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self.seconds: list[float] = []
        self.scores: dict[str, float] = {}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=HERE,
        )
        self._process.stdout.readline()

    def go(self) -> None:
        """One pass over the shard."""
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        self.seconds.append(answer["seconds"])
        self.scores = answer["scores"]

    def stop(self) -> None:
        """End the child process."""
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("tar")
    parser.add_argument("--published", nargs=2, metavar=("REPOSITORY", "PYTHON"))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    data = [str(Path(arguments.checkpoint).resolve()), str(Path(arguments.tar).resolve())]
    ours = [sys.executable, "ours.py", *data]
    crew = [
        Contestant("mmsieve float32", [*ours, "float32"]),
        Contestant("mmsieve bfloat16", [*ours, "bfloat16"]),
        Contestant("plain stock layers, float32", [sys.executable, "plain.py", *data]),
    ]
    if arguments.published:
        repository, python = arguments.published
        command = [python, "published.py", str(Path(repository).resolve()), *data]
        crew.append(Contestant("published loop, float32", command))
    for _ in range(arguments.rounds):
        for contestant in crew:
            contestant.go()
    for contestant in crew:
        contestant.stop()
    print_table(crew)


def print_table(crew: list[Contestant]) -> None:
    """Speed of each, its ratio to the last, and how its scores differ from the last one's."""
    base = crew[-1]
    print(
        f"| contestant | samples/s (median of {len(base.seconds)}) | x {base.name} "
        "(median, least) | score drift (median, largest) | rank correlation |"
    )
    print("|---|---|---|---|---|")
    for one in crew:
        speed = len(one.scores) / statistics.median(one.seconds)
        ratios = [b / a for a, b in zip(one.seconds, base.seconds, strict=True)]
        keys = sorted(base.scores)
        a, b = (np.array([c.scores[key] for key in keys]) for c in (one, base))
        drift = np.abs(a - b)
        ranks = np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1]
        print(
            f"| {one.name} | {speed:.1f} | {statistics.median(ratios):.2f}, {min(ratios):.2f} "
            f"| {np.median(drift):.1e}, {drift.max():.1e} | {ranks:.5f} |"
        )


if __name__ == "__main__":
    main()
