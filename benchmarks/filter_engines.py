"""`filter`, which DuckDB computes, against polars' streaming engine and an earlier `filter`.

    python -m benchmarks.filter_engines --rows 4000000 --before ../mmsieve-of-before

Each engine makes the same cuts of the same tables, each in a process of its own. What is measured:
CPU seconds (user and system, all threads) and the largest resident set of the process; whether the
decisions are equal, row by row, to those of the first engine: with --before, a checkout of an
earlier version, that is the version of before, whose CPU seconds the others are also compared with.
"""

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from benchmarks.filter_memory import SHARD_ROWS, make_tables
from mmsieve.tables import table_files

ENGINES = ("before", "ours", "polars")
LIMIT_GB = 1.0
LIMIT_CPU = 2.0

Variant = tuple[str, list[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--only", nargs="+", help="words that the names of the cuts begin with")
    parser.add_argument("--before", type=Path, help="a checkout of the version to compare with")
    parser.add_argument("--folder", type=Path, help="where to make the tables; kept afterwards")
    parser.add_argument("--out", type=Path, help="result file; by default results/ and the date")
    options = parser.parse_args()
    if options.before is None:
        options.engines = [engine for engine in options.engines if engine != "before"]
    day = datetime.now(UTC).date().isoformat()
    out = options.out or Path(__file__).parent / "results" / f"filter_engines_{day}.md"
    with TemporaryDirectory(prefix="mmsieve-bench-") as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "others.parquet").exists():
            make_tables(folder, options.rows)
        lines = [
            line
            for variant in variants(folder)
            if not options.only or variant[0].startswith(tuple(options.only))
            for line in compare(variant, options, folder)
        ]
    text = report(options.rows, lines)
    with out.open("a") as file:  # one file for all sizes
        file.write(text)
    print(text)


def variants(folder: Path) -> Iterator[Variant]:
    """Name and arguments of each cut."""
    scores, others = str(folder / "scores"), str(folder / "others.parquet")
    fraction = ["--top-fraction", "0.3"]
    yield "min score", [scores, "--min-score", "1.5"]
    yield "top fraction", [scores, *fraction]
    yield "ties (4 values)", [scores, *fraction, "--by", "quality_level"]
    yield "groups (1,000)", [scores, *fraction, "--per", "source"]
    yield "ties in groups", [scores, *fraction, "--by", "quality_level", "--per", "source"]
    yield "join by uid", [scores, others, *fraction, "--where", "other_score > 0.5", "--on", "uid"]


def compare(variant: Variant, options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """The result table's rows of one cut."""
    name, words = variant
    first: tuple[str, float] | None = None
    for engine in options.engines:
        peak, busy, problem = run(engine, words, folder, options.before)
        first = first or (engine, busy)  # what an earlier run left is not compared with
        others = engine != first[0]
        equal = problem or (same(folder / first[0], folder / engine) if others else "-")
        fits = "yes" if peak < LIMIT_GB and busy <= LIMIT_CPU * first[1] else "NO"
        times = f"{busy / first[1]:.2f}"
        line = f"| {name} | {engine} | {busy:.1f} | {times} | {peak:.2f} | {fits} | {equal} |"
        print(line, file=sys.stderr, flush=True)
        yield line


def run(
    engine: str, words: list[str], folder: Path, before: Path | None
) -> tuple[float, float, str | None]:
    """Peak gigabytes, CPU seconds and what went wrong in one run."""
    program = ["mmsieve", "filter"]
    if engine == "polars":
        program = ["benchmarks.contestants.filter_with"]
    command = [sys.executable, "-m", *program, *words, "--out", engine, "--overwrite", "--quiet"]
    code = before if engine == "before" and before else Path(__file__).parent.parent
    paths = os.pathsep.join([str(code.absolute()), os.environ.get("PYTHONPATH", "")])
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
    ) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    problem = None
    if process.returncode:
        print(said, file=sys.stderr)
        problem = f"exit {process.returncode}"
    return usage.ru_maxrss * 1024 / 1e9, usage.ru_utime + usage.ru_stime, problem


def same(ours: Path, theirs: Path) -> str:
    """Whether two folders of decisions hold the same rows in the same order."""
    files, others = table_files(ours), table_files(theirs)
    if list(files) != list(others):
        return "other files"
    different = sum(
        not pl.read_parquet(path).equals(pl.read_parquet(others[name]))
        for name, path in files.items()
    )
    return f"{different} files differ" if different else "yes"


def report(rows: int, lines: list[str]) -> str:
    """A section of the result file."""
    head = [
        f"## {rows:,} rows",
        "",
        f"`python -m benchmarks.filter_engines --rows {rows}`, {datetime.now(UTC):%Y-%m-%d}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}, polars {pl.__version__}, "
        f"DuckDB {version('duckdb')}; {rows // SHARD_ROWS:,} files of {SHARD_ROWS:,} rows.",
        "",
        "| cut | engine | CPU seconds | x first | peak GB | within limits | equal rows |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *lines]) + "\n\n"


if __name__ == "__main__":
    main()
