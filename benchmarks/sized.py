"""Folders in the published layouts with real widths and few layers, their weights random."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mmsieve.methods.folders import bundled_folder
from tests.full_width.folders import TOWER, Geometry, shape_of

_TOWER_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "image_size",
    "patch_size",
)
_TEXT_SIZES = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
_BUNDLED = {"score": "unifilter-tiny", "enhance": "aitqe-tiny", "rate": "mmssr-tiny-scorer"}


def make_folder(
    place: Path,
    verb: str,
    geometry: Geometry,
    layers: int,
    tower_layers: int,
    vocabulary: int | None = None,
) -> Path:
    """A checkpoint for a verb: that of a bundled model, with a geometry's sizes; bfloat16.

    The vocabulary is that of the bundled model unless another is given.
    """
    like = bundled_folder(_BUNDLED[verb])
    assert like is not None
    shutil.copytree(like, place)
    config = json.loads((like / "config.json").read_text("utf-8"))
    text = geometry.text
    config |= {name: text[name] for name in _TEXT_SIZES}
    config |= {
        "num_hidden_layers": layers,
        "head_dim": text["hidden_size"] // text["num_attention_heads"],
        "vocab_size": vocabulary or config["vocab_size"],
        "mm_hidden_size": TOWER["hidden_size"],
        "visual_hidden_dim": TOWER["hidden_size"],
        "layer_types": ["full_attention"] * layers,
        "max_window_layers": layers,
        "image_tile_tokens": 729,
        "pesudo_img_size": 384,
        "pesudo_patch_size": 14,
        "mm_num_image_tokens": 144,
        "tokenizer_model_max_length": 32768,
        "max_position_embeddings": 32768,
    }
    vision = config["mmsieve"]["vision_config"]
    vision |= {name: TOWER[name] for name in _TOWER_SIZES} | {"num_hidden_layers": tower_layers}
    config["mmsieve"]["image"] |= {"size": TOWER["image_size"]}
    (place / "config.json").write_text(json.dumps(config))
    _write_weights(place, like, config, layers, tower_layers)
    return place


def _write_weights(
    place: Path, like: Path, config: dict[str, Any], layers: int, tower_layers: int
) -> None:
    """The tensors of the bundled model, as many layers of them, with the sizes of the config."""
    with safe_open(like / "model.safetensors", "np") as opened:
        names = list(opened.keys())
    vision = config["mmsieve"]["vision_config"]
    state = {}
    for name in names:
        wanted = shape_of(name, config, vision)
        for copy in _layers(name, tower_layers if "vision_model." in name else layers):
            torch.manual_seed(len(state))
            is_norm = "norm" in name and name.endswith("weight")
            values = torch.ones(wanted) if is_norm else torch.empty(wanted).normal_(std=0.02)
            state[copy] = values.to(torch.bfloat16)
    (place / "model.safetensors").unlink()
    save_file(state, place / "model.safetensors")


def _layers(name: str, count: int) -> list[str]:
    """Of the first layer's tensors one per layer; of the others' none; of all else itself."""
    before, inside, after = name.partition("layers.")
    number, _, part = after.partition(".")
    if not inside:
        return [name]
    return [f"{before}layers.{n}.{part}" for n in range(count)] if number == "0" else []
