"""The processes of one training: what only the first does, and where all wait for each other.

They are started by `torchrun` or `accelerate launch`, which also choose between DDP, FSDP and
DeepSpeed; alone, a training is its own first process.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any


def processes() -> Any:
    """This process among those of the training: accelerate's PartialState, one per process."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available(), timeout=_PATIENCE)


_PATIENCE = timedelta(days=1)
"""The others wait while the first checks a file of any size."""


def is_first() -> bool:
    """Whether this process writes and speaks; known without importing torch."""
    return os.environ.get("RANK", "0") == "0"


def first_goes_first() -> AbstractContextManager[Any]:
    """Lets the first process do a thing before the others do it."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    return nullcontext() if alone else processes().main_process_first()
