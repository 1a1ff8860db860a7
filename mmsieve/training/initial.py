"""Initial checkpoints from a pretrained language model and a vision tower, as published.

A classifier as LLaVA's initialize_vision_modules makes it (Victorwz/UniFilter): projector and head
are new, a tokenizer without a bos gets `<s>` on one of the language model's spare rows. An enhancer
as in AITQE (arXiv 2410.16166): Qwen2, SigLIP, and a new two-layer projector between them.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from mmsieve.devices import quiet
from mmsieve.errors import RequestError
from mmsieve.leftovers import scratch_folder
from mmsieve.methods.aitqe import model as aitqe_model
from mmsieve.methods.aitqe.checkpoint import LANGUAGE_MODELS, EnhancerCheckpoint
from mmsieve.methods.folders import HUB_ID, hub_folder, read_json, read_tensors, tensor_files
from mmsieve.methods.recognise import CLASSIFIERS, ENHANCER
from mmsieve.methods.tokenizer import check_tokenizer, open_tokenizer
from mmsieve.methods.tower import INSIDE, Tower, find_tower, open_tower
from mmsieve.methods.unifilter.checkpoint import ARCHITECTURES, Checkpoint
from mmsieve.methods.unifilter.model import QualityClassifier, QualityConfig, save_classifier
from mmsieve.training.data import drawn_training
from mmsieve.training.recipe import Architecture, Backbone, BaseRecipe, Pretrained


def write_initial(folder: Path, recipe: BaseRecipe) -> None:
    """Write the checkpoint that a training starts from; what is not pretrained is random."""
    torch.manual_seed(recipe.seed)
    if isinstance(recipe.start, Pretrained):
        write_pretrained(folder, recipe.start)
    elif isinstance(recipe.start, Backbone):
        write_backbone(folder, recipe.start)
    else:
        drawn_training().write_initial(folder, recipe)


def backbone_folder(name: str) -> Path:
    """The folder of a language model or tower, by folder or hub id; raises RequestError."""
    folder = Path(name).expanduser()
    found = folder if folder.is_dir() else hub_folder(name) if HUB_ID.fullmatch(name) else None
    if found is None or not (found / "config.json").is_file():
        raise RequestError(f"no model {name!r}: give a folder in the stock layout, or a hub id")
    return found


def check_backbone(start: Pretrained | Backbone) -> None:
    """Raise RequestError where the parts are not there, or do not fit each other."""
    language = backbone_folder(start.language_model)
    _layout(language)
    check_tokenizer(language)
    vision = backbone_folder(start.vision_tower)
    if isinstance(start, Pretrained) and start.projector == "identity":
        hidden = read_json(language / "config.json").get("hidden_size")
        width = _vision_settings(vision)["hidden_size"]
        if hidden != width:
            widths = f"{vision} is {width} wide, {language} {hidden}"
            raise RequestError(f"--projector identity: {widths}: take another kind")


def _vision_settings(vision: Path) -> dict[str, int]:
    """Width, image size and patch size of a tower, the stock defaults where it leaves them out."""
    config = read_json(vision / "config.json")
    unsaid = {"hidden_size": 768, "image_size": 224, "patch_size": 16}
    said = config.get("vision_config", config)
    return {name: int(said.get(name, value)) for name, value in unsaid.items()}


def _stock_tensors(
    language: Path, tower: Tower, places: tuple[str, str], unused: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Name -> tensor of a language model and a tower, inside a model that has them in `places`."""
    inside_language, inside_tower = places
    files = {inside_tower + name: found for name, found in tower.tensors.items()}
    for name, file in tensor_files(language).items():
        is_head = name.startswith("lm_head.")
        files[name if is_head else inside_language + name.removeprefix("model.")] = (file, name)
    return read_tensors({k: place for k, place in files.items() if not k.startswith(unused)})


# A classifier, in the layout of UniFilter


def classifier_settings(start: Architecture | Pretrained) -> dict[str, Any]:
    """What a classifier's config.json says of the inputs that it is trained on."""
    own: dict[str, Any] = {"max_text_tokens": start.max_text_tokens, "plain_text": True}
    return own | ({} if start.image_fit == "stretch" else {"image_fit": start.image_fit})


def write_pretrained(folder: Path, start: Pretrained) -> None:
    """Write a classifier's checkpoint; raises RequestError where the parts do not fit."""
    language = backbone_folder(start.language_model)
    with scratch_folder() as place:
        config = _classifier_config(language, start)
        tokenizer = open_tokenizer(language)
        if tokenizer.bos_token is None:
            tokenizer.add_special_tokens({"bos_token": "<s>"})
        if len(tokenizer) > int(config["vocab_size"]):
            raise RequestError(f"{language}: no spare row for a bos among its embeddings")
        tokenizer.save_pretrained(place)
        (place / "config.json").write_text(json.dumps(config))
        like = Checkpoint(place, config, {}, find_tower(place, config, {}))
        inside = f"{INSIDE}vision_model."
        # The scoring head takes the place of the language model's; the pooling head is never used.
        unused = ("lm_head.", f"{inside}head.")
        with quiet():
            model, info = QualityClassifier.from_pretrained(
                None,
                config=QualityConfig.of(like),
                state_dict=_stock_tensors(language, like.tower, ("model.", inside), unused),
                dtype=torch.float32,
                output_loading_info=True,
            )
        new = ("model.mm_projector.", "score.")
        missing = [name for name in sorted(info["missing_keys"]) if not name.startswith(new)]
        if missing:
            raise RequestError(f"{language} or its tower: no tensor {missing[0]}")
        save_classifier(model, folder, like, classifier_settings(start))


def output_embedding(start: Pretrained) -> Tensor:
    """[vocabulary, hidden]: the output embedding of a language model that does not tie it."""
    language = backbone_folder(start.language_model)
    name = "lm_head.weight"
    file = tensor_files(language).get(name)
    if file is None:
        raise RequestError(f"{language}: no tensor {name}, which stage 1 needs")
    return read_tensors({name: (file, name)})[name]


def _layout(language: Path) -> str:
    """The published `model_type` around a language model; raises RequestError."""
    kind = read_json(language / "config.json").get("model_type")
    for layout, backbone in CLASSIFIERS.items():
        if backbone == kind:
            return layout
    allowed = ", ".join(CLASSIFIERS.values())
    raise RequestError(f"{language}: model_type {kind!r} is not one of {allowed}")


def _classifier_config(language: Path, start: Pretrained) -> dict[str, Any]:
    layout = _layout(language)
    vision = _vision_settings(backbone_folder(start.vision_tower))
    folder = Path(start.vision_tower).expanduser()
    tower = str(folder.resolve() if folder.is_dir() else start.vision_tower)
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    return read_json(language / "config.json") | {
        "model_type": layout,
        "architectures": [ARCHITECTURES[layout]],
        "num_labels": start.labels,
        "use_cache": False,
        **classifier_config(start, tower, vision["hidden_size"], patches),
    }


def classifier_config(
    start: Architecture | Pretrained, tower: str, width: int, patches: int
) -> dict[str, Any]:
    """What UniFilter's config.json says of the images: features of `patches`, `width` of each."""
    pooled = start.image_tokens is not None or isinstance(start, Architecture)
    return {
        "mm_hidden_size": width,
        "mm_num_image_tokens": start.image_tokens or patches,
        "mm_projector_type": start.projector or ("aapool_mlp" if pooled else "mlp2x_gelu"),
        "mm_vision_select_layer": -1,
        "mm_vision_select_feature": "patch",
        "mm_vision_tower": tower,
        "tokenizer_model_max_length": start.max_sequence,
    }


# An enhancer, in the layout of AITQE


def write_backbone(folder: Path, start: Backbone) -> None:
    """Write an enhancer's checkpoint; raises RequestError where the parts do not fit."""
    language, vision = backbone_folder(start.language_model), backbone_folder(start.vision_tower)
    text = read_json(language / "config.json")
    if text.get("model_type") not in LANGUAGE_MODELS:
        allowed = ", ".join(LANGUAGE_MODELS)
        raise RequestError(f"{language}: model_type {text.get('model_type')!r}: not {allowed}")
    tower = open_tower(vision)
    if tower.kind != "siglip":
        raise RequestError(f"{vision}: a {tower.kind} tower: AITQE's is a siglip")
    config = text | published_config(tower.config, int(text["vocab_size"]))
    config["language_model_name_or_path"] = start.language_model
    config["vision_model_name_or_path"] = start.vision_tower
    own = {"plain_text": True, "max_text_tokens": 1024, "backbone": text["model_type"]}
    with scratch_folder() as place:
        open_tokenizer(language).save_pretrained(place)
        like = EnhancerCheckpoint(place, config | {"mmsieve": own}, {}, tower)
        model = LlavaForConditionalGeneration(aitqe_model.stock_config(like))
        nested = "vision_model." if hasattr(model.model.vision_tower, "vision_model") else ""
        places = ("model.language_model.", f"model.vision_tower.{nested}")
        state = _stock_tensors(language, tower, places)
        missing, _ = model.load_state_dict(state, strict=False)
        tied = model.config.tie_word_embeddings
        new = ("model.multi_modal_projector.", *(["lm_head."] if tied else []))
        lacking = [name for name in missing if not name.startswith(new)]
        if lacking:
            raise RequestError(f"{language} or its tower {vision}: no tensor {lacking[0]}")
        model.model.multi_modal_projector.linear_2.bias.data.zero_()
        file = language / "generation_config.json"
        found = read_json(file).get("eos_token_id") if file.is_file() else None
        ends = text.get("eos_token_id") if found is None else found  # of an answer
        settings = {"do_sample": False, "eos_token_id": ends}
        (place / "generation_config.json").write_text(json.dumps(settings, indent=2) + "\n")
        aitqe_model.save_enhancer(model, folder, like, own)


def published_config(vision: dict[str, Any], vocabulary: int) -> dict[str, Any]:
    """What AITQE's config.json says beside the language model's own."""
    return {
        "model_type": ENHANCER,
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
