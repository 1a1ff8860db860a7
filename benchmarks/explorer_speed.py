"""How large and how quick a page over many rows is: python -m benchmarks.explorer_speed

    python -m benchmarks.explorer_speed [--rows 10000000] [--cards 2000]

Makes a table of normal scores with four levels, a second table of CLIP scores, and tars that hold
the samples that the page shows, of 512 x 384 pixels each. Then `report` in a process of its own:
seconds, peak memory and bytes of the page. In Chromium: seconds to the first paint, seconds until
texts and pictures are there, and milliseconds from a move of the pointer on the cut until all that
follows it is drawn.
"""

import argparse
import io
import os
import platform
import resource
import statistics
import subprocess
import sys
import tarfile
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pyarrow as pa
from PIL import Image

from mmsieve import tables
from mmsieve.reporting.explorer.explorer import find_explorers
from mmsieve.reporting.inputs import sort_inputs
from mmsieve.tables import Header
from tests.helpers.browsing import BROWSER

SHARDS = 200
SIZE = (512, 384)
SEED = 1


def main() -> None:
    """Make, measure, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--cards", type=int, default=2000)
    parser.add_argument("--out", type=Path, help="result file; by default results/ and the date")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="mmsieve-bench-") as temporary:
        folder = Path(temporary)
        made = [make_table(folder / name, options.rows) for name in ("quality", "clip")]
        make_tars(folder / "pool", [str(path) for path in made], options.cards)
        lines = measure(folder, [*map(str, made), str(folder / "pool")], options.cards)
    day = datetime.now(UTC).date().isoformat()
    out = options.out or Path(__file__).parent / "results" / f"explorer_speed_{day}.md"
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    command = f"python -m benchmarks.explorer_speed --rows {options.rows} --cards {options.cards}"
    heading = [f"# A page over {options.rows:,} rows", "", f"{day}, {machine}", "", f"`{command}`"]
    out.write_text("\n".join([*heading, "", *lines]) + "\n")
    print(out.read_text())


def make_table(folder: Path, rows: int) -> Path:
    """A table of scores; the two that are made have the same keys."""
    dice = np.random.default_rng(SEED)
    for number in range(SHARDS):
        shard, count = f"part{number % 4}/{number:05d}", rows // SHARDS
        scores = dice.normal(1.5, 0.8, count).astype(np.float32)
        columns: dict[str, object] = {
            "key": [f"{number:05d}{row:06d}" for row in range(count)],
            "shard": [shard] * count,
            "status": np.where(dice.random(count) < 0.02, "image_undecodable", "ok"),
            "error": pa.nulls(count, pa.string()),
            "uid": pa.nulls(count, pa.string()),
        }
        if folder.name == "quality":
            levels = np.clip(np.rint(scores), 0, 3).astype(np.int8)
            columns |= {"quality_score": scores, "quality_level": levels}
        else:
            similar = 0.2 + 0.05 * scores + 0.03 * dice.normal(size=count)
            columns |= {"status": ["ok"] * count, "clip_score": similar.astype(np.float32)}
        header = Header(kind="quality", version="0", shard=shard, size=0, rows=count)
        tables.write_file(folder / f"{shard}.parquet", pa.table(columns), header)
    return folder


def make_tars(folder: Path, made: list[str], cards: int) -> None:
    """Tars of the samples that a page shows, with pictures like photographs in their bytes."""
    (one,), _ = find_explorers(sort_inputs(made).tables, cards)
    dice = np.random.default_rng(SEED)
    for (shard,), rows in one.sample.group_by("shard"):
        path = folder / f"{shard}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for key in rows["key"]:
                noise = dice.integers(0, 255, (SIZE[1] // 8, SIZE[0] // 8, 3), np.uint8)
                buffer = io.BytesIO()
                Image.fromarray(noise).resize(SIZE, Image.Resampling.BICUBIC).save(buffer, "jpeg")
                text = f"caption of {key}, with some words about what is in the picture"
                for name, data in (("jpg", buffer.getvalue()), ("txt", text.encode())):
                    member = tarfile.TarInfo(f"{key}.{name}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def measure(folder: Path, inputs: list[str], cards: int) -> list[str]:
    """The lines of the result."""
    page = folder / "page.html"
    words = ["report", *inputs, "--out", str(page), "--cards", str(cards), "--quiet"]
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "mmsieve", *words], check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    rows = pl.scan_parquet(folder / "quality" / "**" / "*.parquet").select(pl.len()).collect()
    lines = [
        "| what | measured |",
        "|---|---|",
        f"| rows | {rows.item():,} in each of two tables |",
        f"| report | {seconds:.0f} s ({used.ru_utime + used.ru_stime:.0f} CPU s) |",
        f"| peak memory | {used.ru_maxrss / 1e6:.2f} GB |",
        f"| page | {page.stat().st_size / 1e6:.1f} MB |",
    ]
    return lines if BROWSER is None else [*lines, *browse(page)]


DRAG = """async () => {
  const box = document.querySelector('.histogram');
  const {left, top, width} = box.getBoundingClientRect();
  const frame = () => new Promise(requestAnimationFrame);
  const send = (kind, share) => box.dispatchEvent(new PointerEvent(kind, {
    bubbles: true, button: 0, pointerId: 1, clientX: left + width * share, clientY: top + 60}));
  box.setPointerCapture = () => {};
  send('pointerdown', 0.3);
  const times = [];
  for (let step = 0; step < 60; step++) {
    await frame();
    const start = performance.now();
    send('pointermove', 0.3 + 0.5 * step / 60);
    await frame();
    document.body.getBoundingClientRect();
    times.push(performance.now() - start);
  }
  send('pointerup', 0.8);
  return times;
}"""


def browse(page_file: Path) -> list[str]:
    """What Chromium needs."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(page_file.as_uri())
        page.wait_for_selector("html[data-ready]")
        ready = page.evaluate("performance.now()") / 1000
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        times = page.evaluate(DRAG)
        browser.close()
    return [
        f"| first contentful paint | {paint / 1000:.2f} s |",
        f"| texts and pictures there | {ready:.2f} s |",
        f"| a move of the cut, until drawn | {statistics.median(times):.0f} ms median, "
        f"{max(times):.0f} ms most, of {len(times)} |",
    ]


if __name__ == "__main__":
    main()
