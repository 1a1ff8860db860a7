"""The folder that a training starts from, in the published layout: a classifier from nothing."""

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from mmsieve.generate.rendered import Drawing, caption_group, document_group
from mmsieve.images import ImageSpec
from mmsieve.models.classifier import QualityClassifier, QualityConfig
from mmsieve.models.released import ARCHITECTURES, Checkpoint
from mmsieve.models.storage import save_classifier
from mmsieve.models.tower import Tower
from mmsieve.rendered.scenes import WORLDS
from mmsieve.train.pretrained import write_pretrained
from mmsieve.train.recipe import Architecture, Pretrained, Recipe
from mmsieve.train.vocabulary import learn_tokenizer

_PAD, _END, _BEGIN = "<|pad|>", "<|end|>", "<s>"
_IDS = {_PAD: 0, _END: 1, _BEGIN: 2}
_BILINEAR = 2
_HALF = (0.5, 0.5, 0.5)
_SCENES = 400
"""Groups of each family whose texts the tokenizer learns from."""


def write_start(folder: Path, recipe: Recipe) -> None:
    """Write the checkpoint folder of a new classifier; what is not pretrained is random."""
    torch.manual_seed(recipe.seed)
    start = recipe.start
    own: dict[str, Any] = {"max_text_tokens": start.max_text_tokens, "plain_text": True}
    own |= {} if start.image_fit == "stretch" else {"image_fit": start.image_fit}
    if isinstance(start, Pretrained):
        write_pretrained(folder, start, own)
    else:
        _write_new(folder, start, own)


def _write_new(folder: Path, architecture: Architecture, own: dict[str, Any]) -> None:
    with TemporaryDirectory() as place:
        like = _blank(Path(place), architecture)
        _write_tokenizer(Path(place), architecture.vocabulary)
        model = QualityClassifier(QualityConfig.of(like))
        save_classifier(model, folder, like, own)


def _blank(folder: Path, architecture: Architecture) -> Checkpoint:
    """What open_checkpoint would understand of the new classifier, before it is on disk."""
    side = architecture.image_size // architecture.patch_size
    config = {
        "model_type": "llava_qwen3",
        "architectures": [ARCHITECTURES["llava_qwen3"]],
        "hidden_size": architecture.hidden,
        "intermediate_size": architecture.intermediate,
        "num_hidden_layers": architecture.layers,
        "num_attention_heads": architecture.heads,
        "num_key_value_heads": architecture.heads,
        "head_dim": architecture.hidden // architecture.heads,
        "vocab_size": architecture.vocabulary,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "bos_token_id": _IDS[_BEGIN],
        "eos_token_id": _IDS[_END],
        "pad_token_id": _IDS[_PAD],
        "num_labels": architecture.labels,
        "mm_hidden_size": architecture.hidden,
        "mm_num_image_tokens": architecture.image_tokens or side * side,
        "mm_projector_type": "aapool_mlp",
        "mm_vision_select_layer": -1,
        "mm_vision_select_feature": "patch",
        "mm_vision_tower": "inside/siglip-tiny",
        "tokenizer_model_max_length": architecture.max_sequence,
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": architecture.hidden,
        "intermediate_size": architecture.intermediate,
        "num_hidden_layers": architecture.layers,
        "num_attention_heads": architecture.heads,
        "image_size": architecture.image_size,
        "patch_size": architecture.patch_size,
    }
    image = ImageSpec(architecture.image_size, _BILINEAR, _HALF, _HALF, "stretch")
    return Checkpoint(folder, config, {}, Tower("siglip", vision, image, {}, "new"))


def _write_tokenizer(folder: Path, vocabulary: int) -> None:
    tokenizer = learn_tokenizer(_texts(), list(_IDS), vocabulary)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": _BEGIN, "eos_token": _END, "pad_token": _PAD}
    settings = {**names, "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 4096}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def _texts() -> Iterator[str]:
    """Texts of all families without writing errors, so that a misspelt word falls to pieces."""
    for family in WORLDS:
        for index in range(_SCENES):
            for told in caption_group(0, index, Drawing(family=family)).texts:
                yield told.text
    for index in range(_SCENES):
        yield document_group(0, index).texts[-1].text
