"""LLaVA-OneVision-style folders that answer in text, read without importing torch.

The layout is that of the released mmSSR scorer and styler (github.com/lyumengyao/mmssr, LLaVA-NeXT
code): `config.json` is Qwen2's own plus `mm_*` keys, a two-layer projector, one newline embedding
after each image, and the vision tower among the weights. mmsieve writes the same layout with one
more key, `mmsieve`: how its own checkpoints want to be asked.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmsieve.errors import RequestError
from mmsieve.images import ImageSpec
from mmsieve.methods.files import read_json, tensor_files
from mmsieve.methods.tokenizer import check_tokenizer
from mmsieve.methods.tower import Tower, find_inside

KIND = "llava_qwen"
"""`model_type` of these folders."""

_WANTED = {"mm_projector_type": "mlp2x_gelu", "mm_vision_select_feature": "patch"}
_NEWLINE = "model.image_newline"
_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class OneVision:
    """A rater's folder, understood: all that is needed to build, feed and name it."""

    folder: Path
    config: dict[str, Any] = field(repr=False)
    """config.json as it is."""
    generation: dict[str, Any] = field(repr=False)
    """generation_config.json as it is; empty where there is none."""
    tensors: dict[str, Path] = field(repr=False)
    """Tensor name -> file."""
    tower: Tower
    """The whole tower's geometry, the tensors of all layers but the last, whose input is used."""

    @property
    def own(self) -> dict[str, Any] | None:
        """How a checkpoint made by mmsieve wants to be asked; None for a released one."""
        own = self.config.get("mmsieve")
        return own if isinstance(own, dict) else None

    @property
    def image(self) -> ImageSpec:
        """What the vision tower takes."""
        return self.tower.image

    @property
    def image_tokens(self) -> int:
        """Embeddings that an image takes in the sequence: its patches and a newline."""
        return self.tower.patches + 1

    @property
    def max_sequence(self) -> int:
        """Longest sequence after images are spliced in."""
        return int(self.config.get("tokenizer_model_max_length", 32768))

    @property
    def end_ids(self) -> frozenset[int]:
        """The ids that end an answer."""
        ids = self.generation.get("eos_token_id", self.config.get("eos_token_id"))
        return frozenset(ids if isinstance(ids, list) else [ids])

    @property
    def repetition_penalty(self) -> float:
        """What the folder's generation_config.json asks for."""
        return float(self.generation.get("repetition_penalty", 1.0))

    @property
    def ties_embeddings(self) -> bool:
        """Whether the head is the input embedding."""
        return bool(self.config.get("tie_word_embeddings", False))


def is_onevision(config: dict[str, Any], tensors: dict[str, Path]) -> bool:
    """Whether a folder's config and tensors are those of a model of this kind."""
    return config.get("model_type") == KIND and "score.weight" not in tensors


def open_onevision(folder: Path) -> OneVision:
    """Understand a rater's folder; raises RequestError where mmsieve can't rate with it."""
    config = read_json(folder / "config.json")
    if config.get("model_type") != KIND:
        raise RequestError(f"{folder}: model_type {config.get('model_type')!r} is not {KIND!r}")
    tensors = tensor_files(folder)
    if "score.weight" in tensors:
        raise RequestError(f"{folder}: a quality classifier, which rates nothing: use `score`")
    tied = bool(config.get("tie_word_embeddings", False))
    for name in (_NEWLINE,) if tied else (_NEWLINE, _HEAD):
        if name not in tensors:
            raise RequestError(f"{folder}: no tensor `{name}`: it is not a LLaVA-OneVision model")
    for name, value in _WANTED.items():
        if config.get(name, value) != value:
            raise RequestError(f"{folder}: {name} {config[name]!r} is not {value!r}")
    check_tokenizer(folder)
    generation = folder / "generation_config.json"
    asked = read_json(generation) if generation.is_file() else {}
    tower = _used(folder, find_inside(folder, config, tensors))
    return OneVision(folder, config, asked, tensors, tower)


def _used(folder: Path, tower: Tower) -> Tower:
    """The tower with only the tensors that are computed: all layers but the last, no norm, no head.

    The published code deletes the last layer on building; a checkpoint's copy has it or has not.
    """
    if tower.kind != "siglip":
        raise RequestError(f"{folder}: its vision tower is a {tower.kind}, not a siglip")
    used = tower.layers - 1
    inside = {layer for name in tower.tensors if (layer := _layer(name)) is not None}
    if not inside.issuperset(range(used)):
        found = f"{len(inside)} layers in the copy inside"
        raise RequestError(f"{folder}: its vision tower has {tower.layers} layers, but {found}")
    kept = {}
    for name, place in tower.tensors.items():
        layer = _layer(name)
        if name.startswith("embeddings.") or (layer is not None and layer < used):
            kept[name] = place
    return replace(tower, tensors=kept)


def _layer(name: str) -> int | None:
    return int(name.split(".")[2]) if name.startswith("encoder.layers.") else None
