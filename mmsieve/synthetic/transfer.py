"""The initial checkpoints of the tiny rater and enhancer: weights transferred from a classifier.

The published models start from language models that read images (LLaVA-OneVision's mid stage,
Qwen2). The tiny ones start from `unifilter-tiny`: its tower and projector as they are, its Qwen3
as the Qwen2 that the published layouts hold. What Qwen3 has and Qwen2 lacks, the norm of queries
and keys in each head, becomes a constant: the mean size of that head's queries and keys over
rendered captions. Words that both vocabularies have keep their embeddings, a new word begins as
the mean of its pieces.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaOnevisionForConditionalGeneration

from mmsieve.labels import CAPABILITIES
from mmsieve.methods.aitqe import model as aitqe_model
from mmsieve.methods.aitqe.answers import answer_pieces
from mmsieve.methods.aitqe.checkpoint import EnhancerCheckpoint
from mmsieve.methods.aitqe.inputs import question
from mmsieve.methods.load import load_unifilter
from mmsieve.methods.mmssr import model as mmssr_model
from mmsieve.methods.mmssr.checkpoint import OneVision
from mmsieve.methods.mmssr.inputs import STYLE_QUESTION, SYSTEM, capability_question, format_turns
from mmsieve.methods.tower import Tower
from mmsieve.methods.unifilter.annotator import UniFilter
from mmsieve.methods.unifilter.model import QualityClassifier, load_classifier
from mmsieve.synthetic.instructions import FAMILIES, instruction
from mmsieve.synthetic.teacher import assessment_group, caption_group
from mmsieve.synthetic.training import learn_tokenizer
from mmsieve.training.data import collate, prepare_group
from mmsieve.training.initial import published_config, write_backbone
from mmsieve.training.recipe import Backbone, Carry, EnhancerRecipe, RaterRecipe
from mmsieve.training.sft import assessment_of

# A generating model's start from a classifier that already reads pictures: what it knows,
# carried

_CAPTIONS = 64
"""Groups of rendered captions over which queries and keys are measured."""
_SEED = 99


@dataclass(frozen=True)
class Carried:
    """The parts of a model to start from."""

    language: dict[str, Tensor]
    """Tensors of a stock Qwen2Model."""
    language_config: dict[str, Any]
    tower: dict[str, Tensor]
    """Tensors of a stock vision model, without `vision_model.`."""
    projector: dict[str, Tensor]
    """`0.weight`, `0.bias`, `2.weight`, `2.bias`: linear, GELU, linear."""
    source: Tower
    """The classifier's own, whose last layer is used."""

    @property
    def vision_config(self) -> dict[str, Any]:
        """Of a tower whose last layer but one is used: one layer more than there is."""
        layers = self.source.layers + 1
        return self.source.config | {"num_hidden_layers": layers}

    @property
    def tower_with_unused_layer(self) -> Tower:
        """What the published layouts, which read a tower before its last layer, have to hold."""
        return replace(self.source, config=self.vision_config)


def carry(name: str, tokenizer: Tokenizer) -> Carried:
    """The parts of a Qwen3 classifier, for a model with another tokenizer."""
    annotator = load_unifilter(name)
    model = load_classifier(annotator.checkpoint)
    sizes = _measure(annotator, model)
    stock: Any = model.model
    kept: dict[str, Tensor] = {}
    for key, tensor in stock.state_dict().items():
        if key.startswith("layers."):
            kept |= dict(_attention(key, tensor, stock, sizes))
    kept["norm.weight"] = stock.norm.weight
    old = annotator.preparer().tokenizer.build(plain=True)
    kept["embed_tokens.weight"] = _embeddings(stock.embed_tokens.weight, old, tokenizer)
    towers = stock.vision_tower.vision_tower["vision_model"].state_dict()
    return Carried(
        language={key: tensor.detach().clone() for key, tensor in kept.items()},
        language_config=_config(stock.config, tokenizer),
        tower=towers,
        projector=stock.mm_projector.mlp_projector.state_dict(),
        source=annotator.checkpoint.tower,
    )


def _config(qwen3: Any, tokenizer: Tokenizer) -> dict[str, Any]:
    same = (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "max_position_embeddings", "rms_norm_eps",
    )  # fmt: skip
    return {name: getattr(qwen3, name) for name in same} | {
        "vocab_size": tokenizer.get_vocab_size(),
        "rope_theta": qwen3.rope_parameters["rope_theta"],
    }


def _measure(annotator: UniFilter, model: QualityClassifier) -> dict[str, Tensor]:
    """Norm's module name -> [heads], root mean square of what it norms, averaged over tokens."""
    sizes: dict[str, Tensor] = {}
    handles = []
    batch = _captions(annotator)
    told = torch.arange(batch["input_ids"].shape[1]) < batch["lengths"][:, None]
    for name, module in model.model.named_modules():
        if name.endswith(("q_norm", "k_norm")):

            def note(_: Any, inputs: tuple[Tensor], __: Any, name: str = name) -> None:
                sizes[name] = inputs[0].pow(2).mean(-1).sqrt()[told].mean(0)

            handles.append(module.register_forward_hook(note))
    image = annotator.checkpoint.image
    pixels = batch["pixels"].permute(0, 3, 1, 2).float() * image.scale
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (image.mean, image.std))
    with torch.inference_mode():
        images = model.encode_images((pixels - mean) / std)
        model.hidden_states(batch["input_ids"], images.flatten(0, 1)[batch["shown"]])
    for handle in handles:
        handle.remove()
    return {name: size.clone() for name, size in sizes.items()}


def _captions(annotator: UniFilter) -> dict[str, Tensor]:
    preparer = annotator.preparer()
    groups = [prepare_group(preparer, caption_group(_SEED, i)) for i in range(_CAPTIONS)]
    return collate([groups], annotator.checkpoint.image_tokens)


def _attention(
    key: str, tensor: Tensor, stock: Any, sizes: dict[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """The Qwen2 tensors of one of Qwen3's: a norm goes into its projection, which gets a bias."""
    if "_norm.weight" in key and "self_attn" in key:
        return
    parent, _, name = key.removesuffix(".weight").rpartition(".")
    if name not in ("q_proj", "k_proj", "v_proj"):
        yield key, tensor
        return
    if name != "v_proj":
        norm = f"{parent}.{name[0]}_norm"
        weight = stock.get_submodule(norm).weight
        scale = weight[None, :] / sizes[norm][:, None]
        tensor = tensor * scale.reshape(-1, 1)
    yield key, tensor
    yield key.replace(".weight", ".bias"), tensor.new_zeros(len(tensor))


def _embeddings(old_table: Tensor, old: Tokenizer, new: Tokenizer) -> Tensor:
    """[new vocabulary, hidden]."""
    known = old.get_vocab()
    table = old_table.new_zeros(new.get_vocab_size(), old_table.shape[1])
    for token, row in new.get_vocab().items():
        ids = [known[token]] if token in known else old.encode(new.decode([row], False)).ids
        table[row] = old_table[ids].mean(0) if ids else old_table[: len(known)].mean(0)
    return table


# The folder that a rater's or an enhancer's training starts from, in its published layout

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
        config = _config_starts(carried, _END) | {
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
        like = OneVision(place, config, {}, carried.tower_with_unused_layer)
        model = LlavaOnevisionForConditionalGeneration(mmssr_model.stock_config(like))
        _fill(model, carried)
        torch.nn.init.zeros_(model.model.image_newline)
        mmssr_model.save_rater(model, folder, like, {"clean_format": True})


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
        config = _config_starts(carried, _END_OF_TEXT) | {
            **published_config(vision, carried.language_config["vocab_size"]),
            "language_model_name_or_path": "inside/qwen2-tiny",
            "vision_model_name_or_path": "inside/siglip-tiny",
        }
        _write_configs(place, config, [_END_OF_TEXT])
        like = EnhancerCheckpoint(place, config, {}, carried.tower_with_unused_layer)
        model = LlavaForConditionalGeneration(aitqe_model.stock_config(like))
        _fill(model, carried)
        torch.nn.init.zeros_(model.model.multi_modal_projector.linear_2.bias)
        own = {"plain_text": True, "max_text_tokens": 1024}
        aitqe_model.save_enhancer(model, folder, like, own)


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


def _config_starts(carried: Carried, end: str) -> dict[str, Any]:
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
