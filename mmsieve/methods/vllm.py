"""vLLM in this process, over a checkpoint's stock layout: `--backend vllm`.

The same preparers make the same ids and pixels as for torch, which stays the reference; what
prompts have in common (an image, a conversation) is computed once, by vLLM's cache of prefixes.
Needs the extra [vllm], in an environment of its own.
"""

import hashlib
import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from cyclopts import Group, Parameter
from PIL import Image

from mmsieve.devices import Device, Dtype
from mmsieve.errors import RequestError
from mmsieve.images import Pixels
from mmsieve.leftovers import scratch_folder
from mmsieve.methods.folders import read_json
from mmsieve.methods.stock import check_stock
from mmsieve.methods.tower import CheckpointFolder
from mmsieve.options import Options, Positive, Share

BACKEND = Parameter(group=Group("vLLM", sort_key=9))
"""Of --help."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class BackendOptions(Options):
    """What computes, and how vLLM does."""

    backend: Annotated[Literal["torch", "vllm"], BACKEND] = "torch"
    """What computes: `vllm` is for models of billions of weights on GPUs (pip install
    'mmsieve[vllm]', in an environment of its own); `torch` is the reference."""
    stock: Annotated[str | None, BACKEND] = None
    """Folder that `convert` made of the model, quantised or not, for `--backend vllm`; by default
    the model is converted into a temporary folder each time."""
    quantization: Annotated[str | None, BACKEND] = None
    """How vLLM is to quantise the weights, by its own names, such as fp8."""
    tensor_parallel: Annotated[Positive, BACKEND] = 1
    """GPUs over which vLLM spreads the model."""
    gpu_memory: Annotated[Share, BACKEND] = 0.9
    """Share of a GPU's memory that vLLM takes."""

    def check_backend(self, stocks: Iterable[tuple[str | None, CheckpointFolder]]) -> None:
        """Raise RequestError where vLLM isn't there, options are for it alone, or a stock folder
        is not of its checkpoint."""
        given = [(Path(stock), checkpoint) for stock, checkpoint in stocks if stock is not None]
        if self.backend == "vllm":
            _version()
            for stock, checkpoint in given:
                check_stock(stock, checkpoint)
            return
        set_ = (bool(given), self.quantization is not None, self.tensor_parallel > 1)
        for name, is_set in zip(("stock", "quantization", "tensor-parallel"), set_, strict=True):
            if is_set:
                raise RequestError(f"--{name} is for --backend vllm")

    def backend_fingerprint(self) -> dict[str, str]:
        """Whatever of it changes a number; nothing for torch."""
        if self.backend == "torch":
            return {}
        how = self.quantization or (self.stock and _quantised(Path(self.stock))) or "none"
        return {"backend": f"vllm {_version()}", "quantization": how}


def _version() -> str:
    try:
        return metadata.version("vllm")
    except metadata.PackageNotFoundError:
        fix = "pip install 'mmsieve[vllm]', in an environment of its own"
        raise RequestError(f"--backend vllm: vLLM is not installed: {fix}") from None


def _quantised(folder: Path) -> str | None:
    """How a stock folder's weights were quantised, as its config says."""
    how = read_json(folder / "config.json").get("quantization_config")
    return str(how.get("quant_method")) if isinstance(how, dict) else None


@dataclass(frozen=True, slots=True)
class ServedPrompt:
    """A prompt as a server's ids, one for each image, and the squares of its images."""

    ids: list[int]
    images: Sequence[Pixels] | Pixels = ()


class VllmModel:
    """A model in vLLM."""

    def __init__(
        self,
        checkpoint: CheckpointFolder,
        convert: Callable[[Any, Path], list[str]],
        options: BackendOptions,
        dtype: Dtype,
        device: Device,
        share: float = 1.0,
    ) -> None:
        """`convert` writes the checkpoint's stock layout; `share` is that of the memory which
        vLLM may take in all."""
        _prepare_environment(device)
        from vllm import LLM

        kept = ExitStack()
        weakref.finalize(self, kept.close)
        if options.stock is None:
            folder = kept.enter_context(scratch_folder()) / "stock"
            convert(checkpoint, folder)
        else:
            folder = Path(options.stock)
        on_cpu = {"enforce_eager": True, "distributed_executor_backend": "uni"}
        self._llm = LLM(
            model=str(folder),
            dtype=dtype,
            seed=0,
            quantization=options.quantization,
            tensor_parallel_size=options.tensor_parallel,
            gpu_memory_utilization=options.gpu_memory * share,
            enable_prefix_caching=True,
            disable_log_stats=True,
            **(on_cpu if device == "cpu" else {}),
        )

    def generate(self, prompts: Sequence[ServedPrompt], params: Any) -> list[Any]:
        """The CompletionOutput of each prompt, whose squares are shown to the pixel.

        `params` are vLLM's SamplingParams, for all prompts or one for each.
        """
        shown: dict[int, dict[str, Any]] = {}  # prompts about one sample have the same squares
        given: list[Any] = []
        for prompt in prompts:
            place = id(prompt.images)
            if place not in shown:
                shown[place] = _show(prompt.images)
            given.append({"prompt_token_ids": prompt.ids, **shown[place]})
        outputs = self._llm.generate(given, params, use_tqdm=False)
        return [output.outputs[0] for output in outputs]


def _show(squares: Iterable[Pixels]) -> dict[str, Any]:
    """What vLLM is given of a prompt's squares, and the names by which its caches know them."""
    whole = [np.ascontiguousarray(square) for square in squares]
    if not whole:
        return {}
    names = [hashlib.blake2b(square.tobytes(), digest_size=16).hexdigest() for square in whole]
    pictures = [Image.fromarray(square) for square in whole]
    return {"multi_modal_data": {"image": pictures}, "multi_modal_uuids": {"image": names}}


def _prepare_environment(device: Device) -> None:
    """What vLLM reads of the environment when it is imported; what a user has set stays."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if device.startswith("cuda:"):
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", device.removeprefix("cuda:"))
    if device == "cpu":
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
