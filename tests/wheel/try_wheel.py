"""The wheel in an empty environment, in another folder: from nothing to scores in three commands.

`make wheel-test` runs it: python -m tests.wheel.try_wheel --python python3.11. What is installed
comes through pip's own settings, so a cache or a mirror serves too; the download is not counted.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from zipfile import ZipFile

from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[2]
MOST_BYTES = 20_000_000
"""Of the wheel, three quarters of which are the bundled checkpoints."""
MOST_SECONDS = 300
"""From an empty environment to scores, after the download."""


def main() -> None:
    """Build, download, install, run; ends with an error where anything is not as promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", default=sys.executable, help="makes the empty environment")
    python = parser.parse_args().python
    with tempfile.TemporaryDirectory(prefix="first hour ") as folder:  # a space, as people have
        try_wheel(Path(folder), python)


def try_wheel(folder: Path, python: str) -> None:
    """All of it, in an empty folder."""
    wheel = build(folder / "dist")
    size = wheel.stat().st_size
    assert size < MOST_BYTES, f"{wheel.name} has {size:,} bytes, at most {MOST_BYTES:,} are meant"
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    packages = folder / "packages"
    built = ["--only-binary", ":all:"]  # a package without a wheel would want a compiler
    words = [sys.executable, "-m", "pip", "download", "-q", "-d", packages, *built]
    run([*words, *constraints, wheel])
    write_pictures(folder / "elsewhere" / "my pictures")

    started = time.monotonic()
    run([python, "-m", "venv", folder / "venv"])
    commands = folder / "venv" / "bin"
    offline = ["--no-index", "--find-links", packages]
    install = [commands / "python", "-m", "pip", "install", "-q", *offline, *constraints, "mmsieve"]
    run(install, bare=commands)
    seen = try_commands(commands, folder / "elsewhere")
    seconds = time.monotonic() - started
    assert seconds < MOST_SECONDS, f"{seconds:.0f} s to the first scores"
    print(f"{wheel.name}: {size:,} bytes; {seconds:.0f} s to {seen}")

    command = commands / "mmsieve"
    said = run([command, "doctor", "--offline"], folder / "elsewhere", bare=commands)
    assert "device: cpu" in said
    assert "problem" not in said
    said = run(
        [command, "demo", "--count", "60", "--out", "d"], folder / "elsewhere", bare=commands
    )
    assert "were not read back, for want of webdataset" in said
    assert (folder / "elsewhere" / "d" / "report.html").stat().st_size > 10_000
    print("mmsieve doctor and mmsieve demo run, too")


def try_commands(commands: Path, folder: Path) -> str:
    """Look at a folder of pictures and texts, score it, make the page; returns the counts."""
    command, model = commands / "mmsieve", ["--model", "unifilter-tiny"]
    said = run([command, "look", "my pictures"], folder, bare=commands)
    assert re.search(r"captions, 3 samples", said), said
    said = run([command, "score", "my pictures", *model, "--out", "scores"], folder, bare=commands)
    assert re.search(r"^3 rows of 1 shard", said, re.M), said
    run([command, "report", "scores", "my pictures", "--out", "page.html"], folder, bare=commands)
    assert (folder / "page.html").stat().st_size > 10_000
    return said.splitlines()[-1]


def build(folder: Path) -> Path:
    """The wheel of this checkout."""
    words = ["--no-deps", "--no-build-isolation", "-q", "-w", folder]
    run([sys.executable, "-m", "pip", "wheel", *words, ROOT])
    (wheel,) = folder.glob("mmsieve-*.whl")
    with ZipFile(wheel) as files:
        assert "mmsieve/py.typed" in files.namelist()
    return wheel


def write_pictures(folder: Path) -> None:
    """Three pictures with a text each, as somebody has them."""
    folder.mkdir(parents=True)
    for name in ("red", "green", "blue"):
        picture = Image.new("RGB", (320, 240), "white")
        ImageDraw.Draw(picture).ellipse((60, 40, 260, 200), fill=name)
        picture.save(folder / f"{name}.jpg")
        (folder / f"{name}.txt").write_text(f"A {name} disc on white.\n", "utf-8")


def run(words: list[object], folder: Path | None = None, bare: Path | None = None) -> str:
    """What a command prints; with `bare`, it sees no other programs: no compiler, no git."""
    environment = dict(os.environ)
    if bare is not None:
        environment = {"PATH": str(bare), "HOME": str(bare.parent), "HF_HUB_OFFLINE": "1"}
    print("$", *words, flush=True)
    done = subprocess.run(
        list(map(str, words)),
        cwd=folder or tempfile.gettempdir(),
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=900,
    )
    return done.stdout


if __name__ == "__main__":
    main()
