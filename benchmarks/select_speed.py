"""Time and memory of `select` beside the published selection: python -m benchmarks.select_speed

    python -m benchmarks.select_speed [--rows 2600000] [--rounds 3] [--pandas PYTHON]
    python -m benchmarks.select_speed --rows 50000000 --alone

Makes a pool (ratings with many ties, styles, 90 sources) as a rating table in the layout of a run
and as the published code's files. Then the contestants take turns, each in a process of its own,
imports included: ours from the table, ours from the result files with the subset written, and the
published selection in pandas, first and cached. All must choose the same. --pandas names a Python
that has pandas. --alone: from the table only, at growing sizes.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import NormalDist
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from mmsieve import tables
from mmsieve.labels import CAPABILITIES, STYLES

SHARD_ROWS = 4096
BLOCK = 1 << 16
RATIO = "0.3"
LIMIT_GB = 1.5
STYLE_SHARES = (0.16, 0.02, 0.1, 0.22, 0.1, 0.15, 0.03, 0.17, 0.05)
SCORE_SHARES = (0.22, 0.12, 0.16, 0.22, 0.2, 0.08)
SOURCES = [f"source{n:02d}({'llava' if n % 3 else 'cauldron,llava'}_format)" for n in range(90)]
RECORDED = "recorded for the published script: 2.6 million rows, 109 s and 5.2 GB cached, 259 s "
RECORDED += "and 6.7 GB the first time"


def main() -> None:
    """Make the pool, run the rounds, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_600_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pandas", default=sys.executable, help="a Python that has pandas")
    parser.add_argument("--alone", action="store_true", help="ours from the table, growing")
    parser.add_argument("--folder", type=Path, help="where to make the pool; kept afterwards")
    parser.add_argument("--out", type=Path, help="result file; by default results/ and the date")
    options = parser.parse_args()
    kind = "growth" if options.alone else "speed"
    name = f"select_{kind}_{datetime.now(UTC).date().isoformat()}.md"
    with TemporaryDirectory(prefix="mmsieve-bench-") as temporary:
        folder = options.folder or Path(temporary)
        body = growth(folder, options.rows) if options.alone else duel(folder, options)
    out = options.out or Path(__file__).parent / "results" / name
    out.parent.mkdir(exist_ok=True)
    out.write_text("\n".join([*heading(options), *body]) + "\n")
    print(out.read_text())


def duel(folder: Path, options: argparse.Namespace) -> list[str]:
    """Ours and the published selection, in turns; the lines of the result table."""
    make_pool(folder, options.rows, with_results=True)
    os.sync()  # or the pool is still being written while the first contestant runs
    crew = list(contestants(folder, options.pandas))
    taken: dict[str, list[Taken]] = {name: [] for name, _ in crew}
    for number in range(options.rounds):
        for name, command in crew:
            taken[name].append(measured(command, folder))
            print(f"round {number + 1}: {name}: {taken[name][-1]}", file=sys.stderr, flush=True)
    same_picks(folder)
    medians = {name: statistics.median(r.seconds for r in runs) for name, runs in taken.items()}
    base = {"table": "published, cached", "files": "published, first"}
    lines = [
        "| contestant | seconds (median; all) | CPU seconds | peak GB | times faster |",
        "|---|---|---|---|---|",
    ]
    for name, runs in taken.items():
        seconds = ", ".join(f"{run.seconds:.1f}" for run in runs)
        busy = ", ".join(f"{run.busy:.1f}" for run in runs)
        against = next((b for word, b in base.items() if word in name), None)
        factor = "" if against is None else f"{medians[against] / medians[name]:.1f} x {against}"
        peak = max(run.gigabytes for run in runs)
        lines.append(
            f"| {name} | {medians[name]:.1f}; {seconds} | {busy} | {peak:.2f} | {factor} |"
        )
    return [*lines, "", f"All choose the same samples. For comparison, {RECORDED}."]


def growth(folder: Path, rows: int) -> list[str]:
    """Ours from tables of growing sizes; the lines of the result table."""
    lines = [
        "| rows | seconds | CPU seconds | peak GB | CPU microseconds a row |",
        "|---|---|---|---|---|",
    ]
    for size in (rows // 16, rows // 4, rows):
        place = folder / str(size)
        make_pool(place, size, with_results=False)
        run = measured(from_table(place), place)
        numbers = f"{run.seconds:.1f} | {run.busy:.1f} | {run.gigabytes:.2f}"
        lines.append(f"| {size:,} | {numbers} | {run.busy / size * 1e6:.2f} |")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def contestants(folder: Path, pandas: str) -> Iterator[tuple[str, list[str]]]:
    """Name and command of each; the published one's first run makes the cache of the next."""
    published = str(Path(__file__).parent / "contestants" / "published_select.py")
    loop = [pandas, published, str(folder), RATIO]
    words = ["res", "--data", "qas.json", "--subset", "ours.json", "--out", "keep_files"]
    yield "mmsieve, from the table", from_table(folder)
    yield "published, first", [*loop, str(folder / "theirs.json"), "first"]
    yield "mmsieve, from the files", command_of(words)
    yield "published, cached", [*loop, str(folder / "theirs.json"), "cached"]


def from_table(folder: Path) -> list[str]:
    """The command that chooses from the table."""
    return command_of(["ratings", "--out", "keep"])


def command_of(words: Sequence[str]) -> list[str]:
    start = [sys.executable, "-m", "mmsieve", "select", *words]
    return [*start, "--budget", RATIO, "--overwrite", "--quiet"]


class Taken(NamedTuple):
    """What one process took."""

    seconds: float
    busy: float
    """CPU seconds, user and system."""
    gigabytes: float
    """Largest resident set."""


def measured(command: Sequence[str], folder: Path) -> Taken:
    """Run one process; stops where it fails."""
    started = time.monotonic()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, cwd=folder, env=environment
    ) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command}: exit {process.returncode}")
    seconds, busy = time.monotonic() - started, usage.ru_utime + usage.ru_stime
    return Taken(seconds, busy, usage.ru_maxrss * 1024 / 1e9)


def same_picks(folder: Path) -> None:
    """Stop where the contestants didn't choose the same samples."""
    theirs = {str(item["idx"]) for item in json.loads((folder / "theirs.json").read_text())}
    ours = {str(item["idx"]) for item in json.loads((folder / "ours.json").read_text())}
    kept = pl.scan_parquet(folder / "keep" / "*.parquet").filter("keep").select("key").collect()
    if not theirs == ours == set(kept["key"]):
        raise SystemExit("the contestants chose different samples")


def heading(options: argparse.Namespace) -> list[str]:
    """What was measured, and where."""
    alone = " --alone" if options.alone else f" --rounds {options.rounds}"
    return [
        f"# `select`: {options.rows:,} rows, {len(CAPABILITIES)} capabilities, budget {RATIO}",
        "",
        f"`python -m benchmarks.select_speed --rows {options.rows}{alone}`, "
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}; table files of {SHARD_ROWS:,} rows. Seconds of the whole "
        "process, imports included; peak: its largest resident set (`ru_maxrss`); ours is to stay "
        f"below {LIMIT_GB:g} GB.",
        "",
    ]


def make_pool(folder: Path, rows: int, with_results: bool) -> None:
    """Write the rating table, and the published code's files; the same for every run."""
    if (folder / "ratings").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    names = [*CAPABILITIES, "style"] if with_results else []
    (folder / "res").mkdir(exist_ok=True)
    files = {name: (folder / "res" / f"{name}.jsonl").open("w") for name in names}
    items = (folder / "qas.json").open("w")
    for start in range(0, rows, BLOCK):
        count = min(BLOCK, rows - start)
        keys = 3 * np.arange(start, start + count)
        random.shuffle(keys)
        columns = drawn(random, count)
        write_table(folder / "ratings", start, keys, columns)
        if with_results:
            write_items(items, start, keys, columns["image_source"])
            for name, file in files.items():
                values = (
                    [", ".join(each) for each in columns["styles"].to_pylist()]
                    if name == "style"
                    else columns[name]
                )
                file.writelines(
                    f'{{"idx": {key}, "pred_response": "{value}"}}\n'
                    for key, value in zip(keys.tolist(), values, strict=True)
                )
    items.write("]")
    for file in (items, *files.values()):
        file.close()


def drawn(random: np.random.Generator, count: int) -> dict[str, pa.Array | npt.NDArray[np.int8]]:
    """Ratings that share a part of their noise, one to three styles, sources of all sizes."""
    common = random.normal(size=count) * 0.5
    edges = np.array([NormalDist(0, 1.118).inv_cdf(s) for s in np.cumsum(SCORE_SHARES)[:-1]])
    columns: dict[str, pa.Array | npt.NDArray[np.int8]] = {
        name: np.searchsorted(edges + (n - 7) * 0.06, common + random.normal(size=count)).astype(
            np.int8
        )
        for n, name in enumerate(CAPABILITIES)
    }
    weighted = np.log(random.random((count, len(STYLES)))) / np.array(STYLE_SHARES)
    sizes = random.choice([1, 2, 3], count, p=[0.62, 0.3, 0.08])
    first = np.argsort(-weighted, axis=1)[np.arange(len(STYLES)) < sizes[:, None]]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    columns["styles"] = pa.ListArray.from_arrays(offsets, pa.array(STYLES).take(pa.array(first)))
    shares = 1 / np.arange(1, len(SOURCES) + 1)
    source = random.choice(len(SOURCES), count, p=shares / shares.sum())
    columns["image_source"] = pa.array(SOURCES).take(pa.array(source))
    return columns


def write_table(folder: Path, start: int, keys: np.ndarray, columns: dict[str, pa.Array]) -> None:
    """The files of one block of rows, as `rate` cuts and writes them."""
    rows = len(keys)
    head = {
        "key": pa.array(keys).cast(pa.string()),
        "status": pa.array(["ok"] * rows),
        "error": pa.nulls(rows, pa.string()),
        "uid": pa.nulls(rows, pa.string()),
    }
    whole = pa.table(head | columns)
    for at in range(0, rows, SHARD_ROWS):
        shard = f"qas-{(start + at) // SHARD_ROWS:06d}"
        part = whole.slice(at, SHARD_ROWS)
        part = part.add_column(1, "shard", pa.array([shard] * part.num_rows))
        header = tables.Header(
            kind="ratings", version="0", shard=shard, size=1 << 28, rows=part.num_rows
        )
        tables.write_file(folder / f"{shard}.parquet", part, header)


def write_items(file: object, start: int, keys: np.ndarray, sources: pa.Array) -> None:
    """The items of one block, with short conversations."""
    lines = [
        json.dumps(
            {
                "id": f"s{key}",
                "idx": key,
                "image": f"{key}.jpg",
                "image_source": source,
                "conversations": [
                    {"from": "human", "value": f"<image>\nWhat is shown in {key}?"},
                    {"from": "gpt", "value": f"Item {key % 97}."},
                ],
            }
        )
        for key, source in zip(keys.tolist(), sources.to_pylist(), strict=True)
    ]
    file.write(("[" if start == 0 else ",\n") + ",\n".join(lines))  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
