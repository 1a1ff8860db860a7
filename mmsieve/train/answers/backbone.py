"""An enhancer from a pretrained language model and a vision tower, in AITQE's layout.

As published (arXiv 2410.16166): Qwen2, SigLIP, and a new two-layer projector between them.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import safe_open
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from mmsieve.errors import RequestError
from mmsieve.models import llava
from mmsieve.models.enhancer import BACKBONES, EnhancerCheckpoint
from mmsieve.models.files import read_json, tensor_files
from mmsieve.models.tokenizer import open_tokenizer
from mmsieve.models.tower import open_tower
from mmsieve.train.answers.recipe import Backbone
from mmsieve.train.pretrained import backbone_folder


def write_backbone(folder: Path, start: Backbone) -> None:
    """Write the checkpoint folder that training starts from; raises RequestError."""
    language, vision = backbone_folder(start.language_model), backbone_folder(start.vision_tower)
    text = read_json(language / "config.json")
    if text.get("model_type") not in BACKBONES:
        allowed = ", ".join(BACKBONES)
        raise RequestError(f"{language}: model_type {text.get('model_type')!r}: not {allowed}")
    tower = open_tower(vision)
    if tower.kind != "siglip":
        raise RequestError(f"{vision}: a {tower.kind} tower: AITQE's is a siglip")
    config = text | published_config(tower.config, int(text["vocab_size"]))
    config["language_model_name_or_path"] = start.language_model
    config["vision_model_name_or_path"] = start.vision_tower
    own = {"plain_text": True, "max_text_tokens": 1024, "backbone": text["model_type"]}
    with TemporaryDirectory() as temporary:
        place = Path(temporary)
        open_tokenizer(language).save_pretrained(place)
        like = EnhancerCheckpoint(place, config | {"mmsieve": own}, {}, tower)
        model = LlavaForConditionalGeneration(llava.stock_config(like))
        missing, _ = model.load_state_dict(_state(language, model, tower.tensors), strict=False)
        new = (
            "model.multi_modal_projector.",
            "lm_head." if model.config.tie_word_embeddings else "-",
        )
        left = [name for name in missing if not name.startswith(new)]
        if left:
            raise RequestError(f"{language} or its tower {vision}: no tensor {left[0]}")
        model.model.multi_modal_projector.linear_2.bias.data.zero_()
        _write_ends(place, language, text)
        llava.save_enhancer(model, folder, like, own)


def published_config(vision: dict[str, Any], vocabulary: int) -> dict[str, Any]:
    """What AITQE's config.json says beside the language model's own."""
    return {
        "model_type": "mm",
        "architectures": ["MMForCausalLM"],
        "image_aspect_ratio": "square",
        "image_tile_tokens": (vision["image_size"] // vision["patch_size"]) ** 2,
        "image_token_index": vocabulary,
        "mm_projector_type": "mlp",
        "pesudo_img_size": vision["image_size"],
        "pesudo_patch_size": vision["patch_size"],
        "pooling_kernel": 1,
        "visual_hidden_dim": vision["hidden_size"],
    }


def _state(
    language: Path, model: LlavaForConditionalGeneration, tower: dict[str, tuple[Path, str]]
) -> dict[str, Tensor]:
    """Stock name -> tensor of both parts."""
    state: dict[str, Tensor] = {}
    for name, file in tensor_files(language).items():
        with safe_open(file, "pt") as opened:
            inner = name.removeprefix("model.")
            stock = name if name.startswith("lm_head.") else f"model.language_model.{inner}"
            state[stock] = opened.get_tensor(name)
    nested = "vision_model." if hasattr(model.model.vision_tower, "vision_model") else ""
    for name, (file, theirs) in tower.items():
        with safe_open(file, "pt") as opened:
            state[f"model.vision_tower.{nested}{name}"] = opened.get_tensor(theirs)
    return state


def _write_ends(place: Path, language: Path, text: dict[str, Any]) -> None:
    """The ids that end an answer: the language model's own."""
    file = language / "generation_config.json"
    found = read_json(file).get("eos_token_id") if file.is_file() else None
    ends = text.get("eos_token_id") if found is None else found
    settings = {"do_sample": False, "eos_token_id": ends}
    (place / "generation_config.json").write_text(json.dumps(settings, indent=2) + "\n")
