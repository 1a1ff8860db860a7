"""Runs `generate` as a process of its own against a teacher server, kills it, and takes stock.

Every image shows its own number in black and white blocks, and every answer is written from the
number that the server reads off the image it was sent: so a record whose text has another number
than its key is an answer that went to the wrong image.
"""

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.helpers.shards import write_tar
from tests.helpers.teacher_protocols import Ask, Provider
from tests.helpers.teacher_server import TeacherServer

KEY = "sk-stress-5f8e2d1c9b7a4036"
_BITS, _BLOCK = 16, 8


def draw_number(number: int) -> bytes:
    """A PNG file that shows a number as four rows of four blocks."""
    bits = np.array([number >> bit & 1 for bit in range(_BITS)], np.uint8).reshape(4, 4)
    file = io.BytesIO()
    Image.fromarray(np.kron(bits * 255, np.ones((_BLOCK, _BLOCK), np.uint8))).save(file, "PNG")
    return file.getvalue()


def read_number(image: bytes) -> int:
    """The number that an image shows, in whatever format it has come."""
    with Image.open(io.BytesIO(image)) as opened:
        pixels = np.asarray(opened.convert("L"))[_BLOCK // 2 :: _BLOCK, _BLOCK // 2 :: _BLOCK]
    return sum(1 << bit for bit, value in enumerate(pixels.flat) if value > 127)


def write_images(
    folder: Path, count: int, broken: int = 0, per_tar: int = 500
) -> dict[str, list[int]]:
    """Tars of images with keys that name their numbers; `broken` of them can't be decoded."""
    members = [
        (f"{n:06d}.png", b"not an image" if n < broken else draw_number(n)) for n in range(count)
    ]
    for start in range(0, count, per_tar):
        write_tar(folder / f"{start // per_tar:05d}.tar", members[start : start + per_tar])
    return {f"{n:06d}": [n] for n in range(count)}


def write_documents(folder: Path, count: int) -> dict[str, list[int]]:
    """Folders of images, one to three each: a document is what one folder holds."""
    shown: dict[str, list[int]] = {}
    for document in range(count):
        numbers = [3 * document + place for place in range(document % 3 + 1)]
        place = folder / f"{document:04d}"
        place.mkdir(parents=True)
        for number in numbers:
            (place / f"{number:06d}.png").write_bytes(draw_number(number))
        shown[place.name] = numbers
    return shown


def answer(ask: Ask) -> dict[str, Any]:
    """A good answer about the numbers that are shown."""
    numbers = " and ".join(f"number {read_number(image):06d}" for image in ask.images)
    if "changed" in (ask.schema or {}).get("properties", {}):
        return {
            "positive": f"A red card with {numbers} lies on a table.",
            "changed": {"property": "colour", "right": "red", "wrong": "blue"},
            "hard_negative": f"A blue card with {numbers} lies on a table.",
            "medium_negative": f"Many things with {numbers}, a dog too.",
            "easy_negative": f"The train leaves at noon, {numbers}.",
        }
    marks = "\n\n<image>\n\nIt says so.\n" * len(ask.images)
    return {
        "positive": f"About {numbers}.{marks}",
        "hard_negative": f"Abuot {numbers}.{marks}",
        "medium_negative": f"Somthing on {numbers}.{marks}",
        "easy_negative": f"Trains {numbers} goes.{marks}",
    }


@dataclass
class Generation:
    """One generation, in as many processes as it takes."""

    server: TeacherServer
    provider: Provider
    source: Path
    out: Path
    count: int
    """Texts."""
    what: str = "captions"
    concurrency: int = 16
    options: Sequence[str] = ()
    said: list[str] = field(default_factory=list)
    """All that its processes wrote to stdout and stderr."""

    def command(self) -> list[str]:
        """The command line; the key is not on it."""
        url = self.server.url + ("/v1" if self.provider == "openai" else "")
        return [
            *(sys.executable, "-m", "mmsieve", "generate", self.what, str(self.source)),
            *("--teacher", f"{self.provider}:stress", "--base-url", url, "--out", str(self.out)),
            *("--count", str(self.count), "--concurrency", str(self.concurrency)),
            *self.options,
        ]

    def run(
        self,
        kill_when: Callable[[], bool] | None = None,
        seed: int = 0,
        number: signal.Signals = signal.SIGKILL,
        after: float = 0.0,
    ) -> int:
        """Run to the end, or signal its process group (by default kill -9) at a moment, `after`
        so many seconds, when this is true.
        """
        names = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}
        environment = os.environ | {names[self.provider]: KEY}
        with subprocess.Popen(
            self.command(),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            if kill_when is not None:
                while not kill_when() and process.poll() is None:
                    time.sleep(0.001)
                time.sleep(after + random.Random(seed).uniform(0, 0.02))
                if process.poll() is None:
                    os.killpg(process.pid, number)
            self.said.append(
                process.communicate(timeout=60 if number != signal.SIGKILL else 600)[0]
            )
        return process.returncode

    def stock(self) -> "Stock":
        """What is in the output folder."""
        records = [
            record
            for name in ("train.json", "val.json")
            for record in json.loads((self.out / name).read_text("utf-8"))
        ]
        lines = (self.out / "rejects.jsonl").read_text("utf-8").splitlines()
        return Stock(self.out, records, [json.loads(line) for line in lines])

    def leaks(self) -> list[str]:
        """Where the key stands that should stand nowhere."""
        found = [f"output of process {n}" for n, text in enumerate(self.said) if KEY in text]
        files = (path for path in self.out.rglob("*") if path.is_file())
        return found + [str(path) for path in files if KEY.encode() in path.read_bytes()]


@dataclass(frozen=True)
class Stock:
    """Records and rejects of a finished generation."""

    out: Path
    records: list[dict[str, Any]]
    rejects: list[dict[str, Any]]

    def check(self, shown: Mapping[str, Sequence[int]]) -> None:
        """Every key is four records, one a level, or one reject with a reason; never neither.

        `shown` are the numbers on the images of each key.
        """
        labels: dict[str, set[int]] = {}
        for record in self.records:
            key = record["provenance"]["key"]
            labels.setdefault(key, set()).add(record["label"])
            said = [int(number) for number in re.findall(r"number (\d{6})", record["text"])]
            images = [record["image"]] if isinstance(record["image"], str) else record["image"]
            kept = [read_number((self.out / image).read_bytes()) for image in images]
            assert said == kept == list(shown[key])
        assert set(map(frozenset, labels.values())) <= {frozenset(range(4))}
        assert len(self.records) == 4 * len(labels)
        rejected = Counter(reject["key"] for reject in self.rejects)
        assert all(reject["error"] and reject["status"] for reject in self.rejects)
        assert set(rejected.values()) <= {1}
        assert labels.keys().isdisjoint(rejected)
        assert labels.keys() | rejected.keys() == shown.keys()


def overpaid(server: TeacherServer) -> int:
    """Good answers beyond one per image."""
    return sum(paid - 1 for paid in server.paid.values() if paid > 1)
