"""The stock Hugging Face layout that `convert` writes: a Llava, as servers and libraries load it.

vLLM (0.32), SGLang and transformers 5 read the same folder: one view of an image, stretched to the
tower's square, so that its patches are as many tokens. Tensors of the tower have the names that
all of them know (`model.vision_tower.vision_model.*`; some versions of transformers write them
without `vision_model.`, which vLLM refuses).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsieve.methods.base import pixel_settings
from mmsieve.methods.folders import save_tensors
from mmsieve.methods.tokenizer import load_tokenizer
from mmsieve.methods.tower import CheckpointFolder

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

_TOWER = "model.vision_tower."
_NESTED = "vision_model."


def save_stock(model: "LlavaForConditionalGeneration", folder: Path) -> None:
    """Write weights, config and generation settings of a model, in its number format."""
    tied = bool(model.config.tie_word_embeddings)
    state = {
        _served_name(name): tensor
        for name, tensor in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    save_tensors(state, folder)
    model.config.architectures = [type(model).__name__]
    model.config.dtype = model.dtype
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)


def _served_name(name: str) -> str:
    if not name.startswith(_TOWER):
        return name
    return f"{_TOWER}{_NESTED}{name.removeprefix(_TOWER).removeprefix(_NESTED)}"


def write_tokenizer(
    checkpoint: CheckpointFolder, folder: Path, marks: Sequence[str], line_breaks: str
) -> list[int]:
    """Write the tokenizer with marks more, the first of which stands for an image; their ids.

    `line_breaks` is a pattern of what is a token of its own, whatever follows it.
    """
    spec = load_tokenizer(checkpoint.folder, checkpoint.embedded)
    backend = spec.build()
    backend.add_special_tokens(list(marks))
    parts = json.loads(backend.to_str())
    pattern = {"Regex": line_breaks}
    split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    steps = [step for step in (split, parts.get("pre_tokenizer")) if step]
    parts["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    (folder / "tokenizer.json").write_text(json.dumps(parts, ensure_ascii=False), "utf-8")
    names = {"bos_token": spec.bos, "eos_token": spec.eos, "pad_token": spec.pad}
    settings: dict[str, Any] = {
        # other classes build a tokenizer of their own from the vocabulary
        "tokenizer_class": "PreTrainedTokenizerFast",
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": {"image_token": marks[0]},
        **{name: backend.id_to_token(token) for name, token in names.items() if token is not None},
    }
    _write(folder / "tokenizer_config.json", settings)
    return [int(backend.token_to_id(mark)) for mark in marks]


def write_processor(
    checkpoint: CheckpointFolder, folder: Path, image_mark: str, chat_template: str
) -> None:
    """Write what a LlavaProcessor is made of, beside the tokenizer."""
    kinds = {"image_processor_type": "SiglipImageProcessor", "processor_class": "LlavaProcessor"}
    _write(folder / "preprocessor_config.json", kinds | pixel_settings(checkpoint.image))
    settings = {
        "processor_class": "LlavaProcessor",
        "image_token": image_mark,
        "patch_size": checkpoint.tower.config["patch_size"],
        "vision_feature_select_strategy": "full",
        "num_additional_image_tokens": 0,
    }
    _write(folder / "processor_config.json", settings)
    (folder / "chat_template.jinja").write_text(chat_template, "utf-8")


def _write(file: Path, settings: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
