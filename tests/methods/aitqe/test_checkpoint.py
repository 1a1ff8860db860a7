"""AITQE folders: read as published, written as published, refused in a line."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mmsieve import RequestError
from mmsieve.methods.aitqe.checkpoint import open_enhancer
from mmsieve.methods.aitqe.model import encode_images, load_enhancer, save_enhancer
from tests.helpers.enhancers import RELEASED, enhance, rows, save_own
from tests.helpers.shards import captions, write_tar


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the recorded checkpoint, its tower's settings beside it."""
    shutil.copytree(RELEASED.parent / "vis", tmp_path / "vis")
    copy = Path(shutil.copytree(RELEASED, tmp_path / "released"))
    for file in copy.iterdir():
        file.chmod(0o644)
    return copy


def change(folder: Path, **values: object) -> Path:
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | values))
    return folder


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(folder / "model.safetensors", "pt") as opened:
        return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118


def test_it_is_written_as_it_was_published(tmp_path, folder):
    like = open_enhancer(folder)
    model = load_enhancer(like)
    save_enhancer(model, tmp_path / "again", like)
    assert shapes(tmp_path / "again") == shapes(folder)
    before, after = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "again"))
    assert all(before[name].equal(after[name]) for name in before if name != "image_newline")
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == like.config
    again = load_enhancer(open_enhancer(tmp_path / "again"))
    pixels = torch.rand(1, 3, 56, 56)
    assert encode_images(again, pixels).equal(encode_images(model, pixels))


def test_our_own_stands_alone_in_half_precision(tmp_path):
    own = save_own(tmp_path / "alone" / "own", plain_text=True)
    checkpoint = open_enhancer(own)
    assert checkpoint.own["plain_text"] and checkpoint.tower.image.size == 56
    assert checkpoint.tower.note == "tower inside the checkpoint"
    assert {tensor.dtype for tensor in load_file(own / "model.safetensors").values()} == {
        torch.float16
    }
    enhance(write_tar(tmp_path / "a.tar", captions(1)), tmp_path / "out", own, max_new_tokens=9)
    assert rows(tmp_path / "out")["status"].to_list() == ["ok"]


def test_tied_embeddings_are_stored_once(tmp_path, folder):
    change(folder, tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    like = open_enhancer(folder)
    model = load_enhancer(like)
    assert model.lm_head.weight.equal(model.get_input_embeddings().weight)
    save_enhancer(model, tmp_path / "again", like)
    assert shapes(tmp_path / "again") == shapes(folder)


def test_the_other_backbone(tmp_path, folder):
    """Our own may have a Qwen3 inside, which has norms that Qwen2 has not, and no biases there."""
    config = json.loads((folder / "config.json").read_text())
    image = {"size": 56, "resample": 3, "mean": [0.5] * 3, "std": [0.5] * 3, "fit": "stretch"}
    vision = json.loads((folder.parent / "vis" / "siglip-tiny-56" / "config.json").read_text())
    own = {"backbone": "qwen3", "vision_config": vision, "image": image}
    change(folder, mmsieve=own, head_dim=16)
    tensors = load_file(folder / "model.safetensors")
    for layer in range(config["num_hidden_layers"]):
        name = f"model.model.layers.{layer}.self_attn."
        for part in "qkv":
            del tensors[f"{name}{part}_proj.bias"]
        tensors |= {f"{name}{part}_norm.weight": torch.ones(16) for part in "qk"}
    save_file(tensors, folder / "model.safetensors")
    assert load_enhancer(open_enhancer(folder)).config.text_config.model_type == "qwen3"


def test_a_bias_that_the_layout_has_no_place_for_is_not_lost_silently(tmp_path, folder):
    like = open_enhancer(folder)
    model = load_enhancer(like)
    model.model.multi_modal_projector.linear_2.bias.data += 1
    with pytest.raises(ValueError, match="must stay zero"):
        save_enhancer(model, tmp_path / "again", like)


def test_settings_of_the_tower_are_looked_for(tmp_path, folder, monkeypatch):
    monkeypatch.chdir(tmp_path / "vis")
    change(folder, vision_model_name_or_path="siglip-tiny-56")
    assert open_enhancer(folder).tower.image.size == 56
    monkeypatch.chdir(folder)
    with pytest.raises(RequestError, match="does not say how it is built"):
        open_enhancer(folder)


WRONG = {
    "another model": ({"architectures": ["LlamaForCausalLM"]}, "the tensors are those of qwen2"),
    "projector": ({"mm_projector_type": "linear"}, "mm_projector_type 'linear'"),
    "pooling": ({"pooling_kernel": 2}, "pooling_kernel 2"),
    "tiles": ({"image_tile_tokens": 9}, "an image is to be 9 tokens"),
    "backbone": ({"mmsieve": {"backbone": "gpt2"}}, "'gpt2' is not one of"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_it_cannot_be(folder, name):
    values, message = WRONG[name]
    with pytest.raises(RequestError, match=message):
        open_enhancer(change(folder, **values))


@pytest.mark.parametrize("lost", ["mm_projector.0.weight", "model.lm_head.weight", "vision_model."])
def test_missing_tensors_are_named(folder, lost):
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {n: t for n, t in tensors.items() if not n.startswith(lost)}, folder / "x.safetensors"
    )
    (folder / "model.safetensors").unlink()
    with pytest.raises(RequestError, match=r"no tensor|vision tower is missing"):
        load_enhancer(open_enhancer(folder))


def test_tensors_of_another_shape_are_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["mm_projector.0.weight"] = torch.zeros(64, 31)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(RequestError, match="visual_hidden_dim is 32, the tensors have 31"):
        load_enhancer(open_enhancer(folder))
