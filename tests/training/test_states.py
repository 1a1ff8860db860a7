"""Saved states: the last whole one is gone on from, and only as it was saved."""

from pathlib import Path

import pytest
import torch
from torch import nn

from mmsieve import RequestError
from mmsieve.training.states import last_state
from mmsieve.training.trainer import hollow_copy


def state(folder: Path, step: int, *, whole: bool = True, parts: str | None = None) -> Path:
    place = folder / f"checkpoint-{step}"
    place.mkdir(parents=True)
    if parts is not None:
        (place / parts).mkdir()
    (place / "trainer_state.json").write_text("{}" if whole else "{")
    return place


def test_a_state_that_was_being_written_is_passed_over(tmp_path):
    assert last_state(tmp_path, "NO") is None
    second = state(tmp_path, 20)
    state(tmp_path, 100, whole=False)
    state(tmp_path, 3)
    assert last_state(tmp_path, "NO") == second


@pytest.mark.parametrize(
    ("parts", "kind", "says"),
    [
        ("global_step4", "NO", "saved under DeepSpeed, this is one process or DDP"),
        ("global_step4", "FSDP", "saved under DeepSpeed, this is FSDP"),
        ("pytorch_model_fsdp_0", "MULTI_GPU", "saved under FSDP, this is one process or DDP"),
        (None, "DEEPSPEED", "saved under one process or DDP, this is DeepSpeed"),
    ],
)
def test_a_state_in_parts_is_gone_on_from_under_the_same_kind_alone(tmp_path, parts, kind, says):
    state(tmp_path, 4, parts=parts)
    with pytest.raises(RequestError, match=says):
        last_state(tmp_path, kind)


def test_states_of_one_process_are_those_of_ddp(tmp_path):
    place = state(tmp_path, 4)
    assert last_state(tmp_path, "MULTI_GPU") == place
    assert last_state(tmp_path, "NO") == place


def test_a_hollow_copy_takes_weights_and_leaves_the_original_alone():
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    module.append(module[0])  # tied
    module[0].bias.requires_grad_(False)
    copied = hollow_copy(module)
    assert all(one.is_meta for one in (*copied.parameters(), *copied.buffers()))
    assert copied[2] is copied[0]
    assert not copied[0].bias.requires_grad
    before = module.state_dict()
    copied.load_state_dict({name: one + 1 for name, one in before.items()}, assign=True)
    assert torch.equal(copied[0].weight, module[0].weight + 1)
    assert all(torch.equal(one, before[name]) for name, one in module.state_dict().items())
