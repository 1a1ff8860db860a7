"""A generating model's start from a classifier that already reads pictures: what it knows, carried.

The published models start from language models that read images (LLaVA-OneVision's mid stage,
Qwen2). The tiny ones start from `unifilter-tiny`: its tower and projector as they are, its Qwen3
as the Qwen2 that the published layouts hold. What Qwen3 has and Qwen2 lacks, the norm of queries
and keys in each head, becomes a constant: the mean size of that head's queries and keys over
rendered captions. Words that both vocabularies have keep their embeddings, a new word begins as
the mean of its pieces.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from mmsieve.generate.rendered import caption_group
from mmsieve.methods.load import load_unifilter
from mmsieve.methods.unifilter import UniFilter
from mmsieve.models.classifier import QualityClassifier
from mmsieve.models.storage import load_classifier
from mmsieve.models.tower import Tower
from mmsieve.train.data import collate, prepare_group

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
