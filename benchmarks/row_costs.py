"""What one sample costs beside the GPU, and one row of a table: python -m benchmarks.row_costs

Bytes of a table's and a decision's row, the temporary disk of a cut by row, and the CPU time of one
caption from its bytes to pixels and token ids, as UniFilter's preparer makes them for 384 pixels.
All small enough for any machine; CPU time is that of one thread.
"""

import argparse
import io
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image as Picture

from benchmarks.filter_memory import SHARD_ROWS, make_tables
from mmsieve import Sample
from mmsieve.methods.load import load_unifilter

SIDE = 384
"""Pixels that google/siglip-so400m-patch14-384 is shown."""
PHOTOS = ((512, 384), (1024, 768))
ROUNDS, PICTURES = 7, 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--out", type=Path, help="result file; by default results/ and the date")
    asked = parser.parse_args()
    day = datetime.now(UTC).date().isoformat()
    out = asked.out or Path(__file__).parent / "results" / f"row_costs_{day}.md"
    head = [
        "# What a row costs",
        "",
        f"`python -m benchmarks.row_costs --rows {asked.rows}`, {day}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}; table files of {SHARD_ROWS:,} rows. Images are drawn "
        "(shapes under noise), captions of 60 tokens or so; "
        f"prepared for {SIDE} pixels, CPU time of one thread, median of {ROUNDS} rounds.",
        "",
        "| what | value |",
        "|---|---|",
    ]
    lines = [f"| {what} | {value} |" for what, value in (*of_tables(asked.rows), *of_samples())]
    text = "\n".join([*head, *lines]) + "\n"
    out.write_text(text)
    print(text)


def of_tables(rows: int) -> Iterator[tuple[str, str]]:
    """Bytes a row: of a table, of decisions, of what a cut keeps on the temporary disk."""
    with TemporaryDirectory(prefix="mmsieve-bench-") as place:
        folder = Path(place)
        make_tables(folder, rows)
        yield "bytes a table row", f"{size_of(folder / 'scores') / rows:.1f}"
        for name, options in (("top fraction", []), ("per group", ["--per", "source"])):
            highest = temporary_disk(folder, ["--top-fraction", "0.3", *options])
            yield f"temporary bytes a row, {name}", f"{highest / rows:.1f}"
        yield "bytes a decision row", f"{size_of(folder / 'keep') / rows:.1f}"


def temporary_disk(folder: Path, options: list[str]) -> int:
    """The most bytes that a cut had in its temporary folder, looked at ten times a second."""
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    words = ["filter", "scores", *options, "--out", "keep", "--overwrite", "--quiet"]
    command = [sys.executable, "-m", "mmsieve", *words]
    highest = 0
    environment = os.environ | {"TMPDIR": str(scratch)}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL) as cut:
        while cut.poll() is None:
            highest = max(highest, size_of(scratch))
            time.sleep(0.1)
    if cut.returncode:
        raise SystemExit(f"filter: exit {cut.returncode}")
    return highest


def size_of(folder: Path) -> int:
    """Bytes of the files of a folder, however they come and go."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += (Path(place) / name).stat().st_size
    return total


def of_samples() -> Iterator[tuple[str, str]]:
    """Milliseconds of one core that a caption takes, by the size of its image and the way."""
    usual = load_unifilter("unifilter-tiny").preparer()
    text = "A red bicycle leans on a white wall beside two wooden chairs and a small table. " * 3
    for fast in (False, True):
        preparer = replace(usual, image=replace(usual.image, size=SIDE), fast=fast)
        for width, height in PHOTOS:
            samples = [Sample.caption(photo(width, height, n), text) for n in range(PICTURES)]
            taken = []
            for _ in range(ROUNDS):
                begin = time.thread_time()
                for sample in samples:
                    preparer.prepare(sample)
                taken.append((time.thread_time() - begin) / PICTURES * 1000)
            way = ", --fast-images" if fast else ""
            value = f"{statistics.median(taken):.1f}"
            yield f"CPU ms a caption, {width} x {height}{way}", value


def photo(width: int, height: int, number: int) -> bytes:
    """A JPEG with as much detail as a photo has, about: soft shapes under some noise."""
    random = np.random.default_rng(number)
    soft = random.integers(0, 255, (height // 32, width // 32, 3), dtype=np.uint8)
    picture = np.asarray(Picture.fromarray(soft).resize((width, height)), np.float32)
    picture += random.normal(0, 6, picture.shape).astype(np.float32)
    out = io.BytesIO()
    Picture.fromarray(picture.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


if __name__ == "__main__":
    main()
