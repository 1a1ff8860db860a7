"""AITQE's network: transformers' Llava, from and to the published and the stock layouts.

Measured on the recorded checkpoints: the stock class gives the published code's logits. The
tower is read before its last layer, all patches; the projector's GELU is the exact one, and its
second layer has a bias that stays zero, where the published one has none.

What `convert` writes is a LlavaForConditionalGeneration with its processor, to be loaded or served
by others. A chat of one message, an image and the text that follows it, becomes the published
prompt to the token: the chat template adds nothing, and the tokenizer takes two newlines behind the
image one by one, as the published code does.
"""

from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, LlavaConfig, LlavaForConditionalGeneration

from mmsieve.devices import quiet
from mmsieve.errors import RequestError
from mmsieve.methods.aitqe.checkpoint import CHAT, TOWER, EnhancerCheckpoint
from mmsieve.methods.base import build_model, encode_patches, fitting, rename
from mmsieve.methods.folders import stored_tensors
from mmsieve.methods.stock import save_stock, write_processor

Enhancer: TypeAlias = LlavaForConditionalGeneration
_NAMES = {
    "model.model.": "model.language_model.",
    "model.lm_head.": "lm_head.",
    "mm_projector.0.": "model.multi_modal_projector.linear_1.",
    "mm_projector.2.": "model.multi_modal_projector.linear_2.",
}
"""Prefixes of the published tensors -> those of the stock class; the tower's are apart."""

_SELECT_LAYER = -2
"""The tower's hidden state that is used: the last layer's input."""
_BIAS = "model.multi_modal_projector.linear_2.bias"
_UNUSED = "image_newline"
"""Published, and used by nobody."""


def stock_config(checkpoint: EnhancerCheckpoint) -> LlavaConfig:
    """The config of the stock class; its image token is the first id beyond the vocabulary."""
    head = any(name.startswith("head.") for name in checkpoint.tower.tensors)
    vision = {**checkpoint.tower.config, "vision_use_head": head}
    text = AutoConfig.for_model(**checkpoint.text_config)
    return LlavaConfig(
        vision_config=AutoConfig.for_model(**vision),
        text_config=text,
        image_token_index=text.vocab_size,
        image_seq_length=checkpoint.image_tokens,
        projector_hidden_act="gelu",
        vision_feature_layer=_SELECT_LAYER,
        vision_feature_select_strategy="full",
        tie_word_embeddings=text.tie_word_embeddings,
    )


def load_enhancer(checkpoint: EnhancerCheckpoint, dtype: str = "float32") -> Enhancer:
    """The stock model with the checkpoint's weights, on the CPU; raises RequestError.

    `multi_modal_projector.linear_2.bias` is zero and is to stay so.
    """
    with fitting(checkpoint.folder):
        config = stock_config(checkpoint)
        prefixes = _prefixes(config)
    places = {
        rename(name, prefixes) or name: (file, name)  # named where it doesn't fit
        for name, file in checkpoint.tensors.items()
        if name != _UNUSED
    }
    state: dict[str, Any] = {**stored_tensors(places)}
    state[_BIAS] = torch.zeros(config.text_config.hidden_size, dtype=getattr(torch, dtype))
    folder = checkpoint.folder
    model, unused = build_model(Enhancer, dtype, folder, config, state)
    if unused:
        raise RequestError(f"{folder}: weights and config do not fit: {min(unused)}")
    model.generation_config.eos_token_id = sorted(checkpoint.end_ids)
    return model


def encode_images(model: Enhancer, pixels: Tensor) -> Tensor:
    """[images, 3, size, size] normalised -> [images, tokens, hidden], without the last layer."""
    hidden = encode_patches(model.model.vision_tower, pixels, _SELECT_LAYER)
    embeddings: Tensor = model.model.multi_modal_projector(hidden)
    return embeddings


def save_enhancer(
    model: Enhancer, folder: Path, like: EnhancerCheckpoint, own: dict[str, Any] | None = None
) -> None:
    """Write a checkpoint folder that the published code and mmsieve both read.

    Config and tokenizer are those of `like`, the checkpoint that the model was built from; `own` is
    for `CheckpointFolder.write`. Raises ValueError where the projector's second bias isn't zero.
    """
    if model.get_parameter(_BIAS).any():
        raise ValueError(f"{_BIAS} must stay zero: the published layout has none")
    tied = model.config.tie_word_embeddings
    published = [(ours, theirs) for theirs, ours in _prefixes(model.config)]
    state = {
        rename(name, published) or name: tensor
        for name, tensor in model.state_dict().items()
        if name != _BIAS and not (tied and name == "lm_head.weight")
    }
    state[_UNUSED] = torch.zeros(model.config.text_config.hidden_size, dtype=model.dtype)
    config = like.config | {"torch_dtype": str(model.dtype).removeprefix("torch.")}
    like.write(folder, state, config, own)


def _prefixes(config: LlavaConfig) -> list[tuple[str, str]]:
    """Of the published tensors, and of this version of the stock class's."""
    with torch.device("meta"):
        tower: nn.Module = AutoModel.from_config(config.vision_config)
    nested = "vision_model." if hasattr(tower, "vision_model") else ""
    return [(TOWER, f"model.vision_tower.{nested}"), *_NAMES.items()]


# The stock layout


def convert_enhancer(checkpoint: EnhancerCheckpoint, folder: Path) -> list[str]:
    """Write the stock layout; what a user should know of it, a line each. Raises RequestError."""
    folder.mkdir(parents=True, exist_ok=True)
    dtype = str(checkpoint.config.get("torch_dtype") or "float32")
    model = load_enhancer(checkpoint, dtype)
    with fitting(checkpoint.folder), quiet():
        (image,) = write_processor(checkpoint, folder, CHAT)
        _make_room(model, image, checkpoint)
        save_stock(model, folder)
    return [f"{checkpoint.tower.note}; an image is {checkpoint.image_tokens} tokens"]


def _make_room(model: Enhancer, image: int, checkpoint: EnhancerCheckpoint) -> None:
    """Give the image token a row where it has none; it is scored like the pad token, so that it
    is never preferred to it."""
    model.config.image_token_index = image
    rows = model.config.text_config.vocab_size
    if image < rows:
        return
    like = int(checkpoint.config.get("pad_token_id") or 0)
    for layer in (model.get_input_embeddings(), model.lm_head):
        if len(layer.weight) > image:
            continue  # tied to the one before
        more = layer.weight[like].expand(image + 1 - rows, -1)
        layer.weight = nn.Parameter(torch.cat([layer.weight, more]).detach())
    model.get_input_embeddings().num_embeddings = model.lm_head.out_features = image + 1
    model.config.text_config.vocab_size = image + 1
