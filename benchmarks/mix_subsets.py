"""Whether subsets of a large mix are the chosen items, exactly: python -m benchmarks.mix_subsets

    python -m benchmarks.mix_subsets [--items 665298] [--ids 415000] [--folder DIR] [--forms json]

Makes a mix of the size and with the repeated ids of LLaVA's 665k, as a JSON list, as JSON lines and
as Parquet, each as one file and as five, and rating tables with random numbers in the place of a
model's. Then `select` writes subsets of 200, 5,000 and 30 % by every strategy, a process each. The
items of a subset must be those that the decisions keep, in their order, to the byte (Parquet: with
equal rows and schema). Prints the largest memory and the CPU time of each form.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from mmsieve import ReadOptions, tables
from mmsieve.identity import identify
from mmsieve.labels import CAPABILITIES, STYLES
from mmsieve.read.shards import split_files
from mmsieve.selection.options import Strategy
from mmsieve.sources import find_files

BUDGETS = ("200", "5000", "0.3")
FORMS = ("json", "jsonl", "parquet")
SHARES = (0.43, 0.3, 0.17, 0.08, 0.02)
"""Of the items, in five files."""
LIMIT_GB = 1.0
SOURCES = ("coco", "gqa", "ocr_vqa", "textvqa", "vg", None)


def main() -> None:
    """Make the mixes, choose and compare, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=665_298)
    parser.add_argument("--ids", type=int, default=415_000)
    parser.add_argument("--forms", nargs="*", default=FORMS)
    parser.add_argument("--folder", type=Path, help="where to work; kept afterwards")
    parser.add_argument("--out", type=Path, help="result file; by default results/ and the date")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="mmsieve-bench-") as temporary:
        rows = list(compare(options.folder or Path(temporary), options))
    day = datetime.now(UTC).date().isoformat()
    out = options.out or Path(__file__).parent / "results" / f"mix_subsets_{day}.md"
    out.write_text("\n".join([*heading(options, day), *rows]) + "\n")
    print(out.read_text())


def heading(options: argparse.Namespace, day: str) -> list[str]:
    """What was measured, and how."""
    return [
        f"# Subsets of a mix of {options.items:,} items with {options.ids:,} ids",
        "",
        f"`python -m benchmarks.mix_subsets`, {day}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}. Random ratings in tables of {4096:,} rows. Subsets of "
        f"{', '.join(BUDGETS)} by each of {', '.join(get_args(Strategy))}. Every subset was "
        "compared with the decisions item by item. Peak: the largest resident set of any of the "
        f"processes (`ru_maxrss`); it is to stay below {LIMIT_GB:g} GB.",
        "",
        "| form | files of --data | bytes | subsets, all exact | peak GB | CPU seconds, most |",
        "|---|---|---|---|---|---|",
    ]


def compare(folder: Path, options: argparse.Namespace) -> Iterator[str]:
    """A line of the result table for each form and number of files."""
    for form in options.forms:
        for shares in ((1.0,), SHARES):
            place = folder / f"{form}{len(shares)}"
            data = make_mix(place / "mix", form, shares, options.items, options.ids)
            rate_at_random(place / "ratings", data)
            taken = [
                choose(place, data, strategy, budget)
                for strategy in get_args(Strategy)
                for budget in BUDGETS
            ]
            peak = max(peak for peak, _ in taken)
            assert peak < LIMIT_GB, f"{place}: {peak} GB"
            size = sum(path.stat().st_size for path in data)
            seconds = max(seconds for _, seconds in taken)
            line = (
                f"| {form} | {len(data)} | {size:,} | {len(taken)} | {peak:.2f} | {seconds:.1f} |"
            )
            print(line, file=sys.stderr, flush=True)
            yield line


# The mix: an item is a function of its number, so that any can be made again


def item(number: int, items: int, ids: int) -> str:
    """An item as text, unlike all others; the ids that come again are spread over all."""
    key = number * 7919 % items % ids
    turns = []
    for turn in range(1 + number % 4):
        asked = f"What is at {number}.{turn}?"
        turns.append({"from": "human", "value": asked if turn else f"<image>\n{asked}"})
        said = f'Caf\u00e9 {number} \u2014 "{turn}"\n' + "A kiln and an oven. " * (number % 7)
        turns.append({"from": "gpt", "value": said})
    fields = {
        "id": f"{key:012d}",
        "image": f"{SOURCES[number % 5]}/{key}.jpg",
        "conversations": turns,
        "number": number,
    }
    return json.dumps(fields, ensure_ascii=number % 2 == 0)


def make_mix(
    folder: Path, form: str, shares: tuple[float, ...], items: int, ids: int
) -> list[Path]:
    """The files of a mix, each with its share of the items."""
    folder.mkdir(parents=True, exist_ok=True)
    bounds = [0, *(int(items * sum(shares[: n + 1])) for n in range(len(shares) - 1)), items]
    paths = []
    for part, (start, stop) in enumerate(pairwise(bounds)):
        paths.append(folder / f"part{part}.{form}")
        if not paths[-1].exists():
            write_part(paths[-1], form, range(start, stop), items, ids)
    return paths


def write_part(path: Path, form: str, numbers: range, items: int, ids: int) -> None:
    """One file of a mix."""
    if form == "parquet":
        schema = pa.Table.from_pylist([json.loads(item(1, items, ids))]).schema
        schema = schema.with_metadata({"huggingface": '{"info": {}}'})
        with pq.ParquetWriter(path, schema) as writer:
            for first in range(0, len(numbers), 5000):
                rows = (json.loads(item(n, items, ids)) for n in numbers[first : first + 5000])
                writer.write_table(pa.Table.from_pylist(list(rows), schema=schema))
        return
    before, between, after = ("[\n", ",\n", "\n]") if form == "json" else ("", "\n", "\n")
    with path.open("w") as file:
        file.write(before)
        for number in numbers:
            file.write((between if number > numbers[0] else "") + item(number, items, ids))
        file.write(after)


def rate_at_random(folder: Path, data: list[Path]) -> None:
    """A rating table as `rate` writes it, random numbers in it."""
    if folder.exists():
        return
    random = np.random.default_rng(0)
    files = find_files([str(path) for path in data])
    read = ReadOptions(kinds=("instruction",), images=data[0].parent)
    for shard in split_files(files.files, read):
        count = (shard.stop or 0) - shard.start
        places = range(shard.start, shard.start + count)
        is_ok = random.random(count) < 0.98
        columns = {
            tables.PLACE: pa.array(places, pa.int64()),
            "key": pa.array([f"{random.integers(1000)}" for _ in places]),
            "shard": pa.array([shard.name] * count),
            "status": pa.array(np.where(is_ok, "ok", "image_missing")),
            "error": pa.array([None] * count, pa.string()),
            "image_source": pa.array([SOURCES[n] for n in random.integers(0, 6, count)]),
            "styles": pa.array([[STYLES[n]] for n in random.integers(0, 9, count)]),
        }
        for name in CAPABILITIES:
            columns[name] = pa.array(random.integers(0, 6, count).astype(np.int8), mask=~is_ok)
        header = tables.Header(
            kind="ratings",
            version=tables.product_version(),
            shard=shard.name,
            size=shard.size,
            rows=count,
            start=shard.start,
            source=replace(identify(shard.url)),
        )
        tables.write_file(folder / f"{shard.name}.parquet", pa.table(columns), header)


# Choosing, and what was chosen


def choose(place: Path, data: list[Path], strategy: str, budget: str) -> tuple[float, float]:
    """Run `select` and compare its subset with its decisions; GB at the peak, CPU seconds."""
    keep = place / f"keep-{strategy}-{budget}"
    in_folder = len(data) > 1 and budget != "200"
    subset = place / f"subset-{strategy}-{budget}"
    subset = subset if in_folder else subset.with_name(subset.name + "s" + data[0].suffix)
    words = ["-m", "mmsieve", "select", place / "ratings", "--budget", budget, "--out", keep]
    words += ["--strategy", strategy, "--subset", subset, "--overwrite", "--quiet"]
    for path in data:
        words += ["--data", path]
    begin = time.monotonic()
    with Path(os.devnull).open("w") as nothing:
        actions = [(os.POSIX_SPAWN_DUP2, nothing.fileno(), 1)]
        command = [sys.executable, *map(str, words)]
        process = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions)
        _, status, used = os.wait4(process, 0)
    assert status == 0, " ".join(map(str, words))
    count = check(keep, data, [subset / path.name for path in data] if in_folder else [subset])
    what = f"{place.name} {strategy} {budget}: {count} items in {time.monotonic() - begin:.0f} s"
    print(what, file=sys.stderr, flush=True)
    return used.ru_maxrss / 1e6, used.ru_utime + used.ru_stime


def check(keep: Path, data: list[Path], subsets: list[Path]) -> int:
    """Compare subsets with what decisions keep; returns the number of items."""
    rows = pl.concat(map(pl.read_parquet, sorted(keep.glob("*.parquet")))).filter("keep")
    wanted = {
        path: np.sort(
            rows.filter(pl.col("shard").str.starts_with(f"{path.stem}-"))["place"].to_numpy()
        )
        for path in data
    }
    assert sum(map(len, wanted.values())) == len(rows)
    if len(subsets) == len(data):
        for subset, path in zip(subsets, data, strict=True):
            compare_items(subset, [(path, wanted[path])])
    else:
        compare_items(subsets[0], [(path, wanted[path]) for path in data])
    return len(rows)


def compare_items(subset: Path, chosen: list[tuple[Path, np.ndarray]]) -> None:
    """Assert that a subset is the items at some places of some files, and nothing else."""
    if subset.suffix == ".parquet":
        pieces = [pq.read_table(path).take(pa.array(places)) for path, places in chosen]
        made = pq.read_table(subset)
        assert made.equals(pa.concat_tables(pieces)), subset
        assert made.schema.equals(pieces[0].schema, check_metadata=True), subset
        return
    made = iter(lines_of(subset))
    for path, places in chosen:
        left = iter(places.tolist())
        wanted = next(left, None)
        for place, line in enumerate(lines_of(path)):
            if place == wanted:
                assert next(made, None) == line, (subset, path, place)
                wanted = next(left, None)
        assert wanted is None
    assert next(made, None) is None, subset


def lines_of(path: Path) -> Iterator[str]:
    """The items of a file that has one a line, as a list or not."""
    with path.open() as file:
        for line in file:
            if (text := line.rstrip("\n").removesuffix(",")) not in ("[", "]"):
                yield text


if __name__ == "__main__":
    main()
