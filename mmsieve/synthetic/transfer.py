"""Initial checkpoints of the tiny models: a new classifier, and weights transferred from one.

Tiny raters and enhancers start from `unifilter-tiny`: its tower and projector as they are, its
Qwen3 as the Qwen2 that the published layouts hold. What Qwen3 has and Qwen2 lacks, the norm of
queries and keys in each head, becomes a constant: their mean size over rendered captions. Words
that both vocabularies have keep their embeddings, a new word begins as the mean of its pieces.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaOnevisionForConditionalGeneration

from mmsieve.images import ImageSpec
from mmsieve.labels import CAPABILITIES
from mmsieve.leftovers import scratch_folder
from mmsieve.methods.aitqe import model as aitqe_model
from mmsieve.methods.aitqe.answers import answer_pieces
from mmsieve.methods.aitqe.checkpoint import EnhancerCheckpoint
from mmsieve.methods.aitqe.inputs import question
from mmsieve.methods.load import load_unifilter
from mmsieve.methods.mmssr import model as mmssr_model
from mmsieve.methods.mmssr.checkpoint import OneVision
from mmsieve.methods.mmssr.inputs import STYLE_QUESTION, SYSTEM, capability_question, format_turns
from mmsieve.methods.tower import Tower
from mmsieve.methods.unifilter import model as unifilter_model
from mmsieve.methods.unifilter.annotator import UniFilter
from mmsieve.methods.unifilter.checkpoint import ARCHITECTURES, Checkpoint
from mmsieve.synthetic.instructions import FAMILIES, instruction
from mmsieve.synthetic.scenes import WORLDS
from mmsieve.synthetic.teacher import Drawing, assessment_group, caption_group, document_group
from mmsieve.training.data import assessment_of, collate_groups, prepare_group
from mmsieve.training.initial import classifier_config, classifier_settings, published_config
from mmsieve.training.objectives import Pixels
from mmsieve.training.recipe import Architecture, WeightTransfer

# A tokenizer for a tiny model: learnt from the texts that the model is going to read

_WORDS = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"


def learn_tokenizer(texts: Iterable[str], special: Sequence[str], size: int) -> Tokenizer:
    """A byte-level BPE of at most `size` tokens, `special` first: the texts' words are one each."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _write_tokenizer(place: Path, tokenizer: Tokenizer, settings: dict[str, Any]) -> None:
    tokenizer.save(str(place / "tokenizer.json"))
    _write_json(place / "tokenizer_config.json", settings)


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")


# A classifier with random weights

_PAD, _STOP, _BEGIN = "<|pad|>", "<|end|>", "<s>"
_IDS = {_PAD: 0, _STOP: 1, _BEGIN: 2}
_BILINEAR = 2
_HALF = (0.5, 0.5, 0.5)
_SCENES = 400  # groups of each family whose texts the tokenizer learns from


def write_classifier(folder: Path, start: Architecture) -> None:
    """Write a classifier of an `Architecture`, in the published layout."""
    settings = {
        "bos_token": _BEGIN,
        "eos_token": _STOP,
        "pad_token": _PAD,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 4096,
    }
    with scratch_folder() as place:
        like = _new_checkpoint(place, start)
        tokenizer = learn_tokenizer(_labelled_texts(), list(_IDS), start.vocabulary)
        _write_tokenizer(place, tokenizer, settings)
        model = unifilter_model.QualityClassifier(unifilter_model.QualityConfig.of(like))
        unifilter_model.save_classifier(model, folder, like, classifier_settings(start))


def _new_checkpoint(folder: Path, architecture: Architecture) -> Checkpoint:
    """What open_checkpoint would understand of the new classifier, before it is on disk."""
    side = architecture.image_size // architecture.patch_size
    sizes = {
        "hidden_size": architecture.hidden,
        "intermediate_size": architecture.intermediate,
        "num_hidden_layers": architecture.layers,
        "num_attention_heads": architecture.heads,
    }
    config = {
        "model_type": "llava_qwen3",
        "architectures": [ARCHITECTURES["llava_qwen3"]],
        **sizes,
        "num_key_value_heads": architecture.heads,
        "head_dim": architecture.hidden // architecture.heads,
        "vocab_size": architecture.vocabulary,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
        "bos_token_id": _IDS[_BEGIN],
        "eos_token_id": _IDS[_STOP],
        "pad_token_id": _IDS[_PAD],
        "num_labels": architecture.labels,
        **classifier_config(architecture, "inside/siglip-tiny", architecture.hidden, side * side),
    }
    vision = {
        "model_type": "siglip_vision_model",
        **sizes,
        "image_size": architecture.image_size,
        "patch_size": architecture.patch_size,
    }
    image = ImageSpec(architecture.image_size, _BILINEAR, _HALF, _HALF, "stretch")
    return Checkpoint(folder, config, {}, Tower("siglip", vision, image, {}, "new"))


def _labelled_texts() -> Iterator[str]:
    """Texts of all families without writing errors, so that a misspelt word falls to pieces."""
    for family in WORLDS:
        for index in range(_SCENES):
            for labelled in caption_group(0, index, Drawing(family=family)).texts:
                yield labelled.text
    yield from (document_group(0, index).texts[-1].text for index in range(_SCENES))


# Weights of a classifier that reads pictures, for a model that generates text

_CAPTIONS = 64  # groups of rendered captions over which queries and keys are measured
_SEED = 99


@dataclass(frozen=True)
class TransferredWeights:
    """The parts of a model to start from."""

    language: dict[str, Tensor]
    """Tensors of a stock Qwen2Model."""
    language_config: dict[str, Any]
    tower: dict[str, Tensor]
    """Tensors of a stock vision model, without `vision_model.`."""
    projector: dict[str, Tensor]
    """`0.weight`, `0.bias`, `2.weight`, `2.bias`: linear, GELU, linear."""
    vision: Tower
    """The tower with an unused layer more, as the published layouts read it before its last."""

    def fill(self, model: Any) -> None:
        """Give the weights to a stock model; its head starts as the embeddings."""
        model.model.language_model.load_state_dict(self.language)
        model.lm_head.weight.data.copy_(self.language["embed_tokens.weight"])
        projector = model.model.multi_modal_projector
        for layer, number in ((projector.linear_1, 0), (projector.linear_2, 2)):
            layer.weight.data.copy_(self.projector[f"{number}.weight"])
            layer.bias.data.copy_(self.projector[f"{number}.bias"])
        tower = getattr(model.model.vision_tower, "vision_model", model.model.vision_tower)
        tower.load_state_dict(self.tower, strict=False)  # its unused layer stays as it is


def transfer_weights(name: str, tokenizer: Tokenizer) -> TransferredWeights:
    """The parts of a Qwen3 classifier, for a Qwen2 model with another tokenizer."""
    same = (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "max_position_embeddings", "rms_norm_eps",
    )  # fmt: skip
    annotator = load_unifilter(name)
    model = unifilter_model.load_classifier(annotator.checkpoint)
    sizes = _measure_heads(annotator, model)
    stock: Any = model.model
    language: dict[str, Tensor] = {}
    for key, tensor in stock.state_dict().items():
        if key.startswith("layers."):
            language |= dict(_qwen2_tensors(key, tensor, stock, sizes))
    language["norm.weight"] = stock.norm.weight
    old = annotator.preparer().tokenizer.build(plain=True)
    language["embed_tokens.weight"] = _embeddings(stock.embed_tokens.weight, old, tokenizer)
    source = annotator.checkpoint.tower
    return TransferredWeights(
        language={key: tensor.detach().clone() for key, tensor in language.items()},
        language_config={
            **{name: getattr(stock.config, name) for name in same},
            "vocab_size": tokenizer.get_vocab_size(),
            "rope_theta": stock.config.rope_parameters["rope_theta"],
        },
        tower=stock.vision_tower.vision_tower["vision_model"].state_dict(),
        projector=stock.mm_projector.mlp_projector.state_dict(),
        vision=replace(source, config=source.config | {"num_hidden_layers": source.layers + 1}),
    )


def _measure_heads(
    annotator: UniFilter, model: unifilter_model.QualityClassifier
) -> dict[str, Tensor]:
    """Norm's module name -> [heads], root mean square of what it norms, averaged over tokens."""
    preparer, spec = annotator.preparer(), annotator.checkpoint.image
    groups = [prepare_group(preparer, caption_group(_SEED, i)) for i in range(_CAPTIONS)]
    batch = collate_groups([groups], annotator.checkpoint.image_tokens)
    is_token = torch.arange(batch["input_ids"].shape[1]) < batch["lengths"][:, None]
    sizes: dict[str, Tensor] = {}
    handles = []
    for name, module in model.model.named_modules():
        if name.endswith(("q_norm", "k_norm")):

            def note(_: Any, inputs: tuple[Tensor], __: Any, name: str = name) -> None:
                sizes[name] = inputs[0].pow(2).mean(-1).sqrt()[is_token].mean(0)

            handles.append(module.register_forward_hook(note))
    with torch.inference_mode():
        images = model.encode_images(Pixels(spec)(batch["pixels"]))
        model.hidden_states(batch["input_ids"], images.flatten(0, 1)[batch["shown"]])
    for handle in handles:
        handle.remove()
    return {name: size.clone() for name, size in sizes.items()}


def _qwen2_tensors(
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
        scale = stock.get_submodule(norm).weight[None, :] / sizes[norm][:, None]
        tensor = tensor * scale.reshape(-1, 1)
    yield key, tensor
    yield key.replace(".weight", ".bias"), tensor.new_zeros(len(tensor))


def _embeddings(old_table: Tensor, old: Tokenizer, new: Tokenizer) -> Tensor:
    known = old.get_vocab()
    table = old_table.new_zeros(new.get_vocab_size(), old_table.shape[1])
    for token, row in new.get_vocab().items():
        ids = [known[token]] if token in known else old.encode(new.decode([row], False)).ids
        table[row] = old_table[ids].mean(0) if ids else old_table[: len(known)].mean(0)
    return table


# The initial checkpoints of a rater and an enhancer: they read pictures, and know no answers yet

_END_OF_TEXT, _START, _END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_SPECIAL = (_END_OF_TEXT, _START, _END)
_TEXTS = 1500  # samples of each family whose words the tokenizer learns


def write_rater(folder: Path, start: WeightTransfer) -> None:
    """Write a LLaVA-OneVision-style folder with a classifier's weights."""
    with scratch_folder() as place:
        weights = _prepare(place, start, _rater_texts(), (_END, _END_OF_TEXT))
        config = weights.language_config | {
            "model_type": "llava_qwen",
            "architectures": ["LlavaQwenForCausalLM"],
            "image_aspect_ratio": "square",
            "mm_hidden_size": weights.vision.config["hidden_size"],
            "mm_patch_merge_type": "flat",
            "mm_projector_type": "mlp2x_gelu",
            "mm_vision_select_feature": "patch",
            "mm_vision_select_layer": -2,
            "mm_vision_tower": "inside/siglip-tiny",
            "tokenizer_model_max_length": weights.language_config["max_position_embeddings"],
        }
        like = OneVision(place, config, {}, weights.vision)
        model = LlavaOnevisionForConditionalGeneration(mmssr_model.stock_config(like))
        weights.fill(model)
        torch.nn.init.zeros_(model.model.image_newline)
        mmssr_model.save_rater(model, folder, like, {"clean_format": True})


def write_enhancer(folder: Path, start: WeightTransfer) -> None:
    """Write a folder in AITQE's layout with a classifier's weights."""
    with scratch_folder() as place:
        weights = _prepare(place, start, _enhancer_texts(), (_END_OF_TEXT,))
        config = weights.language_config | {
            **published_config(weights.vision.config, weights.language_config["vocab_size"]),
            "language_model_name_or_path": "inside/qwen2-tiny",
            "vision_model_name_or_path": "inside/siglip-tiny",
        }
        like = EnhancerCheckpoint(place, config, {}, weights.vision)
        model = LlavaForConditionalGeneration(aitqe_model.stock_config(like))
        weights.fill(model)
        torch.nn.init.zeros_(model.model.multi_modal_projector.linear_2.bias)
        own = {"plain_text": True, "max_text_tokens": 1024}
        aitqe_model.save_enhancer(model, folder, like, own)


def _prepare(
    place: Path, start: WeightTransfer, texts: Iterator[str], ends: tuple[str, ...]
) -> TransferredWeights:
    """The weights for a model that reads and writes such texts, and any of `ends` after an answer.

    Its tokenizer and how it generates are then in `place`.
    """
    tokenizer = learn_tokenizer(texts, _SPECIAL, start.vocabulary)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": ends[0],
        "pad_token": _END_OF_TEXT,
        "extra_special_tokens": [_START, _END],
        "model_max_length": 4096,
    }
    _write_tokenizer(place, tokenizer, settings)
    end_ids = [_SPECIAL.index(end) for end in ends]
    _write_json(place / "generation_config.json", {"do_sample": False, "eos_token_id": end_ids})
    weights = transfer_weights(start.model, tokenizer)
    special = {
        "tie_word_embeddings": False,
        "bos_token_id": _SPECIAL.index(_END_OF_TEXT),
        "eos_token_id": end_ids[0],
        "pad_token_id": _SPECIAL.index(_END_OF_TEXT),
    }
    return replace(weights, language_config=weights.language_config | special)


def _rater_texts() -> Iterator[str]:
    for index in range(_TEXTS):
        for family in FAMILIES:
            drawn = instruction(0, index, family).sample(lambda scene: b"")
            yield format_turns(drawn.turns, clean=True)
    frame = f"{SYSTEM}\nsystem\nuser\nassistant\n"
    questions = (STYLE_QUESTION, *map(capability_question, CAPABILITIES.values()))
    for _ in range(50):  # as often as the words of conversations, about
        yield from (frame, *questions)


def _enhancer_texts() -> Iterator[str]:
    for index in range(_TEXTS):
        for assessed in assessment_group(0, index).pairs:
            yield question(assessed.text, plain=True)
            yield from answer_pieces(assessment_of(assessed.assessment))
