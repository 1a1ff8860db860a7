"""Raters: LLaVA-OneVision-style checkpoints as the stock class, and back to their layout.

The stock model is exact on recorded logits where its tower has the whole SigLIP's layers and the
features are the last layer's input (`vision_feature_layer` -2); that layer is a copy of the one
before, and never computed here.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import safe_open
from torch import Tensor
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from mmsieve.models.build import build_model
from mmsieve.models.onevision import OneVision
from mmsieve.models.tokenizer import FILES, load_tokenizer
from mmsieve.models.tower import INSIDE

_PARTS = {
    "model.embed_tokens.": "model.language_model.embed_tokens.",
    "model.layers.": "model.language_model.layers.",
    "model.norm.": "model.language_model.norm.",
    "model.mm_projector.0.": "model.multi_modal_projector.linear_1.",
    "model.mm_projector.2.": "model.multi_modal_projector.linear_2.",
}
"""Published prefix -> that of the stock class."""
_TOWER = "model.vision_tower."
_SAME = ("model.image_newline", "lm_head.weight")
BY_TOKEN = ("model.language_model.embed_tokens.weight", "lm_head.weight")
"""A row per token."""

_NOT_TEXT = {
    "architectures",
    "mmsieve",
    "model_type",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "use_cache",
}


def load_rater(
    checkpoint: OneVision, dtype: str = "float32"
) -> LlavaOnevisionForConditionalGeneration:
    """The stock model of a checkpoint folder, on the CPU, its rows cut to the tokenizer's tokens.

    Raises RequestError where tensors are missing or of another shape than the config says.
    """
    return build_stock(checkpoint, stock_state(checkpoint), stock_config(checkpoint), dtype)


def build_stock(
    checkpoint: OneVision, state: dict[str, Tensor], config: LlavaOnevisionConfig, dtype: str
) -> LlavaOnevisionForConditionalGeneration:
    """The stock model of a state dict; raises RequestError where it and the config do not fit."""
    kind = LlavaOnevisionForConditionalGeneration
    return build_model(kind, config, state, dtype, checkpoint.folder)[0]


def stock_config(checkpoint: OneVision) -> LlavaOnevisionConfig:
    """The stock config; `image_token_id` is one beyond the tokens of any text."""
    config, size = checkpoint.config, vocabulary(checkpoint)
    text = {k: v for k, v in config.items() if not k.startswith("mm_") and k not in _NOT_TEXT}
    vision = {**checkpoint.tower.config, "vision_use_head": False}
    return LlavaOnevisionConfig(
        text_config={**text, "model_type": "qwen2", "vocab_size": size},
        vision_config=vision,
        image_token_index=size,
        video_token_index=size,
        projector_hidden_act="gelu",
        vision_feature_select_strategy="full",
        vision_feature_layer=-2,
        multimodal_projector_bias=True,
        image_grid_pinpoints=config.get("image_grid_pinpoints"),
        vision_aspect_ratio=str(config.get("image_aspect_ratio", "anyres_max_9")),
        tie_word_embeddings=checkpoint.ties_embeddings,
    )


def vocabulary(checkpoint: OneVision) -> int:
    """Tokens of the tokenizer; the published code cuts the embeddings to them."""
    return int(load_tokenizer(checkpoint.folder).build().get_vocab_size())


def stock_state(checkpoint: OneVision) -> dict[str, Tensor]:
    """The tensors under the stock class's names."""
    wanted: dict[Path, dict[str, str]] = {}
    for name, file in checkpoint.tensors.items():
        stock = _stock_name(name)
        if stock is not None and not (stock == "lm_head.weight" and checkpoint.ties_embeddings):
            wanted.setdefault(file, {})[name] = stock
    for stock, (file, name) in checkpoint.tower.tensors.items():
        wanted.setdefault(file, {})[name] = _TOWER + stock
    state: dict[str, Tensor] = {}
    for file, names in wanted.items():
        with safe_open(file, "pt") as opened:
            state |= {stock: opened.get_tensor(name) for name, stock in names.items()}
    size = vocabulary(checkpoint)
    for name in BY_TOKEN:
        if name in state:
            state[name] = state[name][:size].clone()  # the rest can go
    return state | _unused(checkpoint, state)


def _stock_name(name: str) -> str | None:
    if name in _SAME:
        return name
    found = (stock + name[len(ours) :] for ours, stock in _PARTS.items() if name.startswith(ours))
    return next(found, None)


def _unused(checkpoint: OneVision, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the stock tower has and nobody computes: a last layer, a last norm."""
    last = checkpoint.tower.layers - 1
    before, after = (f"{_TOWER}encoder.layers.{number}." for number in (last - 1, last))
    # cloned: what shares memory can't be saved by a trainer
    copy = {after + n[len(before) :]: t.clone() for n, t in state.items() if n.startswith(before)}
    width = int(checkpoint.tower.config["hidden_size"])
    norm = {"weight": torch.ones(width), "bias": torch.zeros(width)}
    return copy | {f"{_TOWER}post_layernorm.{name}": value for name, value in norm.items()}


def save_rater(
    model: LlavaOnevisionForConditionalGeneration,
    folder: Path,
    like: OneVision,
    own: dict[str, Any] | None = None,
) -> None:
    """Write a folder in the published layout, in the model's number format.

    Config and tokenizer are those of `like`, which the model was built from. `own` is how a model
    trained by mmsieve wants to be asked (`mmsieve.methods.mmssr`): with it the folder stands alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {_published_name(name): value for name, value in model.state_dict().items()}
    last = f"{INSIDE}vision_model.encoder.layers.{like.tower.layers - 1}."
    left_out = (last, f"{INSIDE}vision_model.post_layernorm.")
    kept = {name: value for name, value in state.items() if not name.startswith(left_out)}
    if like.ties_embeddings:
        kept.pop("lm_head.weight", None)
    save_torch_state_dict(kept, folder)
    config = {name: value for name, value in like.config.items() if name != "dtype"}
    config["vocab_size"] = len(state["model.embed_tokens.weight"])
    config["torch_dtype"] = str(model.dtype).removeprefix("torch.")
    if own is not None:
        config["mmsieve"] = own | {"vision_config": like.tower.config, "image": asdict(like.image)}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in (*FILES, "generation_config.json"):
        if (like.folder / name).is_file():
            shutil.copyfile(like.folder / name, folder / name)


def _published_name(name: str) -> str:
    if name.startswith(_TOWER):
        return f"{INSIDE}vision_model.{name.removeprefix(_TOWER).removeprefix('vision_model.')}"
    found = (ours + name[len(stock) :] for ours, stock in _PARTS.items() if name.startswith(stock))
    return next(found, name)


def encode_images(model: LlavaOnevisionForConditionalGeneration, pixels: Tensor) -> Tensor:
    """[images, 3, size, size] normalised -> [images, patches + 1, hidden].

    One view of each image and one newline, as in the published scorer. The stock method, made for
    tiles, can't be asked for that, and computes the last layer too.
    """
    tower: Any = getattr(model.model.vision_tower, "vision_model", model.model.vision_tower)
    hidden = tower.embeddings(pixels)
    for layer in tower.encoder.layers[:-1]:
        out = layer(hidden, attention_mask=None)
        hidden = out[0] if isinstance(out, tuple) else out
    patches = model.model.multi_modal_projector(hidden)
    newline = model.model.image_newline.to(patches.dtype).expand(len(patches), 1, -1)
    return torch.cat([patches, newline], 1)
