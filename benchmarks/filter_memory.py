"""Memory and time of `filter` on a table of many rows: python -m benchmarks.filter_memory

Makes a quality table in the layout of a run (one file per shard), a second table of the same
shards, and one large Parquet file of somebody else's scores in another order. Then runs the
command, each time in a process of its own, and writes what it took to results/.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmsieve import tables

SHARD_ROWS = 10_000
LIMIT_GB = 1.0
QUALITY = pa.schema(
    [
        *tables.COMMON,
        pa.field("quality_score", pa.float32()),
        pa.field("quality_level", pa.int8()),
        pa.field("num_images", pa.int32()),
        pa.field("num_tokens", pa.int32()),
        pa.field("truncated", pa.bool_()),
        pa.field("source", pa.string()),
    ]
)
CLIP = pa.schema([*tables.COMMON, pa.field("clip_score", pa.float32())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000_000)
    parser.add_argument("--folder", type=Path, help="where to make the tables; kept afterwards")
    parser.add_argument("--out", type=Path, help="result file; by default results/ and the date")
    options = parser.parse_args()
    day = datetime.now(UTC).date().isoformat()
    out = options.out or Path(__file__).parent / "results" / f"filter_memory_{day}.md"
    with TemporaryDirectory(prefix="mmsieve-bench-") as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "others.parquet").exists():
            make_tables(folder, options.rows)
        lines = [run(name, words, folder) for name, words in variants(folder)]
    text = report(options.rows, lines)
    out.parent.mkdir(exist_ok=True)
    out.write_text(text)
    print(text)


def variants(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Name and arguments of each run of `filter`."""
    scores, clip, others = folder / "scores", folder / "clip", folder / "others.parquet"
    fraction = ["--top-fraction", "0.3"]
    yield "top fraction", [str(scores), *fraction]
    yield "top fraction, one file", [str(scores), *fraction, "--out", "keep.parquet"]
    yield "ties (5 values)", [str(scores), *fraction, "--by", "quality_level"]
    yield "per group (1,000 groups)", [str(scores), *fraction, "--per", "source"]
    yield "condition alone", [str(scores), "--where", "quality_score > 1.5 AND num_tokens < 900"]
    where = ["--where", "clip_score > 0.25"]
    yield "two tables of the same shards", [str(scores), str(clip), *fraction, *where]
    other = ["--where", "other_score > 0.5", "--on", "uid"]
    yield "another's file, joined by uid", [str(scores), str(others), *fraction, *other]
    yield "uid file", [str(scores), *fraction, "--format", "datacomp", "--out", "keep.npy"]


def run(name: str, words: list[str], folder: Path) -> str:
    """One row of the result table: peak memory and seconds of one run."""
    if "--out" not in words:
        words = [*words, "--out", "keep"]
    command = [sys.executable, "-m", "mmsieve", "filter", *words, "--overwrite", "--quiet"]
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.monotonic() - started
    if process.returncode:
        raise SystemExit(f"{name}: exit {process.returncode}")
    busy = usage.ru_utime + usage.ru_stime
    gigabytes = usage.ru_maxrss * 1024 / 1e9
    kept = said.strip().splitlines()[-1].partition(" rows kept")[0]
    fits = "yes" if gigabytes < LIMIT_GB else "NO"
    print(f"{name}: {gigabytes:.2f} GB, {seconds:.0f} s, {kept} kept", file=sys.stderr)
    return f"| {name} | {kept} | {gigabytes:.2f} | {fits} | {seconds:.0f} | {busy:.0f} |"


def report(rows: int, lines: list[str]) -> str:
    """The result file."""
    head = [
        f"# Memory of `filter` on {rows:,} rows",
        "",
        f"`python -m benchmarks.filter_memory --rows {rows}`, {datetime.now(UTC):%Y-%m-%d}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}; {rows // SHARD_ROWS:,} files "
        f"of {SHARD_ROWS:,} rows. Peak: the process's largest resident set (`ru_maxrss`). "
        "CPU seconds: user and system, all threads.",
        "",
        f"| cut | rows kept | peak GB | below {LIMIT_GB:g} GB | seconds | CPU seconds |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *lines]) + "\n"


def make_tables(folder: Path, rows: int) -> None:
    """Write the tables; the values are random, the same for every run of this script."""
    random = np.random.default_rng(0)
    names = np.array([f"source-{number:04d}" for number in range(1000)])
    foreign = pa.schema([("uid", pa.string()), ("other_score", pa.float32())])
    folder.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(folder / "others.tmp", foreign) as others:
        waiting: list[pa.Table] = []
        for number in range(rows // SHARD_ROWS):
            shard = f"{number:06d}"
            uid = random_hex(random, SHARD_ROWS)
            common = {
                "key": pa.array([f"{shard}{row:05d}" for row in range(SHARD_ROWS)]),
                "shard": pa.array([shard] * SHARD_ROWS),
                "status": pa.array(["ok"] * SHARD_ROWS),
                "error": pa.nulls(SHARD_ROWS, pa.string()),
                "place": pa.array(range(SHARD_ROWS), pa.int64()),
                "uid": uid,
            }
            score = random.normal(1.5, 0.6, SHARD_ROWS).astype(np.float32)
            quality = common | {
                "quality_score": score,
                "quality_level": np.clip(np.round(score), 0, 3).astype(np.int8),
                "num_images": np.ones(SHARD_ROWS, np.int32),
                "num_tokens": random.integers(200, 1200, SHARD_ROWS, dtype=np.int32),
                "truncated": np.zeros(SHARD_ROWS, bool),
                "source": names[random.integers(0, 1000, SHARD_ROWS)],
            }
            clip = common | {"clip_score": random.uniform(0.1, 0.4, SHARD_ROWS).astype(np.float32)}
            for kind, columns, schema in (("scores", quality, QUALITY), ("clip", clip, CLIP)):
                header = tables.Header(
                    kind=kind, version="0", shard=shard, size=1 << 28, rows=SHARD_ROWS
                )
                made = pa.table(columns, schema)
                tables.write_file(folder / kind / f"{shard}.parquet", made, header)
            other = random.uniform(0, 1, SHARD_ROWS).astype(np.float32)
            waiting.append(pa.table([uid, other], schema=foreign))
            if len(waiting) == 100:
                write_shuffled(others, waiting, random)
                waiting = []
        if waiting:
            write_shuffled(others, waiting, random)
    (folder / "others.tmp").rename(folder / "others.parquet")


def write_shuffled(
    writer: pq.ParquetWriter, tables: list[pa.Table], random: np.random.Generator
) -> None:
    rows = pa.concat_tables(tables)
    writer.write_table(rows.take(random.permutation(rows.num_rows)))


def random_hex(random: np.random.Generator, count: int) -> pa.Array:
    """Strings of 32 hexadecimal digits."""
    offsets = pa.py_buffer(np.arange(0, 32 * count + 1, 32, dtype=np.int32))
    return pa.StringArray.from_buffers(
        count, offsets, pa.py_buffer(random.bytes(16 * count).hex().encode())
    )


if __name__ == "__main__":
    main()
