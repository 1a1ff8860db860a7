"""A rater's folder -> the stock Hugging Face layout, for servers that know the stock class."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor

from mmsieve.models.onevision import OneVision, open_onevision
from mmsieve.models.quiet import quiet
from mmsieve.models.rater import BY_TOKEN, build_stock, stock_config, stock_state, vocabulary
from mmsieve.models.tokenizer import open_tokenizer

_IMAGE, _VIDEO = "<image>", "<video>"

CHAT_TEMPLATE = """\
{%- if messages[0].role != 'system' -%}
{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif -%}
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'text' -%}
{{ part.text }}
{%- else -%}
{{ '<image>\\n' }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
"""
"""The published frame around turns; a newline follows an image, as there."""


def convert_rater(folder: Path, out: Path) -> list[str]:
    """Write the stock layout of a rater's folder; what a user should know of it, a line each.

    Raises RequestError where the folder can't be read.
    """
    checkpoint = open_onevision(folder)
    size = vocabulary(checkpoint)
    config = stock_config(checkpoint)
    config.image_token_index, config.video_token_index = size, size + 1
    config.text_config.vocab_size = size + 2
    state = _with_marks(stock_state(checkpoint), checkpoint, size)
    dtype = str(checkpoint.config.get("torch_dtype", "bfloat16"))
    model = build_stock(checkpoint, state, config, dtype)
    _generate_as(model, checkpoint)
    with quiet():
        model.save_pretrained(out)
        _save_tokenizer(folder, out)
    for name, values in _processor(checkpoint).items():
        (out / name).write_text(json.dumps(values, indent=2) + "\n")
    return [
        "the stock processor also shows tiles of a single image, as in training; `rate` shows one "
        "view, as the published scorer does"
    ]


def _save_tokenizer(folder: Path, out: Path) -> None:
    tokenizer = open_tokenizer(folder)
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in (_IMAGE, _VIDEO)])
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(out)
    file = out / "tokenizer_config.json"
    # a class that transformers 4 knows too, and none of this machine's settings
    config = {**json.loads(file.read_text("utf-8")), "tokenizer_class": "Qwen2Tokenizer"}
    left_out = ("backend", "is_local", "local_files_only")
    kept = {name: value for name, value in config.items() if name not in left_out}
    file.write_text(json.dumps(kept, indent=2) + "\n", "utf-8")


def _with_marks(state: dict[str, Tensor], checkpoint: OneVision, size: int) -> dict[str, Tensor]:
    """A row more for the mark of images and for that of videos, which no answer has.

    Their logits are those of <|im_start|>, an id before theirs, so that neither is ever the
    likeliest token.
    """
    start = open_tokenizer(checkpoint.folder).convert_tokens_to_ids("<|im_start|>")
    rows = torch.tensor([*range(size), start, start])
    return state | {name: state[name][rows] for name in BY_TOKEN if name in state}


def _generate_as(model: Any, checkpoint: OneVision) -> None:
    """Greedy, as the published scripts ask, with the folder's own ends and penalty."""
    model.generation_config.do_sample = False
    model.generation_config.eos_token_id = sorted(checkpoint.end_ids)
    model.generation_config.pad_token_id = checkpoint.generation.get("pad_token_id")
    model.generation_config.repetition_penalty = checkpoint.repetition_penalty


def _processor(checkpoint: OneVision) -> dict[str, dict[str, Any]]:
    """The files of LlavaOnevisionProcessor, by name."""
    spec = checkpoint.image
    image = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_grid_pinpoints": checkpoint.config.get("image_grid_pinpoints"),
        "image_mean": list(spec.mean),
        "image_processor_type": "LlavaOnevisionImageProcessor",
        "image_std": list(spec.std),
        "processor_class": "LlavaOnevisionProcessor",
        "resample": spec.resample,
        "rescale_factor": spec.scale,
        "size": {"height": spec.size, "width": spec.size},
    }
    shown = ("do_convert_rgb", "do_normalize", "do_rescale", "do_resize", "image_mean", "image_std")
    same = (*shown, "processor_class", "resample", "rescale_factor", "size")
    video = {name: image[name] for name in same}
    return {
        "preprocessor_config.json": image,
        "video_preprocessor_config.json": video
        | {"video_processor_type": "LlavaOnevisionVideoProcessor"},
        "processor_config.json": {
            "image_token": _IMAGE,
            "num_image_tokens": checkpoint.tower.patches,
            "processor_class": "LlavaOnevisionProcessor",
            "video_token": _VIDEO,
            "vision_aspect_ratio": checkpoint.config.get("image_aspect_ratio", "anyres_max_9"),
            "vision_feature_select_strategy": "full",
        },
    }
