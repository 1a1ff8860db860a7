"""AITQE checkpoints of random weights, in the published layout, for timing."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration

from mmsieve.methods.aitqe.checkpoint import open_enhancer
from mmsieve.methods.aitqe.model import save_enhancer, stock_config

_TOKENIZER = Path(__file__).parents[2] / "tests" / "data" / "aitqe" / "aitqe-tiny-b"

SIZES: dict[str, dict[str, Any]] = {
    "small": {
        "dtype": "float32",
        "text": {
            "hidden_size": 384,
            "intermediate_size": 1024,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
        },
        "vision": {
            "hidden_size": 192,
            "intermediate_size": 768,
            "num_hidden_layers": 6,
            "num_attention_heads": 3,
            "image_size": 224,
        },
    },
    "released": {
        "dtype": "bfloat16",
        "text": {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
        },
        "vision": {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "image_size": 384,
        },
    },
}
"""Language model and tower; the released ones are Qwen2-7B and SigLIP so400m at 384 pixels."""


def write_random(folder: Path, size: str) -> Path:
    """A checkpoint folder; ids beyond the tokenizer's are never chosen."""
    wanted = SIZES[size]
    side = wanted["vision"]["image_size"]
    tower = folder.parent / "siglip"
    shutil.copytree(_TOKENIZER.parent / "vis" / "siglip-tiny-56", tower)
    _change(tower / "config.json", wanted["vision"])
    square = {"height": side, "width": side}
    _change(tower / "preprocessor_config.json", {"size": square, "crop_size": square})
    start = folder.parent / "start"  # its weights are of another size, and aren't loaded
    shutil.copytree(_TOKENIZER, start)
    text = {"image_tile_tokens": (side // 14) ** 2, "vision_model_name_or_path": str(tower)}
    _change(start / "config.json", {**wanted["text"], **text, "torch_dtype": wanted["dtype"]})
    like = open_enhancer(start)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.set_default_dtype(getattr(torch, wanted["dtype"]))
        model = LlavaForConditionalGeneration(stock_config(like))
        torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        model.model.multi_modal_projector.linear_2.bias.zero_()
        model.lm_head.weight[640:] = 0
    save_enhancer(model, folder, like)
    return folder


def _change(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values, indent=2))
