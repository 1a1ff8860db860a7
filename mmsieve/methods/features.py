"""One vector per image: a vision tower's patch features, averaged."""

from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig

from mmsieve.devices import Dtype, quiet
from mmsieve.engine.annotator import Device
from mmsieve.errors import RequestError
from mmsieve.methods.tower import Tower
from mmsieve.methods.unifilter.model import VisionTower

_LAST_LAYER = -1
_UNUSED = ("head.", "post_layernorm.")
"""Parts after the last layer, whose output is what is averaged."""
_PATCHES = {"cpu": 1600, "cuda": 147456}
"""Encoded at a time."""


class ImageFeatures:
    """A vision tower alone, on its device: neither projector nor language model is loaded."""

    def __init__(self, tower: Tower, device: Device, dtype: Dtype) -> None:
        """Raises RequestError where the tower's weights and config do not fit."""
        self.image = tower.image
        self._device, self._dtype = torch.device(device), getattr(torch, dtype)
        self._at_once = max(1, _PATCHES[self._device.type] // tower.patches)
        self._skip = int(tower.kind == "clip")  # its class token
        self._model = _load(tower).to(self._device, self._dtype)
        self.width = int(tower.config["hidden_size"])

    @torch.inference_mode()
    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """[images, size, size, 3] -> [images, width]."""
        pieces = np.array_split(pixels, ceil(len(pixels) / self._at_once) or 1)
        features = [self._embed(piece).float().cpu() for piece in pieces]
        return torch.cat(features).numpy()

    def _embed(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        images = torch.from_numpy(np.ascontiguousarray(pixels)).to(self._device)
        mean, std = (
            torch.tensor(values, device=self._device).view(1, 3, 1, 1)
            for values in (self.image.mean, self.image.std)
        )
        scaled = (images.permute(0, 3, 1, 2).float() * self.image.scale - mean) / std
        patches: Tensor = self._model(scaled.to(self._dtype), _LAST_LAYER)
        return patches[:, self._skip :].mean(1)


def _load(tower: Tower) -> VisionTower:
    state: dict[str, Tensor] = {}
    for stock, (file, name) in tower.tensors.items():
        if not stock.startswith(_UNUSED):
            with safe_open(file, "pt") as tensors:
                state[f"vision_tower.vision_model.{stock}"] = tensors.get_tensor(name)
    config: dict[str, Any] = dict(tower.config)
    with quiet():
        model = VisionTower(AutoConfig.for_model(**config))
    try:
        missing, unknown = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise RequestError(f"{tower.note}: weights and config do not fit: {first}") from error
    wanted = [name for name in missing if not any(part in name for part in _UNUSED)]
    if wanted or unknown:
        raise RequestError(f"{tower.note}: weights and config do not fit: {[*wanted, *unknown][0]}")
    return model.eval().requires_grad_(False)
