"""Folders in the published layouts with real widths and few layers, their weights random."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mmsieve.methods.folders import bundled_folder

QWEN_1_5B = {"hidden_size": 1536, "intermediate_size": 8960, "heads": 12, "key_heads": 2}
QWEN_7B = {"hidden_size": 3584, "intermediate_size": 18944, "heads": 28, "key_heads": 4}
SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_attention_heads": 16}
_BUNDLED = {"score": "unifilter-tiny", "enhance": "aitqe-tiny", "rate": "mmssr-tiny-scorer"}


def make_folder(
    place: Path,
    verb: str,
    text: dict[str, int],
    layers: int,
    tower_layers: int,
    vocabulary: int | None = None,
) -> Path:
    """A checkpoint for a verb: that of a bundled model, with other sizes; bfloat16.

    The vocabulary is that of the bundled model unless another is given.
    """
    like = bundled_folder(_BUNDLED[verb])
    assert like is not None
    shutil.copytree(like, place)
    config = json.loads((like / "config.json").read_text("utf-8"))
    hidden, width = text["hidden_size"], text["hidden_size"] // text["heads"]
    config |= {
        "hidden_size": hidden,
        "intermediate_size": text["intermediate_size"],
        "num_hidden_layers": layers,
        "num_attention_heads": text["heads"],
        "num_key_value_heads": text["key_heads"],
        "head_dim": width,
        "vocab_size": vocabulary or config["vocab_size"],
        "mm_hidden_size": SO400M["hidden_size"],
        "visual_hidden_dim": SO400M["hidden_size"],
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
    vision |= SO400M | {"num_hidden_layers": tower_layers, "image_size": 384, "patch_size": 14}
    config["mmsieve"]["image"] |= {"size": 384}
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
        in_tower = "vision_model." in name
        wanted = _shape(name, in_tower, config, vision)
        for copy in _layers(name, tower_layers if in_tower else layers):
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


def _shape(name: str, in_tower: bool, config: dict, vision: dict) -> tuple[int, ...]:
    """Of a tensor, by what it is called."""
    hidden, inner = (vision if in_tower else config)["hidden_size"], config["intermediate_size"]
    heads, keys = (
        config["head_dim"] * config[f"num_{n}_heads"] for n in ("attention", "key_value")
    )
    if in_tower:
        heads, keys, inner = hidden, hidden, vision["intermediate_size"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    outputs = {
        "q_proj": (heads, hidden),
        "k_proj": (keys, hidden),
        "v_proj": (keys, hidden),
        "o_proj": (hidden, heads),
        "out_proj": (hidden, heads),
        "gate_proj": (inner, hidden),
        "up_proj": (inner, hidden),
        "down_proj": (hidden, inner),
        "fc1": (inner, hidden),
        "fc2": (hidden, inner),
        "embed_tokens": (config["vocab_size"], hidden),
        "lm_head": (config["vocab_size"], hidden),
        "score": (1, hidden),
        "q_norm": (config["head_dim"],),
        "k_norm": (config["head_dim"],),
        "patch_embedding": (hidden, 3, vision["patch_size"], vision["patch_size"]),
        "position_embedding": (patches, hidden),
        "0": (hidden, vision["hidden_size"]),
        "2": (hidden, hidden),
    }
    *_, part, kind = ["", *name.split(".")]
    found = outputs.get(part, (hidden,))
    return found[:1] if kind == "bias" else found
