"""Devices and number formats, resolved without importing torch (which takes seconds)."""

import ctypes
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Literal, TypeAlias, cast, get_args

from mmsieve.errors import RequestError

Device: TypeAlias = str
"""`cpu`, `cuda` or `cuda:N`, already resolved."""

Dtype: TypeAlias = Literal["float32", "bfloat16", "float16"]


def resolve_device(device: str = "auto") -> Device:
    """`cpu`, `cuda` or `cuda:N` for what was asked for; `auto` takes a GPU where there is one."""
    if device == "auto":
        return "cuda" if _count_gpus() else "cpu"
    if device == "cpu":
        return device
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match is None:
        raise RequestError(f"device {device!r} is not one of auto, cpu, cuda, cuda:N")
    count = _count_gpus()
    if int(match[1] or 0) >= count:
        raise RequestError(f"device {device!r} is not there: {count} GPUs that torch can use")
    return device


def resolve_dtype(dtype: str, device: Device, on_gpu: Dtype = "bfloat16") -> Dtype:
    """The number format; `auto` is float32 on a CPU, and on a GPU what suits the model."""
    if dtype == "auto":
        return "float32" if device == "cpu" else on_gpu
    if dtype in get_args(Dtype):
        return cast(Dtype, dtype)
    raise RequestError(f"dtype {dtype!r} is not one of auto, float32, bfloat16, float16")


def share_cores() -> None:
    """Let torch's threads sleep while they wait for each other; before torch is imported.

    By default they spin, which starves the processes that prepare samples beside them: scoring
    then took 3 to 4 times as long. A value that the user has set stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _count_gpus() -> int:
    """How many GPUs the installed torch will find, asked of the driver itself."""
    if metadata.version("torch").endswith("+cpu"):
        return 0
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no messages below an error from transformers while this lasts."""
    from transformers.utils import logging as stock

    logger = logging.getLogger("transformers")
    level, bars = logger.level, stock.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    stock.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            stock.enable_progress_bar()
