"""UniFilter's device half: items -> batches -> logits -> rows."""

from collections.abc import Iterable, Iterator
from math import ceil
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from mmsieve.devices import Dtype
from mmsieve.engine.annotator import Row, RunnerOptions
from mmsieve.errors import SampleError, ShardError, Status
from mmsieve.labels import Scoring, quality
from mmsieve.methods.base import Window, batches, is_out_of_memory, open_device
from mmsieve.methods.cpu import speed_up
from mmsieve.methods.tokenizer import IMAGE
from mmsieve.methods.unifilter.checkpoint import Checkpoint
from mmsieve.methods.unifilter.inputs import Item
from mmsieve.methods.unifilter.model import load_classifier

Indexed: TypeAlias = tuple[int, Item]
Launched: TypeAlias = tuple[list[Indexed], Tensor]
"""A batch and its logits, still on the device."""
Result: TypeAlias = tuple[int, Row | SampleError]

_BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}
_IMAGE_ROWS = {"cpu": 1600, "cuda": 147456}
"""Patches encoded at a time."""
_WINDOW = 16
"""Batches that are sorted together."""
_WINDOW_BYTES = {"cpu": 192 * 2**20, "cuda": 2**30}


class UniFilterRunner:
    """Scores a stream of items in batches of equal length; out of memory halves the batch."""

    def __init__(self, checkpoint: Checkpoint, dtype: Dtype, options: RunnerOptions) -> None:
        self._device = open_device(options.device)
        self._spec = checkpoint.image
        self._image_tokens = checkpoint.image_tokens
        self._scoring = _scoring(checkpoint)
        self._fence = _fence(checkpoint)
        kind = self._device.type
        self._budget = options.batch_tokens or _BATCH_TOKENS[kind]
        self._images_at_once = max(1, _IMAGE_ROWS[kind] // checkpoint.tower.patches)
        self._model = load_classifier(checkpoint, dtype).to(self._device)
        kernels = f"torch {torch.__version__}"
        if kind == "cpu":
            kernels = speed_up(self._model.model, self._model.dtype)
        self._model.read_last_only()
        self._mean = torch.tensor(self._spec.mean, device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(self._spec.std, device=self._device).view(1, 3, 1, 1)

        self.notes = {
            "device": options.device,
            "kernels": kernels,
            "tower": checkpoint.tower.note,
        }

    def run(self, items: Iterable[Indexed]) -> Iterator[Result]:
        """Rows for a stream of (index, item), window by window, longest first in each.

        A batch's numbers are fetched once the next one is under way, so a GPU need not wait.
        """
        before: Launched | None = None
        for launched in self._launch(items):
            if before is not None:
                yield from self._rows(before)
            before = launched
        if before is not None:
            yield from self._rows(before)

    def _launch(self, items: Iterable[Indexed]) -> Iterator[Launched]:
        window = Window(4096, _WINDOW * self._budget, _WINDOW_BYTES[self._device.type])
        for run in window.split(items, _size):
            costs = [item.num_tokens for _, item in run]
            for batch in batches(costs, self._budget, self._fence):
                yield from self._pieces([run[index] for index in batch])

    def _pieces(self, batch: list[Indexed]) -> Iterator[Launched]:
        """A batch on its way, in as many pieces as the memory asks for."""
        pending = [batch]
        while pending:
            piece = pending.pop()
            try:
                yield piece, self._logits([item for _, item in piece])
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                pending += self._split(piece)

    def _rows(self, launched: Launched) -> Iterator[Result]:
        piece, logits = launched
        for (index, item), scores in zip(piece, logits.float().cpu().numpy(), strict=True):
            yield index, self._row(item, scores)

    def _split(self, piece: list[Indexed]) -> list[list[Indexed]]:
        """What to try instead of a batch that did not fit: its halves, or fewer images at once."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if len(piece) > 1:
            half = len(piece) // 2
            longest = max(item.num_tokens for _, item in piece)
            self._budget = max(1, min(self._budget, half * longest))
            return [piece[half:], piece[:half]]
        if self._images_at_once > 1:
            self._images_at_once //= 2
            return [piece]
        item = piece[0][1]
        raise ShardError(
            f"a sample of {item.num_tokens} tokens and {len(item.images)} images does not fit "
            f"into the memory of {self._device}: use --dtype bfloat16, --max-text-tokens or "
            "a device with more memory"
        )

    @torch.inference_mode()
    def _logits(self, items: list[Item]) -> Tensor:
        ids, lengths = self._collate(items)
        logits: Tensor = self._model.classify(ids, lengths, self._embed(items))
        return logits

    def _collate(self, items: list[Item]) -> tuple[Tensor, Tensor]:
        """Ids [batch, longest] with an IMAGE for every embedding, and lengths [batch]."""
        lengths = [item.num_tokens for item in items]
        ids = np.zeros((len(items), max(lengths)), np.int64)
        for row, item in zip(ids, items, strict=True):
            repeats = np.where(item.ids == IMAGE, self._image_tokens, 1)
            row[: item.num_tokens] = np.repeat(item.ids, repeats)[: item.num_tokens]
        return self._send(ids), self._send(np.array(lengths))

    def _embed(self, items: list[Item]) -> Tensor:
        """Embeddings [images * tokens, hidden] of all images, in order, less what was cut."""
        pixels = [image for item in items for image in item.images]
        if not pixels:
            return self._send(np.empty((0, self._model.score.in_features), np.float32))
        size = ceil(len(pixels) / ceil(len(pixels) / self._images_at_once))
        starts = range(0, len(pixels), size)
        chunks = [self._encode(np.stack(pixels[start : start + size])) for start in starts]
        embeddings = torch.cat(chunks).flatten(0, 1)
        kept = [self._kept(item) for item in items]
        if sum(kept) == len(embeddings):
            return embeddings
        ends = np.cumsum([len(item.images) * self._image_tokens for item in items])
        firsts = [0, *ends[:-1]]
        rows = [first + np.arange(n) for first, n in zip(firsts, kept, strict=True)]
        return embeddings[self._send(np.concatenate(rows))]

    def _kept(self, item: Item) -> int:
        """Embeddings of the item's images that are within its length."""
        return item.num_tokens - int((item.ids != IMAGE).sum())

    def _encode(self, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
        images = self._send(pixels).permute(0, 3, 1, 2).float() * self._spec.scale
        normalised = (images - self._mean) / self._std
        embeddings: Tensor = self._model.encode_images(normalised.to(self._model.dtype))
        return embeddings

    def _send(self, array: np.ndarray[Any, Any]) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def _row(self, item: Item, logits: np.ndarray[Any, np.dtype[np.float32]]) -> Row | SampleError:
        score, level = quality(logits, self._scoring)
        if not np.isfinite(score):
            return SampleError(Status.SCORE_NOT_FINITE, f"the score is {score}")
        return {
            "quality_score": score,
            "quality_level": level,
            "num_images": len(item.images),
            "num_tokens": item.num_tokens,
            "truncated": item.truncated,
            "num_skipped_images": item.skipped,
        }


def _size(indexed: Indexed) -> tuple[int, int]:
    item = indexed[1]
    return item.num_tokens, item.images.nbytes + item.ids.nbytes


def _scoring(checkpoint: Checkpoint) -> Scoring:
    if checkpoint.num_labels == 1:
        return "regression"
    return "published" if checkpoint.own is None else "expected"


def _fence(checkpoint: Checkpoint) -> int | None:
    """The length beyond which all rows of a batch are placed by other frequencies (long RoPE)."""
    scaling = checkpoint.config.get("rope_scaling") or {}
    if scaling.get("rope_type", scaling.get("type")) not in ("longrope", "su"):
        return None
    length = checkpoint.config.get("original_max_position_embeddings")
    return None if length is None else int(length)
