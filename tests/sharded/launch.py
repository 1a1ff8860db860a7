"""`mmsieve` as `accelerate launch` runs it, on a machine without a GPU; may be told to die.

What is not as on GPUs: accelerate knows FSDP on devices alone, so it takes the CPUs for one;
transformers wants a device for DeepSpeed in bfloat16, too; DeepSpeed would compile an operation
that talks through shared memory, so it is told to use gloo; MMSIEVE_DIE_AT=N kills this process,
as nothing can catch, when update N is done.
"""

import os
import runpy
import signal
from typing import Any

import accelerate.state
import transformers.training_args
from transformers import TrainerCallback


class _DeviceTypes:
    """accelerate's kinds of devices, the CPUs standing for one that is in no test."""

    def __init__(self, stock: Any) -> None:
        self._stock = stock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, "MULTI_CPU" if name == "MULTI_NEURON" else name)


def _die_at(step: int) -> None:
    def die(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    TrainerCallback.on_step_begin = die


if __name__ == "__main__":
    accelerate.state.DistributedType = _DeviceTypes(accelerate.state.DistributedType)
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        transformers.training_args.is_torch_bf16_gpu_available = lambda: True
    if "MMSIEVE_DIE_AT" in os.environ:
        _die_at(int(os.environ["MMSIEVE_DIE_AT"]))
    runpy.run_module("mmsieve", run_name="__main__", alter_sys=True)
