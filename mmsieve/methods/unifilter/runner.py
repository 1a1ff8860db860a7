"""UniFilter's device half: items -> batches -> logits -> rows."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mmsieve.devices import Dtype
from mmsieve.engine.annotator import Row, RunnerOptions
from mmsieve.errors import SampleError
from mmsieve.labels import Scoring, quality
from mmsieve.methods.base import BatchRunner, ImageEncoder, quality_row, send
from mmsieve.methods.cpu import speed_up
from mmsieve.methods.tokenizer import IMAGE
from mmsieve.methods.unifilter.checkpoint import Checkpoint
from mmsieve.methods.unifilter.inputs import Item
from mmsieve.methods.unifilter.model import load_classifier


class UniFilterRunner(BatchRunner[Item, Tensor]):
    """Scores a stream of items in batches of equal length."""

    def __init__(self, checkpoint: Checkpoint, dtype: Dtype, options: RunnerOptions) -> None:
        super().__init__(options)
        self._image_tokens = checkpoint.image_tokens
        self._scoring: Scoring = "published" if checkpoint.own is None else "expected"
        if checkpoint.num_labels == 1:
            self._scoring = "regression"
        scaling = checkpoint.config.get("rope_scaling") or {}
        if scaling.get("rope_type", scaling.get("type")) in ("longrope", "su"):
            # beyond this length all rows of a batch are placed by other frequencies
            self.boundary = checkpoint.config.get("original_max_position_embeddings")
        self.model = load_classifier(checkpoint, dtype).to(self.device)
        kernels = speed_up(self.model.model, self.model.dtype)
        self.model.read_last_only()
        self._encode = ImageEncoder(
            checkpoint.tower, self.model, lambda pixels: self.model.encode_images(pixels)
        )
        self.encoders = (self._encode,)
        self.notes = {"device": options.device, "kernels": kernels, "tower": checkpoint.tower.note}

    def tokens(self, item: Item) -> int:
        """Length of the sequence."""
        return item.num_tokens

    @torch.inference_mode()
    def compute(self, items: list[Item]) -> Tensor:
        """Logits [items, labels], still on the device."""
        ids, lengths = self._collate(items)
        logits: Tensor = self.model.classify(ids, lengths, self._embed(items))
        return logits

    def rows(self, items: list[Item], computed: Tensor) -> Iterator[Row | SampleError]:
        """A row per item: its score and level."""
        for item, logits in zip(items, computed.float().cpu().numpy(), strict=True):
            score, level = quality(logits, self._scoring)
            yield quality_row(item, score, quality_level=level)

    def _collate(self, items: list[Item]) -> tuple[Tensor, Tensor]:
        """Ids [batch, longest] with an IMAGE for every embedding, and lengths [batch]."""
        lengths = [item.num_tokens for item in items]
        ids = np.zeros((len(items), max(lengths)), np.int64)
        for row, item in zip(ids, items, strict=True):
            repeats = np.where(item.ids == IMAGE, self._image_tokens, 1)
            row[: item.num_tokens] = np.repeat(item.ids, repeats)[: item.num_tokens]
        return send(ids, self.device), send(np.array(lengths), self.device)

    def _embed(self, items: list[Item]) -> Tensor:
        """Embeddings [images * tokens, hidden] of all images, in order, less what was cut."""
        pixels = [item.images for item in items if len(item.images)]
        if not pixels:
            return send(np.empty((0, self.model.score.in_features), np.float32), self.device)
        embeddings = self._encode(np.concatenate(pixels)).flatten(0, 1)
        # of each item's images what is within its length
        kept = [item.num_tokens - int((item.ids != IMAGE).sum()) for item in items]
        if sum(kept) == len(embeddings):
            return embeddings
        ends = np.cumsum([len(item.images) * self._image_tokens for item in items])
        firsts = [0, *ends[:-1]]
        rows = [first + np.arange(n) for first, n in zip(firsts, kept, strict=True)]
        return embeddings[send(np.concatenate(rows), self.device)]
