"""mmSSR's network: transformers' LLaVA-OneVision, from and to the published and stock layouts.

The stock model is exact on recorded logits where its tower has the whole SigLIP's layers and the
features are the last layer's input (`vision_feature_layer` -2); that layer is a copy of the one
before, and never computed here.
"""

from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
)

from mmsieve.devices import quiet
from mmsieve.methods.base import build_model, encode_patches, fitting, rename
from mmsieve.methods.folders import StoredTensor, stored_tensors
from mmsieve.methods.mmssr.checkpoint import CHAT, OneVision
from mmsieve.methods.mmssr.inputs import START
from mmsieve.methods.stock import save_stock, write_processor
from mmsieve.methods.tokenizer import load_tokenizer, open_tokenizer
from mmsieve.methods.tower import INSIDE

_PARTS = {
    "model.embed_tokens.": "model.language_model.embed_tokens.",
    "model.layers.": "model.language_model.layers.",
    "model.norm.": "model.language_model.norm.",
    "model.mm_projector.0.": "model.multi_modal_projector.linear_1.",
    "model.mm_projector.2.": "model.multi_modal_projector.linear_2.",
}
"""Published prefix -> that of the stock class."""
Rater: TypeAlias = LlavaOnevisionForConditionalGeneration
_TOWER = "model.vision_tower."
_SELECT_LAYER = -2
"""The tower's hidden state that is used: the last layer's input."""
_SAME = ("model.image_newline", "lm_head.weight")
BY_TOKEN = ("model.language_model.embed_tokens.weight", "lm_head.weight")
"""A row per token."""


def load_rater(checkpoint: OneVision, dtype: str = "float32") -> Rater:
    """The stock model, on the CPU, its rows cut to the tokenizer's tokens; raises RequestError."""
    with fitting(checkpoint.folder):
        config, state = stock_config(checkpoint), stock_state(checkpoint)
    return build_model(Rater, dtype, checkpoint.folder, config, state)[0]


def stock_config(checkpoint: OneVision) -> LlavaOnevisionConfig:
    """The stock config; `image_token_id` is one beyond the tokens of any text."""
    config, size = checkpoint.config, vocabulary(checkpoint)
    vision = {**checkpoint.tower.config, "vision_use_head": False}
    return LlavaOnevisionConfig(
        text_config={**checkpoint.text_config, "vocab_size": size},
        vision_config=vision,
        image_token_index=size,
        video_token_index=size,
        projector_hidden_act="gelu",
        vision_feature_select_strategy="full",
        vision_feature_layer=_SELECT_LAYER,
        multimodal_projector_bias=True,
        image_grid_pinpoints=config.get("image_grid_pinpoints"),
        vision_aspect_ratio=str(config.get("image_aspect_ratio", "anyres_max_9")),
        tie_word_embeddings=checkpoint.ties_embeddings,
    )


def vocabulary(checkpoint: OneVision) -> int:
    """Tokens of the tokenizer; the published code cuts the embeddings to them."""
    return int(load_tokenizer(checkpoint.folder, checkpoint.embedded).build().get_vocab_size())


def stock_state(checkpoint: OneVision) -> dict[str, StoredTensor | Tensor]:
    """The tensors under the stock class's names, read when they are indexed."""
    places = {_TOWER + stock: place for stock, place in checkpoint.tower.tensors.items()}
    for name, file in checkpoint.tensors.items():
        stock = name if name in _SAME else rename(name, _PARTS.items())
        if stock is not None and not (stock == "lm_head.weight" and checkpoint.ties_embeddings):
            places[stock] = (file, name)
    state = stored_tensors(places)
    size = vocabulary(checkpoint)
    state |= {name: state[name].first(size) for name in BY_TOKEN if name in state}
    return {**state, **_unused(checkpoint, state)}


def _unused(
    checkpoint: OneVision, state: dict[str, StoredTensor]
) -> dict[str, StoredTensor | Tensor]:
    """What the stock tower has and nobody computes: a last layer, a last norm."""
    last = checkpoint.tower.layers - 1
    before, after = (f"{_TOWER}encoder.layers.{number}." for number in (last - 1, last))
    # read again: what shares memory can't be saved by a trainer
    copy = {after + n[len(before) :]: t for n, t in state.items() if n.startswith(before)}
    width = int(checkpoint.tower.config["hidden_size"])
    norm = {"weight": torch.ones(width), "bias": torch.zeros(width)}
    return {**copy, **{f"{_TOWER}post_layernorm.{name}": one for name, one in norm.items()}}


def save_rater(
    model: Rater, folder: Path, like: OneVision, own: dict[str, Any] | None = None
) -> None:
    """Write a folder in the published layout, in the model's number format.

    Config and tokenizer are those of `like`, the checkpoint that the model was built from; `own` is
    for `CheckpointFolder.write`.
    """
    state = {_published_name(name): value for name, value in model.state_dict().items()}
    last = f"{INSIDE}vision_model.encoder.layers.{like.tower.layers - 1}."
    left_out = (last, f"{INSIDE}vision_model.post_layernorm.")
    kept = {name: value for name, value in state.items() if not name.startswith(left_out)}
    if like.ties_embeddings:
        kept.pop("lm_head.weight", None)
    config = {name: value for name, value in like.config.items() if name != "dtype"}
    config["vocab_size"] = len(state["model.embed_tokens.weight"])
    config["torch_dtype"] = str(model.dtype).removeprefix("torch.")
    like.write(folder, kept, config, own)


def _published_name(name: str) -> str:
    if name.startswith(_TOWER):
        return f"{INSIDE}vision_model.{name.removeprefix(_TOWER).removeprefix('vision_model.')}"
    return rename(name, ((stock, ours) for ours, stock in _PARTS.items())) or name


def encode_images(model: Rater, pixels: Tensor) -> Tensor:
    """[images, 3, size, size] normalised -> [images, patches + 1, hidden].

    One view of each image and one newline, as published; the stock method is made for tiles.
    """
    hidden = encode_patches(model.model.vision_tower, pixels, _SELECT_LAYER)
    patches = model.model.multi_modal_projector(hidden)
    newline = model.model.image_newline.to(patches.dtype).expand(len(patches), 1, -1)
    return torch.cat([patches, newline], 1)


# The stock layout: a Llava, as its stock classes show a single image in one view. Those of
# LLaVA-OneVision make tiles of it: other numbers (98 of 140 ratings right).


def convert_rater(checkpoint: OneVision, out: Path) -> list[str]:
    """Write the stock layout; what a user should know of it, a line each. Raises RequestError."""
    out.mkdir(parents=True, exist_ok=True)
    with fitting(checkpoint.folder), quiet():
        marks = write_processor(checkpoint, out, CHAT)
        save_stock(_stock_llava(checkpoint, marks), out)
    return [f"an image is {checkpoint.image_tokens} tokens, its newline among them"]


def _stock_llava(checkpoint: OneVision, marks: list[int]) -> LlavaForConditionalGeneration:
    """The model with a row for each mark: an image's patches are put in the place of the first,
    and the second is the image newline."""
    size, folder = vocabulary(checkpoint), checkpoint.folder
    state = stock_state(checkpoint)
    newline = state.pop("model.image_newline")[:]
    start = open_tokenizer(folder).convert_tokens_to_ids(START)
    embeddings, head = BY_TOKEN
    # no answer has a mark: scored like an id before theirs, neither is ever the likeliest token
    rows = torch.tensor([*range(size), *[start] * (max(marks) + 1 - size)])
    state[head] = state.get(head, state[embeddings])[rows]
    embedded = state[embeddings][rows]
    embedded[marks[1]] = newline
    state[embeddings] = embedded
    text = {**checkpoint.text_config, "vocab_size": len(rows), "tie_word_embeddings": False}
    config = LlavaConfig(
        text_config=AutoConfig.for_model(**text),
        vision_config=AutoConfig.for_model(**checkpoint.tower.config, vision_use_head=False),
        image_token_index=marks[0],
        image_seq_length=checkpoint.tower.patches,
        projector_hidden_act="gelu",
        vision_feature_layer=_SELECT_LAYER,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )
    dtype = str(checkpoint.config.get("torch_dtype", "bfloat16"))
    kind = LlavaForConditionalGeneration
    model, _ = build_model(kind, dtype, folder, config, state)
    # greedy, as the published scripts ask, with the folder's own ends and penalty
    model.generation_config.do_sample = False
    model.generation_config.eos_token_id = sorted(checkpoint.end_ids)
    model.generation_config.pad_token_id = checkpoint.generation.get("pad_token_id")
    model.generation_config.repetition_penalty = checkpoint.repetition_penalty
    found: LlavaForConditionalGeneration = model
    return found
