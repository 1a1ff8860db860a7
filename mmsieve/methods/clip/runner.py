"""CLIP and SigLIP at work: pixels and ids -> features of length one -> cosines -> rows."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import CLIPModel, SiglipModel

from mmsieve.devices import Dtype
from mmsieve.engine.annotator import RunnerOptions
from mmsieve.methods import base
from mmsieve.methods.base import Array, Result
from mmsieve.methods.clip.annotator import BATCH_TOKENS, WINDOW_BATCHES, ClipItem
from mmsieve.methods.clip.checkpoint import ClipFolder, load_clip_tokenizer
from mmsieve.methods.cpu import speed_up
from mmsieve.methods.folders import stored_tensors


class ClipTowers:
    """The stock model of a folder on a device, for inference."""

    def __init__(self, clip: ClipFolder, dtype: str, device: torch.device) -> None:
        """Raises RequestError where weights and config do not fit."""
        stock: Any = CLIPModel if clip.tower.kind == "clip" else SiglipModel
        with base.fitting(clip.folder):
            config = stock.config_class.from_pretrained(clip.folder, local_files_only=True)
        state = stored_tensors({name: (file, name) for name, file in clip.tensors.items()})
        model, _ = base.build_model(stock, dtype, clip.folder, config, state)
        self._model, self._device = model.to(device), device
        self.kernels = speed_up(model.vision_model, model.dtype)
        if model.dtype == torch.float32:  # else attention is swapped for one that isn't causal
            speed_up(model.text_model, model.dtype)
        self._normalise = base.PixelNormaliser(clip.tower.image, device, model.dtype)

    @torch.inference_mode()
    def images(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """[n, size, size, 3] -> float32 [n, width]."""
        return _unit(self._model.get_image_features(pixel_values=self._normalise(pixels)))

    @torch.inference_mode()
    def texts(self, ids: npt.NDArray[np.int64]) -> Tensor:
        """[n, length], padded -> float32 [n, width]."""
        return _unit(self._model.get_text_features(input_ids=base.send(ids, self._device)))


def _unit(features: Any) -> Tensor:
    # a plain tensor before transformers 5.1, an output with the pooled features since
    pooled: Tensor = getattr(features, "pooler_output", features)
    return torch.nn.functional.normalize(pooled.float(), dim=-1)


Indexed: TypeAlias = tuple[int, ClipItem]


class ClipRunner:
    """Scores a stream of items, window by window."""

    def __init__(self, clip: ClipFolder, dtype: Dtype, options: RunnerOptions) -> None:
        self._device = base.open_device(options.device)
        self._clip, self._text_length = clip, clip.text_length
        self._tokenizer = load_clip_tokenizer(clip)
        tokens = options.batch_tokens or BATCH_TOKENS[self._device.type]
        self._budget = base.TokenBudget(self._device, tokens)
        self._towers = ClipTowers(clip, dtype, self._device)
        kernels, tower = self._towers.kernels, clip.tower.note
        self.notes = {"device": options.device, "kernels": kernels, "tower": tower}

    def run(self, items: Iterable[Indexed]) -> Iterator[Result]:
        """Rows for a stream of (index, item), in order."""
        for run in self._budget.window(WINDOW_BATCHES).split(items, self._size):
            pixels = [image for _, item in run for image in item.images]
            texts = [ids for _, item in run for ids in item.texts]
            images = self._encode(pixels, self._clip.tower.patches, self._images)
            words = self._encode_texts(texts)
            for index, item in run:
                own, images = images[: len(item.images)], images[len(item.images) :]
                near, words = words[: len(item.texts)], words[len(item.texts) :]
                # each image with the text nearest to it; a caption has one of each
                yield index, base.quality_row(item, float((own @ near.T).max(1).mean()))

    def _size(self, indexed: Indexed) -> tuple[int, int]:
        item = indexed[1]
        return len(item.images) * self._clip.tower.patches + item.num_tokens, item.nbytes

    def _encode_texts(self, texts: list[Array]) -> Array:
        """Features [texts, width], in order; encoded by length, so that little is padding."""
        order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
        features = self._encode([texts[place] for place in order], self._text_length, self._texts)
        back = np.empty_like(features)
        back[order] = features
        return back

    def _encode(
        self, inputs: list[Array], cost: int, tower: Callable[[list[Array]], Tensor]
    ) -> Array:
        """Features [inputs, width], in order, as many at a time as budget and memory allow."""
        made = self._budget.run(inputs, [cost] * len(inputs), tower)
        return torch.cat([features for _, features in made]).cpu().numpy()

    def _images(self, pixels: list[Array]) -> Tensor:
        return self._towers.images(np.stack(pixels))

    def _texts(self, texts: list[Array]) -> Tensor:
        """Padded after the eos (CLIP, which never looks there) or to its length (SigLIP)."""
        longest = (
            max(len(ids) for ids in texts) if self._clip.tower.kind == "clip" else self._text_length
        )
        padded = np.full((len(texts), longest), self._tokenizer.pad, np.int64)
        for row, ids in zip(padded, texts, strict=True):
            row[slice(-len(ids), None) if self._tokenizer.pad_left else slice(len(ids))] = ids
        return self._towers.texts(padded)
