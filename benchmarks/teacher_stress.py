"""`generate` against a teacher that misbehaves on purpose: python -m benchmarks.teacher_stress

Draws images, asks about them through both providers' SDKs against a server of the tests that
meets one request in five with a fault, kills the process group three times (kill -9) at random
moments, runs the command again each time, and writes what was lost or paid twice to results/.
"""

import argparse
import os
import platform
import random
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.helpers.teacher_protocols import Provider
from tests.helpers.teacher_server import UNPAID, Fault, Plan, TeacherServer
from tests.helpers.teaching import Generation, answer, overpaid, write_images

FAULTS = {
    Fault.RATE_LIMIT: 0.06,
    Fault.SERVER_ERROR: 0.03,
    Fault.OVERLOADED: 0.03,
    Fault.STALL: 0.01,
    Fault.CUT: 0.02,
    Fault.TRUNCATED: 0.02,
    Fault.REFUSAL: 0.01,
    Fault.WRONG_FIELDS: 0.01,
    Fault.DUPLICATES: 0.01,
}
STUBBORN = {Fault.REFUSAL: 0.01, Fault.TRUNCATED: 0.005}
CONCURRENCY, KILLS, BROKEN = 16, 3, 10
PROVIDERS: tuple[Provider, ...] = ("anthropic", "openai")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="result file; by default results/ and the date")
    options = parser.parse_args()
    day = datetime.now(UTC).date().isoformat()
    out = options.out or Path(__file__).parent / "results" / f"teacher_stress_{day}.md"
    rows, met = [], []
    for provider in PROVIDERS:
        for kills in (0, KILLS):
            row, faults = run(provider, options.images, kills, options.seed)
            rows.append(row)
            met.append(faults)
    text = report(options.images, options.seed, rows, met)
    out.parent.mkdir(exist_ok=True)
    out.write_text(text)
    print(text)


def run(provider: Provider, images: int, kills: int, seed: int) -> tuple[str, str]:
    """A row of the result table, and a line on what went wrong; fails where something is lost."""
    rng = random.Random(f"{seed} {provider} {kills}")
    plan = Plan(seed=seed, faults=FAULTS, stubborn=STUBBORN, latency=0.02)
    with (
        TemporaryDirectory(prefix="mmsieve-bench-") as folder,
        TeacherServer(answer, plan) as server,
    ):
        shown = write_images(Path(folder) / "images", images, BROKEN)
        made = Generation(
            server,
            provider,
            Path(folder) / "images",
            Path(folder) / "out",
            count=4 * images,
            concurrency=CONCURRENCY,
            options=("--timeout", "2", "--max-retries", "8", "--quiet"),
        )
        started = time.monotonic()
        for at in sorted(rng.sample(range(images // 20, images * 9 // 10), kills)):
            if made.run(lambda at=at: server.answers >= at, seed=at) != -9:
                raise SystemExit(f"{provider}: it ended before it was killed: {made.said[-1]}")
        if made.run():
            raise SystemExit(f"{provider}: {made.said[-1]}")
        seconds = time.monotonic() - started
        stock = made.stock()
        stock.check(shown)
        if overpaid(server) > kills * CONCURRENCY or made.leaks() or server.refused:
            raise SystemExit(f"{provider}: paid twice, or a key leaked: {made.leaks()}")
        cells = (
            provider,
            kills,
            len(stock.records) // 4,
            len(stock.rejects),
            images - len(stock.records) // 4 - len(stock.rejects),
            server.asked.total(),
            sum(server.met[fault] for fault in UNPAID),
            server.wasted.total(),
            overpaid(server),
            kills * CONCURRENCY,
            len(made.leaks()),
            f"{seconds:.0f}",
        )
        met = ", ".join(f"{fault} {server.met[fault]}" for fault in Fault)
    print(*cells, file=sys.stderr)
    return f"| {' | '.join(map(str, cells))} |", f"- {provider}, {kills} kills: {met}"


def report(images: int, seed: int, rows: list[str], met: list[str]) -> str:
    """The result file."""
    head = [
        f"# `generate captions` over {images:,} images, with a teacher that misbehaves",
        "",
        f"`python -m benchmarks.teacher_stress --images {images} --seed {seed}`, "
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}; "
        f"{CONCURRENCY} requests at a time, through the SDKs of both providers, against a server "
        f"on the same machine; {BROKEN} of the images can't be decoded. A kill is a kill -9 of the "
        "process group at a random moment, after which the same command goes on.",
        "",
        "| provider | kills | images with four texts | rejects with a reason | lost | requests | "
        "without a whole answer | answers no one can use | paid twice | bound | keys found | "
        "seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    tail = [
        "",
        "Paid twice: good answers beyond one an image; what was under way at a kill may have been "
        "answered without anyone to hear it, so the bound is the number of requests at a time for "
        "each kill, and 0 without one. Keys found: files of the output and outputs of the "
        "processes that hold the key. Every record was checked to be about its own image.",
        "",
        "What went wrong, by requests:",
        "",
    ]
    return "\n".join([*head, *rows, *tail, *met]) + "\n"


if __name__ == "__main__":
    main()
