"""Checkpoint folders of AITQE as they are published, read without importing torch.

The layout is that of github.com/hanhuang22/AITQE (model type `mm`): the language model's own
config with a few keys of the whole, and all weights, those of the SigLIP tower too, as
safetensors.
"""

from pathlib import Path

from mmsieve.errors import RequestError
from mmsieve.methods.configs import below, check_projector_sizes, check_text_sizes
from mmsieve.methods.recognise import open_published
from mmsieve.methods.stock import ChatLayout
from mmsieve.methods.tokenizer import check_tokenizer
from mmsieve.methods.tower import CheckpointFolder, Places, check_config, inside_tower

TOWER = "vision_model.vision_model."
"""Prefix of the tower's tensors."""

LANGUAGE_MODELS = ("qwen2", "qwen3")
"""Stock language models that can be inside; the published one is the first."""

_SUPPORTED = {"mm_projector_type": "mlp", "image_aspect_ratio": "square", "pooling_kernel": 1}
"""What the published code knows of, and what its checkpoints have."""

_NOT_TEXT = (
    *_SUPPORTED,
    "IGNORE_INDEX",
    "eos_token_index",
    "image_pattern",
    "image_tile_tokens",
    "image_token_index",
    "language_model_name_or_path",
    "pad_token_index",
    "pesudo_img_size",
    "pesudo_patch_size",
    "pretraining_tp",
    "vision_model_name_or_path",
    "visual_hidden_dim",
)
"""Keys of config.json that are the whole's."""


class EnhancerCheckpoint(CheckpointFolder):
    """An AITQE folder, understood: all that is needed to build, feed and name it."""

    not_text = _NOT_TEXT
    published_dtype = "bfloat16"
    language_prefix = "model.model."

    @property
    def used(self) -> Places:
        """All of them: the tower is among the others."""
        return {name: (file, name) for name, file in self.tensors.items()}

    @property
    def backbone(self) -> str:
        """`model_type` of the stock language model inside."""
        return str((self.own or {}).get("backbone", LANGUAGE_MODELS[0]))


def open_enhancer(folder: Path) -> EnhancerCheckpoint:
    """Understand a checkpoint folder; raises RequestError where it isn't AITQE's or not usable."""
    known = open_published(folder, "aitqe")
    config, tensors, file = known.config, known.tensors, folder / "config.json"
    check_config(folder, config, _SUPPORTED)
    places = {name: (at, name) for name, at in tensors.items()}
    inside = below(places, TOWER)
    if not inside:
        raise RequestError(f"{folder}: no tensors {TOWER}*: its vision tower is missing")
    check_tokenizer(folder)
    source = str(config.get("vision_model_name_or_path") or "")
    tower = inside_tower(folder, config, source, inside)
    check_text_sizes(file, config, below(places, "model.model."))
    check_projector_sizes(file, config, below(places, "mm_projector."), "visual_hidden_dim")
    checkpoint = EnhancerCheckpoint(folder, config, tensors, tower, known.note)
    if tower.kind != "siglip":
        raise RequestError(f"{folder}: a {tower.kind} tower; AITQE's is SigLIP")
    wanted = config.get("image_tile_tokens", tower.patches)
    if int(wanted) != tower.patches:
        raise RequestError(
            f"{folder}: an image is to be {wanted} tokens, its tower ({tower.note}) makes "
            f"{tower.patches}"
        )
    if checkpoint.backbone not in LANGUAGE_MODELS:
        raise RequestError(
            f"{folder}: language model {checkpoint.backbone!r} is not one of {LANGUAGE_MODELS}"
        )
    if known.backbone != checkpoint.backbone:
        found = f"is to have a {checkpoint.backbone}"
        raise RequestError(f"{folder}: {known.note}, and {found}")
    return checkpoint


# As a chat

_IMAGE_MARK = "<|aitqe_image|>"
"""An id of its own, as every id like it is counted as one image."""

CHAT = ChatLayout(
    marks=(_IMAGE_MARK,),
    line_breaks=r"\A\n(?=\n)",
    template=(
        "{%- for message in messages %}"
        "{%- if message['content'] is string %}{{- message['content'] }}"
        "{%- else %}{%- for part in message['content'] %}"
        "{%- if part['type'] == 'text' %}{{- part['text'] }}"
        "{%- else %}{{- '" + _IMAGE_MARK + "' }}{%- endif %}"
        "{%- endfor %}{%- endif %}{%- endfor %}"
    ),
)
"""Nothing is added to an image and the text after it, whose first of two newlines is a token."""


def chat_text(words: str) -> str:
    """What the template makes of an image and these words."""
    return _IMAGE_MARK + words
