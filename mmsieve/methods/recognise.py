"""Which published layout a checkpoint folder has, and which language model is inside it.

The published trainings save their config through AutoConfig, so `model_type` is whatever the base
model's was: folders of one kind say `qwen2`, `llava` or `llava_qwen` (LLaVA-NeXT,
llava/train/train.py). Names of tensors and the class in `architectures` are what decides here;
`model_type` is looked at where `architectures` is silent. Read without torch.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from mmsieve.errors import RequestError
from mmsieve.methods.configs import read_config_file
from mmsieve.methods.folders import FIX, tensor_files

Method: TypeAlias = Literal["unifilter", "mmssr", "aitqe"]

CLASSIFIERS = {
    "llava_qwen3": "qwen3",
    "llava_qwen": "qwen2",
    "llava_llama": "llama",
    "llava_phi3": "phi3",
    "llava_gemma": "gemma2",
}
"""`model_type` of a published quality classifier -> that of the stock language model inside."""

RATER, ENHANCER = "llava_qwen", "mm"
"""`model_type` of mmSSR's and of AITQE's class."""

_VERBS: dict[Method, tuple[str, str]] = {
    "unifilter": ("score", "a quality classifier (UniFilter)"),
    "mmssr": ("rate", "a LLaVA-OneVision-style model (mmSSR)"),
    "aitqe": ("enhance", "an enhancer (AITQE)"),
}
"""Method -> the verb for it, and what its folder holds."""

_FAMILIES: tuple[tuple[str, str | None], ...] = (
    ("qwen[23]_?moe|mixtral|mistral|mpt|gemma_?3|deepseek|phi_?moe", None),
    ("qwen_?3", "qwen3"),
    ("qwen", "qwen2"),
    ("llama", "llama"),
    ("phi_?3", "phi3"),
    ("gemma", "gemma2"),
)
"""What a name says of the language model -> its stock `model_type`; None: not supported."""

_STOCK = ("language_model.", "model.language_model.")
"""How tensors of the stock Hugging Face layouts begin."""


@dataclass(frozen=True)
class PublishedFolder:
    """A folder in a published layout, recognised."""

    folder: Path
    method: Method
    backbone: str
    """`model_type` of the stock language model inside."""
    config: dict[str, Any] = field(repr=False)
    """config.json, with the `model_type` of the published class."""
    tensors: dict[str, Path] = field(repr=False)
    """Tensor name -> file."""
    note: str
    """What it was recognised as, and by what, in one line."""

    @property
    def verb(self) -> str:
        """What it is for."""
        return _VERBS[self.method][0]


def recognise(folder: Path) -> PublishedFolder:
    """What a folder holds; raises RequestError for one in none of the published layouts."""
    file = folder / "config.json"
    config = read_config_file(file)
    tensors = tensor_files(folder)
    method = _find_method(folder, config, tensors)
    prefix = "model.model." if method == "aitqe" else "model."
    backbone = _find_backbone(file, config, tensors, prefix)
    wanted = {"mmssr": RATER, "aitqe": ENHANCER}.get(method) or next(
        kind for kind, inside in CLASSIFIERS.items() if inside == backbone
    )
    said = [*_architectures(config), f"model_type {config.get('model_type', 'not given')}"]
    note = f"recognised as {_VERBS[method][1]} on {backbone}, by its tensors ({', '.join(said)})"
    return PublishedFolder(folder, method, backbone, config | {"model_type": wanted}, tensors, note)


def open_published(folder: Path, method: Method) -> PublishedFolder:
    """A folder of this method; raises RequestError for another, naming the verb that it is for."""
    found = recognise(folder)
    if found.method != method:
        what, wanted = (_VERBS[name][1] for name in (found.method, method))
        raise RequestError(f"{folder}: {what}, not {wanted}: use `{found.verb}`")
    return found


def _find_method(folder: Path, config: Mapping[str, Any], tensors: Collection[str]) -> Method:
    """The method whose published class has these tensors; raises RequestError for none."""

    def has(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in tensors)

    if has("model.model.") and has("vision_model.", "mm_projector."):
        return "aitqe"
    sees = has("model.mm_projector.", "model.vision_tower.", "model.image_newline")
    if "score.weight" in tensors and (sees or "mm_vision_tower" in config):
        return "unifilter"
    if sees and not has(*_STOCK):
        return "mmssr"
    if has(*_STOCK):
        what = "in the stock Hugging Face layout: take the folder as its authors published it"
    else:
        what = "without the tensors of UniFilter's, mmSSR's or AITQE's class"
    named = ", ".join(_architectures(config)) or config.get("model_type", "no architectures")
    raise RequestError(f"{folder}: a model ({named}) {what}")


def _find_backbone(
    file: Path, config: Mapping[str, Any], tensors: Collection[str], prefix: str
) -> str:
    """The stock language model of these tensors; raises RequestError where the config says another.

    `prefix` is what its tensors' names begin with.
    """
    found = _family_of_tensors({name.removeprefix(prefix) for name in tensors})
    key, named = "architectures", _families(_architectures(config))
    if not named:
        key, named = "model_type", _families([str(config.get("model_type", ""))])
    said = config.get(key)
    known = {found, *named} - {None} <= {*CLASSIFIERS.values()}
    if None in named or not known or not (found or named):
        allowed = ", ".join(CLASSIFIERS.values())
        raise RequestError(f"{file}: {key} {said!r}: its language model is not one of {allowed}")
    if found and named and found not in named:
        raise RequestError(f"{file}: {key} is {said!r}, the tensors are those of {found}: {FIX}")
    return found or str(min(map(str, named)))


def _architectures(config: Mapping[str, Any]) -> list[str]:
    named = config.get("architectures")
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def _families(names: list[str]) -> set[str | None]:
    """The language models that names speak of."""
    found = set()
    for name in names:
        families = (family for words, family in _FAMILIES if re.search(words, name, re.IGNORECASE))
        found |= set(list(families)[:1])
    return found


def _family_of_tensors(names: Collection[str]) -> str | None:
    """The stock language model whose first layer has tensors of these names; None for no layer."""
    attention = {
        name.removeprefix("layers.0.self_attn.")
        for name in names
        if name.startswith("layers.0.self_attn.")
    }
    four_norms = "layers.0.pre_feedforward_layernorm.weight" in names
    if "q_norm.weight" in attention:
        return "gemma3" if four_norms else "qwen3"
    if four_norms:
        return "gemma2"
    if "qkv_proj.weight" in attention:
        return "phi3"
    if "q_proj.bias" in attention and "o_proj.bias" not in attention:
        return "qwen2"
    return "llama" if "q_proj.weight" in attention else None
