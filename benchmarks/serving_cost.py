"""CPU seconds that a rating takes: by torch, by vLLM in the process, and by a vLLM over HTTP.

    .venv-vllm/bin/python -m benchmarks.serving_cost [--samples 100]

In the environment of `make test-vllm`, on a CPU in float32, with the bundled scorer of 2 M weights:
the model costs next to nothing, so what is seen is what each way costs beside it. A pass has fresh
samples, 14 questions each, after a pass that warms up.
"""

import argparse
import datetime
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from mmsieve import Sample, convert, load_rater
from mmsieve.labels import CAPABILITIES
from mmsieve.synthetic.instructions import instruction
from mmsieve.synthetic.teacher import Drawing
from tests.serving.engine import serving

SCORER = "mmssr-tiny-scorer"
WARM_UP = 20


def samples(seed: int, count: int) -> list[Sample]:
    return [instruction(seed, index).sample(Drawing().draw) for index in range(count)]


def served_cpu() -> float:
    """CPU seconds of the processes that this one started."""
    found = 0.0
    for child in psutil.Process().children(recursive=True):
        used = child.cpu_times()
        found += used.user + used.system
    return found


def measure(rate: Callable[[list[Sample]], Any], count: int) -> tuple[float, float]:
    """CPU seconds of this process and of its children, for so many samples."""
    rate(samples(1, WARM_UP))
    asked = samples(2, count)
    own, others = time.process_time(), served_cpu()
    rate(asked)
    return time.process_time() - own, served_cpu() - others


def ways(place: Path) -> Iterator[tuple[str, Callable[[list[Sample]], Any]]]:
    """Each way to rate, loaded."""
    yield "torch runner", load_rater(SCORER, device="cpu").rate
    convert(SCORER, out=place / SCORER)
    with serving({SCORER: place / SCORER}) as endpoints:
        yield "vLLM over HTTP", load_rater(endpoints[SCORER], device="cpu", like=SCORER).rate
    stock = str(place / SCORER)
    yield "vLLM in the process", load_rater(SCORER, device="cpu", backend="vllm", stock=stock).rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=100)
    count = parser.parse_args().samples
    questions = count * len(CAPABILITIES)
    day = datetime.datetime.now(tz=datetime.UTC).date()
    print("# CPU of a rating by torch, by vLLM in the process and over HTTP\n")
    print(f"`python -m benchmarks.serving_cost --samples {count}`, {day}, {questions} questions.\n")
    print("| way | CPU ms a question, this process | CPU ms a question, server |")
    print("|---|---|---|")
    with TemporaryDirectory() as place:
        for name, rate in ways(Path(place)):
            own, others = (1000 * spent / questions for spent in measure(rate, count))
            print(f"| {name} | {own:.1f} | {others:.1f} |", flush=True)


if __name__ == "__main__":
    main()
