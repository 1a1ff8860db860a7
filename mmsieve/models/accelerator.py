"""The device as torch knows it: whether it is there, and how running out of memory shows."""

import torch

from mmsieve.annotator import Device
from mmsieve.errors import RequestError


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
