"""The tables of docs/scaling.md, from dated results: python -m benchmarks.scaling_law

Measured are cuts of 50 and 200 million rows (`filter_engines`), memory of `select`
(`select_growth`) and what a row and a sample cost (`row_costs`), all in `results/`; the rest is
arithmetic over them, by the functions below. Prices are constants, with their date and source.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

RESULTS = Path(__file__).parent / "results"

POOLS = {
    "50 million": 50_000_000,
    "200 million": 200_000_000,
    "1 billion": 1_000_000_000,
    "12.8 billion": 12_800_000_000,
}
SHARD_SAMPLES = 10_000
"""Of a tar as img2dataset writes it."""
SAMPLE_BYTES = 35_000
"""DataComp's pools take 450 GB for 12.8 million pairs, 450 TB for 12.8 billion (its README)."""

GPU_RATES = {"published": 130, "by arithmetic": 460}
"""Captions a second of one GPU. Published: UniFilter's paper (arXiv 2510.15162), GPU not named, by
a secondary source. By arithmetic: 0.86 TFLOP a caption (UniFilter-Qwen3-0.6B, one image) at 40% of
989 TFLOP/s. None is measured here."""

GET, PUT, GB_MONTH = 0.0004 / 1000, 0.005 / 1000, 0.023
"""US dollars: S3 Standard in us-east-1, https://aws.amazon.com/s3/pricing/, as of 2024-04 and not
looked up since; traffic within a region costs nothing."""
RANGE = 8_000_000
"""Bytes of a range, where a tar is read by ranges."""


def main() -> None:
    print("\n\n".join(sections()))


def sections() -> Iterator[str]:
    """The page's tables, each as Markdown."""
    costs = read_costs()
    yield table(("rows", "shards", "TB of tars", "table GB", "decisions GB"), sizes(costs))
    heads = (
        "rows",
        *(f"{name}, hours" for name in CUTS),
        "temporary disk, GB",
        "select, GB memory",
    )
    yield table(heads, cuts(costs))
    yield table(
        ("GPU", "image", "cores", "cores, --fast-images", "GPU hours a billion"), cores(costs)
    )
    yield table(("a billion samples", "requests", "US dollars"), requests(costs))


# What was measured


CUTS = {"top fraction": "top fraction", "per group": "groups (1,000)", "join by uid": "join by uid"}
"""Name on the page -> row of the last table of `filter_engines`."""
MEASURED = {50_000_000: "## What followed", 200_000_000: "## 200,000,000 rows"}
"""Rows of cuts that were run -> heading of their table."""


def newest(name: str) -> str:
    """The newest result of a benchmark, as text."""
    return sorted(RESULTS.glob(f"{name}_2*.md"))[-1].read_text("utf-8")


def read_costs() -> dict[str, float]:
    """What a row and a sample cost: `row_costs`."""
    return {
        name: float(value)
        for name, value in re.findall(r"^\| ([^|]+) \| ([\d.]+) \|$", newest("row_costs"), re.M)
    }


def cut_seconds(rows: int) -> dict[str, float]:
    """CPU seconds of each cut of so many rows, which was run, by `filter` as it is."""
    part = newest("filter_engines").partition(MEASURED[rows])[2].partition("\n## ")[0]
    found = dict(re.findall(r"^\| ([^|]+) \| (?:[\d.]+|ours) \| ([\d.]+) \|", part, re.M))
    return {name: float(found[row]) for name, row in CUTS.items()}


def select_memory(wanted: int) -> float:
    """GB of `select` for so many rows: on a line through the fewest and the most that were run."""
    rows = re.findall(
        r"^\| ([\d,]+) \| [\d.]+ \| [\d.]+ \| ([\d.]+) \|", newest("select_growth"), re.M
    )
    points = [(int(count.replace(",", "")), float(gigabytes)) for count, gigabytes in rows]
    (few, low), (many, high) = min(points), max(points)
    return low + (high - low) / (many - few) * (wanted - few)


# What follows


def law(rows: int) -> dict[str, float]:
    """CPU seconds of each cut of so many rows: as run, or from the largest run by n log n.

    It is the larger of two: what isn't sorted grows with n alone.
    """
    if rows in MEASURED:
        return cut_seconds(rows)
    most = max(MEASURED)
    more = rows * math.log(rows) / (most * math.log(most))
    return {name: seconds * more for name, seconds in cut_seconds(most).items()}


def sizes(costs: Mapping[str, float]) -> Iterator[tuple[str, ...]]:
    """Shards and bytes of each pool."""
    for name, rows in POOLS.items():
        tars, table_gb = rows * SAMPLE_BYTES / 1e12, rows * costs["bytes a table row"] / 1e9
        decisions = rows * costs["bytes a decision row"] / 1e9
        shards = f"{rows // SHARD_SAMPLES:,}"
        yield name, shards, shown(tars), shown(table_gb), shown(decisions)


def cuts(costs: Mapping[str, float]) -> Iterator[tuple[str, ...]]:
    """CPU hours of `filter` and its temporary disk, and memory of `select`, by the law."""
    disk = costs["temporary bytes a row, per group"]
    for name, rows in POOLS.items():
        hours = (seconds / 3600 for seconds in law(rows).values())
        gigabytes = (rows * disk / 1e9, select_memory(rows))
        yield name, *map(shown, (*hours, *gigabytes))


def cores(costs: Mapping[str, float]) -> Iterator[tuple[str, ...]]:
    """Cores that prepare captions as fast as a GPU takes them: rate x CPU seconds a caption."""
    for kind, rate in GPU_RATES.items():
        for size in ("512 x 384", "1024 x 768"):
            usual, fast = (
                costs[f"CPU ms a caption, {size}{way}"] for way in ("", ", --fast-images")
            )
            yield (
                f"{rate}/s, {kind}",
                size,
                f"{rate * usual / 1000:.1f}",
                f"{rate * fast / 1000:.1f}",
                f"{1e9 / rate / 3600:,.0f}",
            )


def requests(costs: Mapping[str, float]) -> Iterator[tuple[str, ...]]:
    """Requests at an object store for a billion samples, and what they cost."""
    billion = 1_000_000_000
    shards = billion // SHARD_SAMPLES
    ranges = shards * math.ceil(SHARD_SAMPLES * SAMPLE_BYTES / RANGE)
    counted = (
        ("list the tars, 1,000 names a request", math.ceil(shards / 1000), PUT),
        ("read the tars, each in one GET", shards, GET),
        (f"or in ranges of {RANGE // 1_000_000} MB", ranges, GET),
        ("write the tables, a PUT each", shards, PUT),
        ("cut: read each table (2 GETs), write each decision", 3 * shards, (2 * GET + PUT) / 3),
    )
    for name, count, price in counted:
        yield name, f"{count:,}", f"{count * price:.2f}"
    stored = billion * SAMPLE_BYTES / 1e9 * GB_MONTH
    tables = billion * costs["bytes a table row"] / 1e9 * GB_MONTH
    yield "keep the tars for a month", "-", f"{stored:,.0f}"
    yield "keep the tables for a month", "-", f"{tables:.2f}"


def shown(value: float) -> str:
    """Two digits, more where there are more before the point."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    head = list(heads)
    lines = [f"| {' | '.join(line)} |" for line in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


if __name__ == "__main__":
    main()
