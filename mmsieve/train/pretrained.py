"""A classifier from a pretrained language model and a vision tower, in the published layout.

As LLaVA's initialize_vision_modules does (Victorwz/UniFilter): the projector and the head are new,
a tokenizer without a bos gets `<s>` on one of the language model's spare rows.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from mmsieve.errors import RequestError
from mmsieve.models.classifier import QualityClassifier, QualityConfig
from mmsieve.models.files import HUB_ID, hub_folder, read_json, tensor_files
from mmsieve.models.quiet import quiet
from mmsieve.models.released import ARCHITECTURES, BACKBONES, Checkpoint
from mmsieve.models.storage import save_classifier
from mmsieve.models.tokenizer import check_tokenizer, open_tokenizer
from mmsieve.models.tower import INSIDE, find_tower
from mmsieve.train.recipe import Pretrained

_BEGIN = "<s>"


def backbone_folder(name: str) -> Path:
    """The folder of a language model or tower, by folder or hub id; raises RequestError."""
    folder = Path(name).expanduser()
    found = folder if folder.is_dir() else hub_folder(name) if HUB_ID.fullmatch(name) else None
    if found is None or not (found / "config.json").is_file():
        raise RequestError(f"no model {name!r}: give a folder in the stock layout, or a hub id")
    return found


def check_backbone(language_model: str, vision_tower: str) -> None:
    """Raise RequestError where the parts are not there or not of a supported family."""
    language = backbone_folder(language_model)
    _layout(language)
    check_tokenizer(language)
    backbone_folder(vision_tower)


def write_pretrained(folder: Path, start: Pretrained, own: dict[str, Any]) -> None:
    """Write the checkpoint folder that training starts from."""
    language = backbone_folder(start.language_model)
    with TemporaryDirectory() as temporary:
        place = Path(temporary)
        config = _config(language, start, find_width(start))
        tokenizer = open_tokenizer(language)
        if tokenizer.bos_token is None:
            tokenizer.add_special_tokens({"bos_token": _BEGIN})
        if len(tokenizer) > int(config["vocab_size"]):
            raise RequestError(f"{language}: no spare row for a bos among its embeddings")
        tokenizer.save_pretrained(place)
        (place / "config.json").write_text(json.dumps(config))
        tower = find_tower(place, config, {})
        like = Checkpoint(place, config, {}, tower)
        save_classifier(_model(like, language), folder, like, own)


def output_embedding(start: Pretrained) -> Tensor:
    """[vocabulary, hidden]: the output embedding of a language model that does not tie it."""
    language = backbone_folder(start.language_model)
    file = tensor_files(language).get("lm_head.weight")
    if file is None:
        raise RequestError(f"{language}: no tensor lm_head.weight, which stage 1 needs")
    with safe_open(file, "pt") as opened:
        table: Tensor = opened.get_tensor("lm_head.weight")
    return table


def find_width(start: Pretrained) -> int:
    """Width of the vision tower's hidden states."""
    config = read_json(backbone_folder(start.vision_tower) / "config.json")
    return int(config.get("vision_config", config).get("hidden_size", 768))


def _layout(language: Path) -> str:
    """The published `model_type` around a language model; raises RequestError."""
    kind = read_json(language / "config.json").get("model_type")
    for layout, backbone in BACKBONES.items():
        if backbone == kind:
            return layout
    allowed = ", ".join(BACKBONES.values())
    raise RequestError(f"{language}: model_type {kind!r} is not one of {allowed}")


def _config(language: Path, start: Pretrained, width: int) -> dict[str, Any]:
    layout = _layout(language)
    return read_json(language / "config.json") | {
        "model_type": layout,
        "architectures": [ARCHITECTURES[layout]],
        "num_labels": start.labels,
        "use_cache": False,
        "mm_hidden_size": width,
        "mm_num_image_tokens": start.image_tokens,
        "mm_projector_type": "aapool_mlp",
        "mm_vision_select_layer": -1,
        "mm_vision_select_feature": "patch",
        "mm_vision_tower": str(_named(start.vision_tower)),
        "tokenizer_model_max_length": start.max_sequence,
    }


def _named(tower: str) -> Path | str:
    folder = Path(tower).expanduser()
    return folder.resolve() if folder.is_dir() else tower


def _model(like: Checkpoint, language: Path) -> QualityClassifier:
    state: dict[str, Tensor] = {}
    for name, file in tensor_files(language).items():
        if not name.startswith("lm_head."):
            with safe_open(file, "pt") as opened:
                state[f"model.{name.removeprefix('model.')}"] = opened.get_tensor(name)
    for stock, (file, name) in like.tower.tensors.items():
        if not stock.startswith("head."):  # the pooling head is never used
            with safe_open(file, "pt") as opened:
                state[f"{INSIDE}vision_model.{stock}"] = opened.get_tensor(name)
    with quiet():
        model, info = QualityClassifier.from_pretrained(
            None,
            config=QualityConfig.of(like),
            state_dict=state,
            dtype=torch.float32,
            output_loading_info=True,
        )
    new = ("model.mm_projector.", "score.")
    missing = [name for name in sorted(info["missing_keys"]) if not name.startswith(new)]
    if missing:
        raise RequestError(f"{language} or its tower: no tensor {missing[0]}")
    return model  # type: ignore[no-any-return]
