"""Low-rank adapters (LoRA, arXiv 2106.09685) by peft, for backbones that do not fit otherwise."""

from typing import Any

from peft import LoraConfig, LoraModel
from peft.tuners.lora import LoraLayer
from torch import nn

from mmsieve.models.classifier import QualityClassifier
from mmsieve.train.recipe import Lora


def add_adapters(model: QualityClassifier, lora: Lora) -> None:
    """Adapters on every linear layer of the language model; of it nothing else learns.

    The projector and the head learn as they are. The tower, which has layers of the same names,
    gets none.
    """
    model.model.embed_tokens.requires_grad_(False)
    model.model.norm.requires_grad_(False)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=_linear_names(model.model.layers),
    )
    LoraModel(model.model.layers, config, "default")


def merge_adapters(model: QualityClassifier) -> None:
    """Add the adapters' products to the weights and take them out; without adapters, nothing."""
    for parent in list(model.model.layers.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLayer):
                merged: Any = child
                merged.merge()
                setattr(parent, name, merged.get_base_layer())


def _linear_names(layers: nn.Module) -> list[str]:
    linear = (n for n, module in layers.named_modules() if isinstance(module, nn.Linear))
    return sorted({name.rpartition(".")[2] for name in linear})
