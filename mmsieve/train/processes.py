"""The processes of one training: what only the first does, and where all wait for each other.

They are started by `torchrun` or `accelerate launch`, which also choose between DDP, FSDP and
DeepSpeed; alone, a training is its own first process.
"""

import torch
from accelerate import PartialState


def processes() -> PartialState:
    """This process among those of the training (the same object every time)."""
    return PartialState(cpu=not torch.cuda.is_available())
