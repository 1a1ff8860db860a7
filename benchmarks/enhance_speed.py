"""Captions enhanced per second, against the published one-at-a-time loop, taking turns.

    python -m benchmarks.enhance_speed [CHECKPOINT] [--size small] [--tar TAR] [--pairs 64]
        [--new-tokens 60] [--rounds 3] [--device cpu] [--dtype float32]

Without a CHECKPOINT (a folder in AITQE's layout, or a bundled name) one of random weights is made:
`small`, or `released`, the size of HymanH/AITQE. Random weights never write the marker, so every
answer is `--new-tokens` long, in both loops. A checkpoint of ours is also run with its keys given,
as `enhance` does. Decoding an image, its preparation and the tokenizer are in all times.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import PIL.Image
import torch

from benchmarks.contestants.one_at_a_time import OneAtATime
from benchmarks.contestants.random_enhancer import SIZES, write_random
from mmsieve.engine.annotator import RunnerOptions
from mmsieve.methods.aitqe.annotator import Aitqe, EnhanceOptions
from mmsieve.methods.load import load_aitqe
from mmsieve.methods.unifilter.annotator import ScoringOptions
from mmsieve.read import ReadOptions, parse_record
from mmsieve.read.shards import open_shard
from mmsieve.sample import Sample
from mmsieve.sources import find_files


@dataclass
class Contestant:
    """One way to enhance all samples, and what it took."""

    name: str
    run: Callable[[], None]
    asked: Callable[[], int]
    """Tokens that the model chose, since the last time it was called."""
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    """Of all threads: on a busy machine they say more than the clock."""
    tokens: int = 0

    def go(self) -> None:
        """One pass over the samples."""
        started, busy = time.perf_counter(), time.process_time()
        self.run()
        self.seconds.append(time.perf_counter() - started)
        self.cpu_seconds.append(time.process_time() - busy)
        self.tokens = self.asked()


class Ours:
    """mmsieve's preparer and runner in this process, with a clock in its parts."""

    def __init__(self, annotator: Aitqe, samples: list[Sample], device: str) -> None:
        self._samples, self._cuda = samples, device != "cpu"
        self._preparer = annotator.preparer()
        self._runner: Any = annotator.runner(RunnerOptions(device))
        self._tokens = 0
        self.parts = {"images": 0.0, "prefill": 0.0, "decode": 0.0}
        self._runner.encode = self._timed(self._runner.encode, lambda *_: "images")
        language = self._runner.language
        language.hidden = self._timed(language.hidden, self._part)

    def _part(self, embeddings: Any, mask: Any, cache: Any) -> str:
        self._tokens += len(embeddings)
        return "decode" if cache.get_seq_length() else "prefill"

    def _timed(self, call: Callable[..., Any], part: Callable[..., str]) -> Callable[..., Any]:
        def timed(*inputs: Any) -> Any:
            name, started = part(*inputs), self._clock()
            made = call(*inputs)
            self.parts[name] += self._clock() - started
            return made

        return timed

    def _clock(self) -> float:
        if not self._cuda:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def run(self) -> None:
        """Prepare and enhance all samples."""
        items = ((n, self._preparer.prepare(sample)) for n, sample in enumerate(self._samples))
        assert len(list(self._runner.run(items))) == len(self._samples)

    def asked(self) -> int:
        """Tokens that the model chose since the last call."""
        tokens, self._tokens = self._tokens, 0
        return tokens


def read_pairs(tar: str | None, count: int) -> list[Sample]:
    """The first pairs of a tar; without one, noise with captions of many lengths."""
    if tar is not None:
        with open_shard(find_files([tar]).files[0], ReadOptions()) as reader:
            return [parse_record(reader.parse, r) for r in islice(reader.records, count)]
    drawn = np.random.default_rng(0)
    made = []
    for number in range(count):
        file = io.BytesIO()
        noise = drawn.integers(0, 256, (512, 512, 3), np.uint8)
        PIL.Image.fromarray(noise).save(file, "JPEG")
        words = " ".join(drawn.choice(["a", "dog", "on", "the", "red", "sofa"], 5 + number % 20))
        made.append(Sample.caption(file.getvalue(), words))
    return made


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", nargs="?")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--tar")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--alone", type=int, help="pairs of the one-at-a-time loop", default=None)
    parser.add_argument("--new-tokens", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    asked = parser.parse_args()
    samples = read_pairs(asked.tar, asked.pairs)
    with TemporaryDirectory() as folder:
        checkpoint = asked.checkpoint or write_random(Path(folder) / "random", asked.size)
        compare(str(checkpoint), samples, asked)


def compare(checkpoint: str, samples: list[Sample], asked: argparse.Namespace) -> None:
    """Rounds of all contestants on one checkpoint."""
    enhancing = EnhanceOptions(max_new_tokens=asked.new_tokens)
    scoring = ScoringOptions(device=asked.device, dtype=asked.dtype)
    annotator = load_aitqe(checkpoint, enhancing, scoring)
    few = samples[: asked.alone]
    alone = OneAtATime(annotator, few, asked.device, asked.dtype, asked.new_tokens)
    ours = {"mmsieve": Ours(annotator, samples, asked.device)}
    if annotator.forced:
        free = load_aitqe(checkpoint, enhancing, scoring)
        type(free).forced = property(lambda self: self is annotator)  # type: ignore[assignment,method-assign]
        ours["mmsieve, no key given"] = Ours(free, samples, asked.device)
    crew = [Contestant(name, one.run, one.asked) for name, one in ours.items()]
    crew.append(Contestant("one at a time", alone.run, alone.asked))
    for one in crew:  # to warm up
        one.go()
        one.seconds.clear()
        one.cpu_seconds.clear()
    for one in ours.values():
        one.parts = dict.fromkeys(one.parts, 0.0)
    for _ in range(asked.rounds):
        for one in crew:
            one.go()
    counts = [*[len(samples)] * len(ours), len(few)]
    print_table(crew, counts)
    for name, mine in ours.items():
        mate = crew[list(ours).index(name)]
        whole = sum(mate.cpu_seconds if asked.device == "cpu" else mate.seconds)
        shares = ", ".join(f"{part} {took / whole:.0%}" for part, took in mine.parts.items())
        print(f"{name}: {shares}, the rest (images decoded, texts, choices) between")
    print(f"one at a time: prefill {alone.prefill_share():.0%} of its time")


def print_table(crew: list[Contestant], counts: list[int]) -> None:
    """Speed of each, and its ratio to the last."""
    print(
        "| contestant | pairs/s (median) | x one at a time (median, least) | by CPU time "
        "| tokens asked a pair |"
    )
    print("|---|---|---|---|---|")
    last = crew[-1]
    for one, count in zip(crew, counts, strict=True):
        share = count / counts[-1]
        ratios = [share * b / a for a, b in zip(one.seconds, last.seconds, strict=True)]
        busy = [share * b / a for a, b in zip(one.cpu_seconds, last.cpu_seconds, strict=True)]
        print(
            f"| {one.name} | {count / statistics.median(one.seconds):.2f} "
            f"| {statistics.median(ratios):.2f}, {min(ratios):.2f} "
            f"| {statistics.median(busy):.2f} | {one.tokens / count:.1f} |"
        )


if __name__ == "__main__":
    main()
