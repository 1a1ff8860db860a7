"""AITQE in the stock Hugging Face layout, to be loaded or served by others.

The folder is a LlavaForConditionalGeneration with its processor. A chat of one message, an image
and the text that follows it, becomes the published prompt to the token: the chat template adds
nothing, and the tokenizer takes two newlines behind the image one by one, as the published code
does.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlavaForConditionalGeneration

from mmsieve.images import ImageSpec
from mmsieve.models.enhancer import EnhancerCheckpoint
from mmsieve.models.llava import load_enhancer
from mmsieve.models.quiet import quiet
from mmsieve.models.tokenizer import load_tokenizer

IMAGE_MARK = "<|aitqe_image|>"
"""Stands for an image; an id of its own, as every id like it is counted as one."""

_TWO_NEWLINES = {
    "type": "Split",
    "pattern": {"Regex": r"\A\n(?=\n)"},
    "behavior": "Isolated",
    "invert": False,
}

_CHAT = (
    "{%- for message in messages %}"
    "{%- if message['content'] is string %}{{- message['content'] }}"
    "{%- else %}{%- for part in message['content'] %}"
    "{%- if part['type'] == 'text' %}{{- part['text'] }}"
    "{%- else %}{{- '" + IMAGE_MARK + "' }}{%- endif %}"
    "{%- endfor %}{%- endif %}{%- endfor %}"
)


def write_stock(checkpoint: EnhancerCheckpoint, folder: Path) -> list[str]:
    """Write the checkpoint in the stock layout; what a user should know of it, a line each.

    Raises RequestError as `load_enhancer` does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dtype = str(checkpoint.config.get("torch_dtype") or "float32")
    model = load_enhancer(checkpoint, dtype)
    image = _write_tokenizer(checkpoint, folder)
    _make_room(model, image, checkpoint)
    model.generation_config.max_new_tokens = 384  # as published
    with quiet():
        model.save_pretrained(folder)
    spec, tower = checkpoint.tower.image, checkpoint.tower.config
    _write(folder / "preprocessor_config.json", _image_settings(spec))
    settings = {
        "processor_class": "LlavaProcessor",
        "image_token": IMAGE_MARK,
        "patch_size": tower["patch_size"],
        "vision_feature_select_strategy": "full",
        "num_additional_image_tokens": 0,
    }
    _write(folder / "processor_config.json", settings)
    (folder / "chat_template.jinja").write_text(_CHAT)
    return [f"{checkpoint.tower.note}; an image is {checkpoint.image_tokens} tokens"]


def _make_room(
    model: LlavaForConditionalGeneration, image: int, checkpoint: EnhancerCheckpoint
) -> None:
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


def _write_tokenizer(checkpoint: EnhancerCheckpoint, folder: Path) -> int:
    """Write the tokenizer with an image token; the image token's id."""
    spec = load_tokenizer(checkpoint.folder)
    backend = spec.build()
    backend.add_special_tokens([IMAGE_MARK])
    parts = json.loads(backend.to_str())
    steps = parts.get("pre_tokenizer")
    parts["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [_TWO_NEWLINES, *([steps] if steps else [])],
    }
    (folder / "tokenizer.json").write_text(json.dumps(parts, ensure_ascii=False))
    names: dict[str, int | None] = {
        "bos_token": spec.bos,
        "eos_token": spec.eos,
        "pad_token": spec.pad,
    }
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": {"image_token": IMAGE_MARK},
        **{name: backend.id_to_token(token) for name, token in names.items() if token is not None},
    }
    _write(folder / "tokenizer_config.json", settings)
    return int(backend.token_to_id(IMAGE_MARK) or 0)


def _image_settings(spec: ImageSpec) -> dict[str, Any]:
    return {
        "image_processor_type": "SiglipImageProcessor",
        "processor_class": "LlavaProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": spec.size, "width": spec.size},
        "resample": spec.resample,
        "do_rescale": True,
        "rescale_factor": spec.scale,
        "do_normalize": True,
        "image_mean": spec.mean,
        "image_std": spec.std,
    }


def _write(file: Path, settings: dict[str, Any]) -> None:
    file.write_text(json.dumps(settings, indent=2) + "\n")
