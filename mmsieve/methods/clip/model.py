"""The two towers of a CLIP or SigLIP at work: pixels and ids -> features of length one."""

from typing import Any

import torch
from torch import Tensor

from mmsieve.devices import quiet
from mmsieve.errors import RequestError
from mmsieve.methods.clip.checkpoint import ClipFolder
from mmsieve.methods.cpu import speed_up


class ClipTowers:
    """The stock model of a folder on a device, for inference."""

    def __init__(self, clip: ClipFolder, dtype: str, device: torch.device) -> None:
        """Raises RequestError where weights and config do not fit."""
        model = _load(clip, dtype)
        self.kernels = f"torch {torch.__version__}"
        if device.type == "cpu":
            self.kernels = speed_up(model.vision_model, model.dtype)
            if model.dtype == torch.float32:  # else attention is swapped for one that isn't causal
                speed_up(model.text_model, model.dtype)
        self._model = model.to(device)
        self._dtype = model.dtype
        image = clip.tower.image
        self._mean = torch.tensor(image.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(image.std, device=device).view(1, 3, 1, 1)
        self._scale = image.scale
        self._device = device

    @torch.inference_mode()
    def images(self, pixels: Tensor) -> Tensor:
        """uint8 [n, size, size, 3] -> float32 [n, width]."""
        values = pixels.to(self._device).permute(0, 3, 1, 2).float() * self._scale
        values = ((values - self._mean) / self._std).to(self._dtype)
        return _unit(self._model.get_image_features(pixel_values=values))

    @torch.inference_mode()
    def texts(self, ids: Tensor) -> Tensor:
        """int64 [n, length], padded -> float32 [n, width]."""
        return _unit(self._model.get_text_features(input_ids=ids.to(self._device)))


def _unit(features: Any) -> Tensor:
    # a plain tensor before transformers 5.1, an output with the pooled features since
    pooled: Tensor = getattr(features, "pooler_output", features)
    return torch.nn.functional.normalize(pooled.float(), dim=-1)


def _load(clip: ClipFolder, dtype: str) -> Any:
    import transformers

    stock: Any = transformers.CLIPModel if clip.tower.kind == "clip" else transformers.SiglipModel
    try:
        with quiet():
            model, info = stock.from_pretrained(
                clip.folder,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise RequestError(f"{clip.folder}: weights and config do not fit: {first}") from error
    if info["missing_keys"]:
        raise RequestError(f"{clip.folder}: no tensor {min(info['missing_keys'])}")
    return model.eval().requires_grad_(False)
