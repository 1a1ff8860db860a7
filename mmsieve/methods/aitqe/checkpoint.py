"""Checkpoint folders of AITQE as they are published, read without importing torch.

The layout is that of github.com/hanhuang22/AITQE (model type `mm`): the language model's own
config with a few keys of the whole, and all weights, those of the SigLIP tower too, as
safetensors. mmsieve writes the same and adds one key, `mmsieve`, for what it leaves unsaid.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmsieve.errors import RequestError
from mmsieve.methods.files import read_json, tensor_files
from mmsieve.methods.tokenizer import check_tokenizer
from mmsieve.methods.tower import Tower, carried_tower

MODEL_TYPE = "mm"
TOWER = "vision_model.vision_model."
"""Prefix of the tower's tensors."""

LANGUAGE_MODELS = ("qwen2", "qwen3")
"""Stock language models that can be inside; the published one is the first."""

_SUPPORTED = {"mm_projector_type": "mlp", "image_aspect_ratio": "square", "pooling_kernel": 1}
"""What the published code knows of, and what its checkpoints have."""

_NOT_TEXT = {
    *_SUPPORTED,
    "IGNORE_INDEX",
    "architectures",
    "dtype",
    "eos_token_index",
    "image_pattern",
    "image_tile_tokens",
    "image_token_index",
    "language_model_name_or_path",
    "mmsieve",
    "model_type",
    "pad_token_index",
    "pesudo_img_size",
    "pesudo_patch_size",
    "pretraining_tp",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "vision_model_name_or_path",
    "visual_hidden_dim",
}


@dataclass(frozen=True)
class EnhancerCheckpoint:
    """An AITQE folder, understood: all that is needed to build, feed and name it."""

    folder: Path
    config: dict[str, Any] = field(repr=False)
    """config.json as it is."""
    tensors: dict[str, Path] = field(repr=False)
    """Tensor name -> file."""
    tower: Tower

    @property
    def own(self) -> dict[str, Any] | None:
        """How a checkpoint made by mmsieve wants its inputs; None for a released one."""
        own = self.config.get("mmsieve")
        return own if isinstance(own, dict) else None

    @property
    def text_config(self) -> dict[str, Any]:
        """The config of the stock language model."""
        kind = (self.own or {}).get("backbone", LANGUAGE_MODELS[0])
        kept = {name: value for name, value in self.config.items() if name not in _NOT_TEXT}
        return {**kept, "model_type": kind}

    @property
    def image_tokens(self) -> int:
        """Embeddings that an image takes in the sequence: all its patches."""
        return self.tower.patches

    @property
    def end_ids(self) -> frozenset[int]:
        """The ids that end an answer."""
        settings = self.folder / "generation_config.json"
        said = read_json(settings).get("eos_token_id") if settings.is_file() else None
        said = self.config.get("eos_token_id") if said is None else said
        return frozenset(said if isinstance(said, list) else [] if said is None else [said])


def is_enhancer(config: dict[str, Any], tensors: dict[str, Path]) -> bool:
    """Whether a folder with this config and these tensors is in AITQE's layout."""
    return config.get("model_type") == MODEL_TYPE and any(n.startswith(TOWER) for n in tensors)


def open_enhancer(folder: Path) -> EnhancerCheckpoint:
    """Understand a checkpoint folder; raises RequestError where it isn't AITQE's or not usable."""
    config = read_json(folder / "config.json")
    if config.get("model_type") != MODEL_TYPE:
        found = config.get("model_type")
        raise RequestError(f"{folder}: model_type {found!r}: AITQE's is {MODEL_TYPE!r}")
    for name, value in _SUPPORTED.items():
        if config.get(name, value) != value:
            raise RequestError(f"{folder}: {name} {config[name]!r}: only {value!r} is supported")
    tensors = tensor_files(folder)
    inside = {
        name.removeprefix(TOWER): (file, name)
        for name, file in tensors.items()
        if name.startswith(TOWER)
    }
    if not inside:
        raise RequestError(f"{folder}: no tensors {TOWER}*: its vision tower is missing")
    check_tokenizer(folder)
    source = str(config.get("vision_model_name_or_path") or "")
    checkpoint = EnhancerCheckpoint(
        folder, config, tensors, carried_tower(folder, config, source, inside)
    )
    _check(checkpoint)
    return checkpoint


def _check(checkpoint: EnhancerCheckpoint) -> None:
    folder, tower = checkpoint.folder, checkpoint.tower
    if tower.kind != "siglip":
        raise RequestError(f"{folder}: a {tower.kind} tower; AITQE's is SigLIP")
    wanted = checkpoint.config.get("image_tile_tokens", tower.patches)
    if int(wanted) != tower.patches:
        raise RequestError(
            f"{folder}: an image is to be {wanted} tokens, its tower ({tower.note}) makes "
            f"{tower.patches}"
        )
    kind = checkpoint.text_config["model_type"]
    if kind not in LANGUAGE_MODELS:
        raise RequestError(f"{folder}: language model {kind!r} is not one of {LANGUAGE_MODELS}")
