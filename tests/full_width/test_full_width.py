"""Every family at its real width, from several files: numbers and memory (`make test-full`)."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from mmsieve import EnhanceOptions, RatingOptions, ScoringOptions
from mmsieve.methods import load
from tests.full_width.folders import GEOMETRIES, Geometry, stored, write_folder
from tests.full_width.judge import IMAGE, Judge
from tests.full_width.product import ASKED, TOKENS, samples

pytestmark = [pytest.mark.full_width, pytest.mark.slow]

ROOM = 500_000_000
"""Bytes that loading may take beside the weights."""
CPU: Any = {"device": "cpu"}


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The checkpoint of a geometry; gigabytes, so it is removed at once."""
    place = tmp_path / "model"
    write_folder(place, GEOMETRIES[request.getfixturevalue("name")])
    yield place
    shutil.rmtree(place)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_it_says_what_its_modules_say_by_hand_and_is_in_memory_once(name, folder):
    geometry = GEOMETRIES[name]
    out = folder.parent / "said.json"
    command = [sys.executable, "-m", "tests.full_width.product", geometry.method, folder, out]
    subprocess.run(command, check=True)
    found = json.loads(out.read_text())
    weights = weights_in_float32(folder)
    print(f"{name}: weights {weights / 1e9:.2f} GB, peak {found['peak'] / 1e9:.2f} GB")
    torch.testing.assert_close(
        torch.tensor(found["said"]), by_hand(folder, geometry), rtol=0, atol=1e-5
    )
    assert found["peak"] < weights + ROOM


def weights_in_float32(folder: Path) -> int:
    """Bytes of all tensors of a folder."""
    total = 0
    for tensor, file in stored(folder):
        with safe_open(file, "np") as opened:
            total += torch.Size(opened.get_slice(tensor).get_shape()).numel() * 4
    return total


@torch.inference_mode()
def by_hand(folder: Path, geometry: Geometry) -> torch.Tensor:
    """Scores, expected ratings or logits of the next token, of the samples in order."""
    judge = Judge(folder, geometry)
    preparer = annotator(folder, geometry).preparer()
    said = []
    for sample in samples(geometry.method):
        item = preparer.prepare(sample)
        if geometry.method == "unifilter":
            hidden = judge.hidden(item.ids.tolist(), judge.images(item.images))
            said.append((judge.tensor("score.weight") @ hidden)[0])
        elif geometry.method == "aitqe":
            hidden = judge.hidden([IMAGE, *item.ids.tolist()], judge.images(item.image[None]))
            said.append(judge.tensor("model.lm_head.weight", range(TOKENS)) @ hidden)
        else:
            said.append(expected_ratings(judge, preparer, item))
    return torch.stack(said)


def annotator(folder: Path, geometry: Geometry) -> Any:
    """Only its preparer is used: ids and pixels, whose parity is tested elsewhere."""
    if geometry.method == "unifilter":
        return load.load_unifilter(str(folder), ScoringOptions(**CPU))
    if geometry.method == "aitqe":
        return load.load_aitqe(str(folder), EnhanceOptions(), ScoringOptions(**CPU))
    options = RatingOptions(capabilities=ASKED, expected=True, **CPU)
    return load.load_raters(str(folder), options)


def expected_ratings(judge: Judge, preparer: Any, item: Any) -> torch.Tensor:
    """The mean of the digits under their probabilities, per capability."""
    tokenizer = preparer.writers[0].tokenizer.build()
    digits = [tokenizer.token_to_id(digit) for digit in "012345"]
    head = judge.tensor("lm_head.weight", digits)
    (prompt,) = item.prompts
    images = judge.images(item.images)
    found = []
    for end in prompt.ends:
        hidden = judge.hidden([*prompt.shared.tolist(), *end], images)
        found.append((head @ hidden).softmax(0) @ torch.arange(6.0))
    return torch.stack(found)
