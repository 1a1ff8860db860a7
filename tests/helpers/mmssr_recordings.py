"""Recorded mmSSR checkpoints and conversations (tests/data/mmssr), and samples made from them."""

import json
import os
import random
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest

from mmsieve.sample import Sample, Turn
from tests.helpers.paths import RECORDED_DATA

DATA = RECORDED_DATA / "mmssr"
IMAGES = DATA / "data" / "images"
CHECKPOINT = DATA / "llava-qwen-tiny-a"
REFERENCE = os.environ.get("MMSIEVE_REFERENCE")
_TOWER = "google"

needs_reference = pytest.mark.skipif(
    not REFERENCE, reason="MMSIEVE_REFERENCE does not name the folder of the larger recordings"
)
VARIANTS = [
    pytest.param("in_tests", id="in_tests"),
    pytest.param("a", marks=needs_reference),
    pytest.param("b", marks=needs_reference),
]
_ROLES = {"human": "user", "gpt": "assistant"}


@cache
def checkpoint(variant: str) -> Path:
    """The folder of a recorded checkpoint, the config of its tower beside it."""
    if variant == "in_tests":
        return CHECKPOINT
    folder = Path(mkdtemp()) / f"llava-qwen-tiny-{variant}"
    folder.symlink_to(_recordings() / folder.name)
    (folder.parent / _TOWER).symlink_to(DATA / _TOWER)
    return folder


@cache
def golden(variant: str) -> tuple[list[dict], dict[str, np.ndarray]]:
    """What was recorded: cases, and their arrays by name and number."""
    folder = DATA / "golden_a" if variant == "in_tests" else _recordings() / f"golden_{variant}"
    with np.load(folder / "golden.npz") as arrays:
        return json.loads((folder / "golden.json").read_text()), dict(arrays)


def _recordings() -> Path:
    return Path(REFERENCE or "") / "reference" / "mmssr" / "infer"


@cache
def conversations() -> dict[int, Sample]:
    """The recorded conversations by idx, an image for each mark of one."""
    return {item["idx"]: _sample(item) for item in json.loads((DATA / "data/qas.json").read_text())}


def _sample(item: dict) -> Sample:
    turns = [Turn(_ROLES[turn["from"]], turn["value"]) for turn in item["conversations"]]
    marks = sum(turn.text.count("<image>") for turn in turns)
    metadata = {"image_source": item["image_source"]}
    return Sample.instruction([IMAGES / item["image"]] * marks, turns, str(item["idx"]), metadata)


def invent(count: int, seed: int) -> list[Sample]:
    """Samples of mixed length with 0 to 3 images and 1 to 6 turns, the last may lack an answer."""
    draw = random.Random(seed)
    words = ["quotes", "tunes", "dog", "union", "3.5", "is", "it", "one?", "Question:", "(A)"]
    words += ["caf\u00e9", "\u8868", "", "\n"]
    files = sorted(IMAGES.iterdir())
    samples = []
    for number in range(count):
        texts = [
            " ".join(draw.choices(words, k=draw.choice((1, 5, 20, 60))))
            for _ in range(draw.randint(1, 6))
        ]
        images = draw.choices(files, k=draw.choice((0, 1, 1, 1, 2, 3)))
        for image in range(len(images)):
            place = 0 if image == 0 else draw.randrange(len(texts))
            mark = draw.choice(("<image>\n{}", "{}\n<image>", "{} <image> there"))
            texts[place] = mark.format(texts[place])
        turns = [Turn(("user", "assistant")[n % 2], text) for n, text in enumerate(texts)]
        metadata = {"image_source": f"s{number % 3}"}
        samples.append(Sample.instruction(images, turns, f"{number:04d}", metadata))
    return samples
