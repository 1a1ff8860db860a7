"""A smoke training of every goal gives the weights that it gave.

Kernels of another machine round otherwise, so what is recorded of a tensor are its mean, its
mean size and a mean that knows the order, nearly; the same machine gives the same bits twice.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mmsieve.cli import main

from .recording import check_json

pytestmark = [pytest.mark.slow, pytest.mark.long]

GOALS = {
    "projector": "unifilter-tiny",
    "classifier": "unifilter-tiny",
    "rater": "mmssr-tiny-scorer",
    "enhancer": "aitqe-tiny",
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Any:
    """Goal -> the folder of its smoke training."""
    folder, threads = tmp_path_factory.mktemp("trained"), torch.get_num_threads()
    torch.set_num_threads(1)
    yield {goal: _train(goal, folder / goal) for goal in GOALS}
    torch.set_num_threads(threads)


def _train(goal: str, out: Path) -> Path:
    with pytest.raises(SystemExit) as done:
        main(["train", goal, GOALS[goal], "--smoke", "--quiet", "--out", str(out)])
    assert done.value.code == 0
    return out


@pytest.mark.long
@pytest.mark.parametrize("goal", GOALS)
def test_the_weights_are_as_recorded(trained, goal):
    file = trained[goal] / "model.safetensors"
    seen = {name: _summary(tensor) for name, tensor in sorted(load_file(file).items())}
    check_json(f"trainings/{goal}.json", seen, exact=file.read_bytes())


@pytest.mark.parametrize("goal", GOALS)
def test_the_folder_is_as_recorded(trained, goal):
    files = sorted(path.name for path in trained[goal].iterdir())
    config = json.loads((trained[goal] / "config.json").read_text("utf-8"))
    config.pop("transformers_version", None)
    record = json.loads((trained[goal] / "training.json").read_text("utf-8"))
    logs = {stage: [sorted(line) for line in lines] for stage, lines in record["logs"].items()}
    seen = {"files": files, "config": config, "recipe": record["recipe"], "logs": logs}
    check_json(f"trainings/{goal}-folder.json", seen)


@pytest.mark.long
def test_the_same_training_gives_the_same_bits(trained, tmp_path):
    again = _train("enhancer", tmp_path / "again") / "model.safetensors"
    assert again.read_bytes() == (trained["enhancer"] / "model.safetensors").read_bytes()


def _summary(tensor: torch.Tensor) -> list[Any]:
    wide = tensor.double().flatten()
    return [
        f"{tensor.dtype} {'x'.join(map(str, tensor.shape))}",
        wide.mean().item(),
        wide.abs().mean().item(),
        (wide * torch.linspace(0, 1, len(wide), dtype=torch.float64)).mean().item(),
    ]
