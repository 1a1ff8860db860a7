"""What makes large backbones fit: low-rank adapters (LoRA, arXiv 2106.09685), checkpointing."""

from typing import Any

from peft import LoraConfig, LoraModel
from peft.tuners.lora import LoraLayer
from torch import nn

from mmsieve.train.recipe import Lora


def add_adapters(language: Any, lora: Lora) -> None:
    """Adapters on every linear layer of a stock language model; of it nothing else learns."""
    language.embed_tokens.requires_grad_(False)
    language.norm.requires_grad_(False)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=_linear_names(language.layers),
    )
    LoraModel(language.layers, config, "default")


def merge_adapters(layers: nn.Module) -> None:
    """Add the adapters' products to the weights and take them out; without adapters, nothing."""
    for parent in list(layers.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLayer):
                merged: Any = child
                merged.merge()
                setattr(parent, name, merged.get_base_layer())


def checkpoint_activations(language: Any) -> None:
    """From now on compute a language model's activations twice instead of keeping them."""
    name = "activation_checkpointing_enable"  # its older name warns where both are there
    enable = getattr(language, name, None) or language.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _linear_names(layers: nn.Module) -> list[str]:
    linear = (n for n, module in layers.named_modules() if isinstance(module, nn.Linear))
    return sorted({name.rpartition(".")[2] for name in linear})
