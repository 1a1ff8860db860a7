"""The two towers of a CLIP or SigLIP at work: pixels and ids -> features of length one."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import CLIPModel, SiglipModel

from mmsieve.methods.base import PixelNormaliser, build_model, send
from mmsieve.methods.clip.checkpoint import ClipFolder
from mmsieve.methods.cpu import speed_up


class ClipTowers:
    """The stock model of a folder on a device, for inference."""

    def __init__(self, clip: ClipFolder, dtype: str, device: torch.device) -> None:
        """Raises RequestError where weights and config do not fit."""
        stock: Any = CLIPModel if clip.tower.kind == "clip" else SiglipModel
        model, _ = build_model(
            stock, dtype, clip.folder, clip.folder, use_safetensors=True, local_files_only=True
        )
        self._model, self._device = model.to(device), device
        self.kernels = speed_up(model.vision_model, model.dtype)
        if model.dtype == torch.float32:  # else attention is swapped for one that isn't causal
            speed_up(model.text_model, model.dtype)
        self._normalise = PixelNormaliser(clip.tower.image, device, model.dtype)

    @torch.inference_mode()
    def images(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """[n, size, size, 3] -> float32 [n, width]."""
        return _unit(self._model.get_image_features(pixel_values=self._normalise(pixels)))

    @torch.inference_mode()
    def texts(self, ids: npt.NDArray[np.int64]) -> Tensor:
        """[n, length], padded -> float32 [n, width]."""
        return _unit(self._model.get_text_features(input_ids=send(ids, self._device)))


def _unit(features: Any) -> Tensor:
    # a plain tensor before transformers 5.1, an output with the pooled features since
    pooled: Tensor = getattr(features, "pooler_output", features)
    return torch.nn.functional.normalize(pooled.float(), dim=-1)
