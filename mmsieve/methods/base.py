"""What all runners share: batches by token budget, the device, image features."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from mmsieve.devices import quiet
from mmsieve.engine.annotator import Device
from mmsieve.errors import RequestError

# Batches by token budget: sorted by length inside a window, so that little is padding

T = TypeVar("T")


@dataclass(frozen=True)
class Window:
    """How many items are looked at together: whichever limit comes first closes the window."""

    items: int
    tokens: int
    nbytes: int

    def split(self, stream: Iterable[T], size: Callable[[T], tuple[int, int]]) -> Iterator[list[T]]:
        """Runs of the stream, in order; `size` gives an item's tokens and bytes."""
        run: list[T] = []
        tokens = nbytes = 0
        for item in stream:
            run.append(item)
            more = size(item)
            tokens, nbytes = tokens + more[0], nbytes + more[1]
            if len(run) >= self.items or tokens >= self.tokens or nbytes >= self.nbytes:
                yield run
                run, tokens, nbytes = [], 0, 0
        if run:
            yield run


def batches(costs: list[int], budget: int, fence: int | None = None) -> list[list[int]]:
    """Indices of `costs` (tokens per item) in batches, longest first.

    A batch of n items padded to its longest stays within `budget` tokens; an item longer than
    that is a batch of its own. Equal costs keep their order: same costs, same batches. Items
    longer than `fence` never share a batch with others.
    """
    order = sorted(range(len(costs)), key=lambda index: (-costs[index], index))
    made: list[list[int]] = []
    room, beyond = 0, False
    for index in order:
        was_beyond, beyond = beyond, fence is not None and costs[index] > fence
        if room <= 0 or beyond != was_beyond:
            made.append([])
            room = max(1, budget // max(1, costs[index]))
        made[-1].append(index)
        room -= 1
    return made


# The device as torch knows it: whether it is there, and how running out of memory shows


def open_device(device: Device) -> torch.device:
    """The torch device of a resolved name; raises RequestError where torch finds no GPU."""
    if device != "cpu" and not torch.cuda.is_available():
        raise RequestError(f"device {device!r}: torch finds no GPU; use --device cpu")
    return torch.device(device)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error means that a smaller batch may do."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(
        sign in text for sign in ("can't allocate memory", "not enough memory", "out of memory")
    )


# A stock model from a state dict, or one line on why it can't be


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
