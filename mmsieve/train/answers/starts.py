"""The folder that a rater's or an enhancer's training starts from, in its published layout."""

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import LlavaForConditionalGeneration, LlavaOnevisionForConditionalGeneration

from mmsieve.capabilities import CAPABILITIES
from mmsieve.generate.rendered import assessment_group
from mmsieve.methods.aitqe_answers import answer_pieces
from mmsieve.methods.aitqe_inputs import question
from mmsieve.methods.mmssr_inputs import (
    STYLE_QUESTION,
    SYSTEM,
    capability_question,
    format_turns,
)
from mmsieve.models import llava, rater
from mmsieve.models.enhancer import EnhancerCheckpoint
from mmsieve.models.onevision import OneVision
from mmsieve.rendered.instructions import instruction
from mmsieve.rendered.tasks import FAMILIES
from mmsieve.train.answers.assessments import assessment_of
from mmsieve.train.answers.backbone import published_config, write_backbone
from mmsieve.train.answers.carried import Carried, carry
from mmsieve.train.answers.recipe import Backbone, Carry, EnhancerRecipe, RaterRecipe
from mmsieve.train.vocabulary import learn_tokenizer

_END_OF_TEXT, _START, _END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_SPECIAL = (_END_OF_TEXT, _START, _END)
_TEXTS = 1500
"""Samples of each family whose words the tokenizer learns."""


def write_rater_start(folder: Path, recipe: RaterRecipe) -> None:
    """A LLaVA-OneVision-style folder that reads pictures, and has not learnt to answer yet."""
    assert isinstance(recipe.start, Carry)
    torch.manual_seed(recipe.seed)
    with TemporaryDirectory() as temporary:
        place = Path(temporary)
        carried = _carry(place, recipe.start, _rater_texts(), _END)
        config = _config(carried, _END) | {
            "model_type": "llava_qwen",
            "architectures": ["LlavaQwenForCausalLM"],
            "image_aspect_ratio": "square",
            "mm_hidden_size": carried.vision_config["hidden_size"],
            "mm_patch_merge_type": "flat",
            "mm_projector_type": "mlp2x_gelu",
            "mm_vision_select_feature": "patch",
            "mm_vision_select_layer": -2,
            "mm_vision_tower": "inside/siglip-tiny",
            "tokenizer_model_max_length": carried.language_config["max_position_embeddings"],
        }
        _write_configs(place, config, [_END, _END_OF_TEXT])
        like = OneVision(place, config, {}, {}, carried.tower_with_unused_layer)
        model = LlavaOnevisionForConditionalGeneration(rater.stock_config(like))
        _fill(model, carried)
        torch.nn.init.zeros_(model.model.image_newline)
        rater.save_rater(model, folder, like, {"clean_format": True})


def write_enhancer_start(folder: Path, recipe: EnhancerRecipe) -> None:
    """A folder in AITQE's layout that reads pictures, and has not learnt to answer yet."""
    torch.manual_seed(recipe.seed)
    if isinstance(recipe.start, Backbone):
        write_backbone(folder, recipe.start)
        return
    assert isinstance(recipe.start, Carry)
    with TemporaryDirectory() as temporary:
        place = Path(temporary)
        carried = _carry(place, recipe.start, _enhancer_texts(), _END_OF_TEXT)
        vision = carried.vision_config
        config = _config(carried, _END_OF_TEXT) | {
            **published_config(vision, carried.language_config["vocab_size"]),
            "language_model_name_or_path": "inside/qwen2-tiny",
            "vision_model_name_or_path": "inside/siglip-tiny",
        }
        _write_configs(place, config, [_END_OF_TEXT])
        like = EnhancerCheckpoint(place, config, {}, carried.tower_with_unused_layer)
        model = LlavaForConditionalGeneration(llava.stock_config(like))
        _fill(model, carried)
        torch.nn.init.zeros_(model.model.multi_modal_projector.linear_2.bias)
        own = {"plain_text": True, "max_text_tokens": 1024}
        llava.save_enhancer(model, folder, like, own)


def _carry(place: Path, start: Carry, texts: Iterator[str], end: str) -> Carried:
    """The parts to start from; the tokenizer's files are in `place`."""
    tokenizer = learn_tokenizer(texts, _SPECIAL, start.vocabulary)
    _write_tokenizer(place, tokenizer, end)
    return carry(start.model, tokenizer)


def _write_tokenizer(place: Path, tokenizer: Tokenizer, end: str) -> None:
    tokenizer.save(str(place / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end,
        "pad_token": _END_OF_TEXT,
        "extra_special_tokens": [_START, _END],
        "model_max_length": 4096,
    }
    (place / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def _config(carried: Carried, end: str) -> dict[str, Any]:
    ids = {token: number for number, token in enumerate(_SPECIAL)}
    return carried.language_config | {
        "tie_word_embeddings": False,
        "bos_token_id": ids[_END_OF_TEXT],
        "eos_token_id": ids[end],
        "pad_token_id": ids[_END_OF_TEXT],
    }


def _write_configs(place: Path, config: dict[str, Any], ends: list[str]) -> None:
    generation = {"do_sample": False, "eos_token_id": [_SPECIAL.index(end) for end in ends]}
    for name, content in (("config", config), ("generation_config", generation)):
        (place / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")


def _fill(model: Any, carried: Carried) -> None:
    """Give a stock model the carried parts; the head starts as the embeddings."""
    model.model.language_model.load_state_dict(carried.language)
    model.lm_head.weight.data.copy_(carried.language["embed_tokens.weight"])
    projector = model.model.multi_modal_projector
    for layer, number in ((projector.linear_1, 0), (projector.linear_2, 2)):
        layer.weight.data.copy_(carried.projector[f"{number}.weight"])
        layer.bias.data.copy_(carried.projector[f"{number}.bias"])
    tower = getattr(model.model.vision_tower, "vision_model", model.model.vision_tower)
    tower.load_state_dict(carried.tower, strict=False)  # its unused layer stays as it is


def _rater_texts() -> Iterator[str]:
    """What a rater reads, and how it answers."""
    for index in range(_TEXTS):
        for family in FAMILIES:
            drawn = instruction(0, index, family).sample(lambda scene: b"")
            yield format_turns(drawn.turns, clean=True)
    frame = f"{SYSTEM}\nsystem\nuser\nassistant\n"
    questions = (STYLE_QUESTION, *map(capability_question, CAPABILITIES.values()))
    for _ in range(50):  # as often as the words of conversations, about
        yield from (frame, *questions)


def _enhancer_texts() -> Iterator[str]:
    """What an enhancer reads, and how it answers."""
    for index in range(_TEXTS):
        for assessed in assessment_group(0, index).pairs:
            answer = answer_pieces(assessment_of(assessed.assessment))
            yield from chain([question(assessed.text, plain=True)], answer)
