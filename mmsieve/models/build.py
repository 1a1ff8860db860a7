"""A stock model from a state dict, or one line on why it can't be."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmsieve.errors import RequestError
from mmsieve.models.quiet import quiet


def build_model(
    kind: Any, config: Any, state: dict[str, Tensor], dtype: str, folder: Path
) -> tuple[Any, set[str]]:
    """The model of a transformers class, on the CPU, and the tensors of `state` that it has no use
    for.

    Raises RequestError, naming `folder`, where tensors are missing or of another shape than the
    config says.
    """
    try:
        with quiet():
            model, info = kind.from_pretrained(
                None,
                config=config,
                state_dict=state,
                dtype=getattr(torch, dtype),
                output_loading_info=True,
            )
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise RequestError(f"{folder}: weights and config do not fit: {first}") from error
    if info["missing_keys"]:
        raise RequestError(f"{folder}: no tensor {min(info['missing_keys'])}")
    return model.eval().requires_grad_(False), set(info["unexpected_keys"])
