"""Devices, number formats and memory, told without importing torch (which takes seconds)."""

import ctypes
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

from mmsieve.errors import RequestError
from mmsieve.wording import counted

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
        raise RequestError(
            f"device {device!r} is not there: torch can use {counted(count, 'GPUs')}"
        )
    return device


def count_processes(device: Device, asked: str, wanted: int | None, spread: int) -> int:
    """How many processes share a run's devices, with a model each that spreads over so many.

    The devices are all GPUs where no single one is `asked` for (which is `device`, resolved), or
    as many as are wanted; on a CPU, or where nothing computes here, as many processes as are
    wanted. Raises RequestError where there are not so many GPUs.
    """
    if device == "cpu" or spread == 0:
        return wanted or 1
    there = 1 if ":" in asked else _count_gpus()
    if wanted is not None and wanted > there:
        fix = "with --device cpu so many processes share its cores"
        raise RequestError(f"--devices {wanted}: --device {asked} has {there} here; {fix}")
    return max(1, (wanted or there) // spread)


def share_of(device: Device, number: int, count: int, spread: int) -> dict[str, str]:
    """The environment of one of `count` processes: its own GPUs, or its part of the cores.

    Threads that the user has set are left so.
    """
    if kind_of(device) == "cpu":
        threads = str(max(1, count_cores() // count))
        return {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": threads}
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = (
        seen.replace(" ", "").split(",") if seen else [str(index) for index in range(_count_gpus())]
    )
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus[number * spread : (number + 1) * spread])}


def kind_of(device: Device) -> str:
    """`cpu` or `cuda`."""
    return device.partition(":")[0]


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


def count_cores() -> int:
    """How many CPU cores this process may use; all of them where the system can't tell (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _count_gpus() -> int:
    """How many GPUs the installed torch will find, asked of the driver itself."""
    driver = _cuda()
    count = ctypes.c_int(0)
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def _cuda() -> Any:
    """The driver of the GPUs that the installed torch can use; None where there is none."""
    if metadata.version("torch").endswith("+cpu"):
        return None
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return None if driver.cuInit(0) else driver


# Memory

ITEM_BYTES: dict[Dtype, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Of one number."""


def device_memory(device: Device) -> int | None:
    """Bytes of memory that a device has in all; None where that isn't known."""
    if device == "cpu":
        if not hasattr(os, "sysconf"):  # Windows
            return None
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    driver, number, size = _cuda(), ctypes.c_int(), ctypes.c_size_t()
    index = int(device.partition(":")[2] or 0)
    if driver is None or driver.cuDeviceGet(ctypes.byref(number), index):
        return None
    failed = driver.cuDeviceTotalMem_v2(ctypes.byref(size), number)
    return None if failed else size.value


def available_memory() -> int | None:
    """Bytes that this machine can still give to programs, swap included; None: not known."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return None
    found = {
        name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)
    }
    return 1024 * (found.get("MemAvailable", found.get("MemFree", 0)) + found.get("SwapFree", 0))


def trim_memory() -> None:
    """Give freed memory back to the machine, where the C library (glibc) keeps it for later.

    What loading a model leaves behind is hundreds of megabytes.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had no memory left."""
    import torch

    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in text for sign in _OUT_OF_MEMORY)
    )


def is_device_lost(error: BaseException) -> bool:
    """Whether a GPU answers every call with an error from now on, as after an illegal access."""
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)


_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "MemoryError")
"""What torch's allocators, and transformers about a tensor that it could not read, say of it."""


LIBRARIES = "libraries"
"""The part of an estimate that code takes which is loaded with a model."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """An estimate of the most that a model takes where it computes, in bytes."""

    device: Device
    dtype: Dtype
    parts: dict[str, int]
    """What takes it -> how much; `weights` among them."""
    about: str
    """What it is of, in words: a batch of so many tokens."""
    smaller: dict[str, int] = field(default_factory=dict)
    """Options that make the weights smaller -> what they then take."""

    @property
    def weights(self) -> int:
        """Of the model."""
        return self.parts["weights"]

    @property
    def total(self) -> int:
        """All parts."""
        return sum(self.parts.values())

    @property
    def line(self) -> str:
        """For people."""
        there = device_memory(self.device)
        room = "" if there is None else f" of {gigabytes(there)}"
        parts = ", ".join(f"{name} {gigabytes(size)}" for name, size in self.parts.items())
        said = f"memory of {self.device}: about {gigabytes(self.total)}{room} in {self.dtype}"
        fits = there is None or self.total < there
        return f"{said} ({parts}), {self.about}" + ("" if fits else f": too much; {self.advice()}")

    def check_room(self) -> None:
        """Raise RequestError where the weights alone are more than what is free now."""
        room = _room(self.device)
        if room is not None and self.weights > room:
            raise self.too_much(room)

    def too_much(self, room: int | None = None) -> RequestError:
        """What to say where the weights do not fit."""
        left = "ran out of memory" if room is None else f"has {gigabytes(room)} left"
        weights = f"the weights take {gigabytes(self.weights)} in {self.dtype}"
        return RequestError(f"{weights}, and {self.device} {left}: {self.advice(room)}")

    def advice(self, room: int | None = None) -> str:
        """What would fit into `room`, by default all of the device's memory."""
        room = room or device_memory(self.device) or self.weights
        rest = self.total - self.weights - self.parts.get(LIBRARIES, 0)  # which are there by now
        options = [f"{name} ({gigabytes(size)})" for name, size in self.smaller.items()]
        fitting = [name for name, size in self.smaller.items() if size + rest < room]
        if fitting:
            return f"{fitting[0]} would fit: its weights take {gigabytes(self.smaller[fitting[0]])}"
        least = min(self.smaller.values(), default=self.weights)
        tried = f"neither {' nor '.join(options)} fits" if options else "nothing smaller is known"
        return f"{tried}: use a device with {gigabytes(least + rest)} free, or a smaller model"


def _room(device: Device) -> int | None:
    """Bytes that can still be had on a device; None where that isn't known."""
    if device == "cpu":
        return available_memory()
    import torch

    return int(torch.cuda.mem_get_info(device)[0]) if torch.cuda.is_available() else None


def gigabytes(size: int) -> str:
    """Bytes in words, two digits or more: `0.52 GB`, `15 GB`."""
    value = size / 1e9
    return (
        f"{value:.0f} GB" if value >= 10 else f"{value:.1f} GB" if value >= 1 else f"{value:.2f} GB"
    )


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
