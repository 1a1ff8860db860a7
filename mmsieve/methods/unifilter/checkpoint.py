"""Checkpoint folders of UniFilter in the published (LLaVA-style) layout, read without torch.

The layout is that of github.com/Victorwz/UniFilter (LLaVA/llava/model): `config.json` is the
language model's own plus `mm_*` keys, weights are safetensors, and the vision tower is named by
`mm_vision_tower` while a copy of it may lie among the weights.
"""

import re
from math import isqrt
from pathlib import Path

from mmsieve.errors import RequestError
from mmsieve.methods.configs import below, check_text_sizes
from mmsieve.methods.folders import tensor_shape
from mmsieve.methods.recognise import CLASSIFIERS, open_published
from mmsieve.methods.tokenizer import check_tokenizer
from mmsieve.methods.tower import CheckpointFolder, find_tower

ARCHITECTURES = {kind: f"{kind.title().replace('_', '')}Classifier" for kind in CLASSIFIERS}
"""`model_type` -> the published class, such as `LlavaQwen3Classifier`."""

PROJECTORS = re.compile(r"aapool_mlp|linear|identity|mlp([1-9]\d?)x_gelu")
PROJECTOR_KINDS = "aapool_mlp, linear, mlpNx_gelu, identity"
"""Those of Victorwz/UniFilter, llava/model/multimodal_projector/builder.py."""


_MOST_IMAGE_TOKENS = 4096
"""Pooled to from fewer patches at most."""


class Checkpoint(CheckpointFolder):
    """A classifier's folder, understood: all that is needed to build, feed and name it."""

    @property
    def backbone(self) -> str:
        """`model_type` of the stock language model inside."""
        return CLASSIFIERS[self.config["model_type"]]

    @property
    def num_labels(self) -> int:
        """Outputs of the head; the published code leaves the key out where there are two."""
        labels = self.config.get("id2label")
        return int(self.config.get("num_labels", 2)) if labels is None else len(labels)

    @property
    def image_tokens(self) -> int:
        """Embeddings that an image takes in the sequence."""
        if self.projector == "aapool_mlp":
            return isqrt(int(self.config.get("mm_num_image_tokens", 144))) ** 2
        return self.tower.patches + (self.select_feature == "cls_patch")

    @property
    def projector(self) -> str:
        """`aapool_mlp`, `linear`, `mlpNx_gelu` or `identity`."""
        return str(self.config.get("mm_projector_type", "linear"))

    @property
    def select_layer(self) -> int:
        """Which hidden state of the tower is used; -1 is the last layer's, before its norm."""
        return int(self.config.get("mm_vision_select_layer", -1))

    @property
    def select_feature(self) -> str:
        """`patch`, or `cls_patch` where a CLIP tower's class token is kept."""
        return str(self.config.get("mm_vision_select_feature", "patch"))

    @property
    def max_sequence(self) -> int | None:
        """Longest sequence after images are spliced in; more is cut at the end."""
        length = self.config.get("tokenizer_model_max_length")
        return None if length is None else int(length)


def open_checkpoint(folder: Path) -> Checkpoint:
    """Understand a checkpoint folder; raises RequestError where mmsieve can't score with it."""
    known = open_published(folder, "unifilter")
    config, tensors = known.config, known.tensors
    check_tokenizer(folder)
    places = {name: (file, name) for name, file in tensors.items()}
    check_text_sizes(folder / "config.json", config, below(places, "model."))
    tower = find_tower(folder, config, tensors)
    checkpoint = Checkpoint(folder, config, tensors, tower, known.note)
    if not PROJECTORS.fullmatch(checkpoint.projector):
        found = f"projector {checkpoint.projector!r}"
        raise RequestError(f"{folder}: {found} is not one of {PROJECTOR_KINDS}")
    if "unpad" in str(config.get("mm_patch_merge_type", "flat")):
        raise RequestError(f"{folder}: mm_patch_merge_type with `unpad` is not supported")
    features = ("patch", "cls_patch") if tower.kind == "clip" else ("patch",)
    feature, layer = checkpoint.select_feature, checkpoint.select_layer
    if feature not in features:
        found = f"select feature {feature!r} of a {tower.kind} tower"
        raise RequestError(f"{folder}: {found}: not usable")
    if not -tower.layers - 1 <= layer <= tower.layers:
        raise RequestError(f"{folder}: vision layer {layer} of {tower.layers} does not exist")
    _check_projector(folder, checkpoint)
    width = int(tower.config["hidden_size"])
    if int(config.get("mm_hidden_size", width)) != width:
        wanted = config["mm_hidden_size"]
        raise RequestError(f"{folder}: its tower is {wanted} wide, the one found is {width}")
    return checkpoint


def _check_projector(folder: Path, checkpoint: Checkpoint) -> None:
    """Raise RequestError where what is beside the tower and the language model isn't so large."""
    depth = PROJECTORS.fullmatch(checkpoint.projector)
    layers = sum(n.startswith("model.mm_projector.") for n in checkpoint.tensors) // 2
    if depth is not None and depth[1] and int(depth[1]) != layers:
        raise RequestError(
            f"{folder}: projector {checkpoint.projector!r}, and {layers} layers of it"
        )
    if checkpoint.image_tokens > max(_MOST_IMAGE_TOKENS, checkpoint.tower.patches + 1):
        wanted, patches = checkpoint.image_tokens, checkpoint.tower.patches
        raise RequestError(f"{folder}: mm_num_image_tokens is {wanted}, of {patches} patches")
    heads = tensor_shape(checkpoint.tensors["score.weight"], "score.weight")[:1]
    if heads != (checkpoint.num_labels,):
        found = f"{checkpoint.num_labels} labels (id2label, num_labels), score.weight {heads}"
        raise RequestError(f"{folder / 'config.json'}: {found}")
