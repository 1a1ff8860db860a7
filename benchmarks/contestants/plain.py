"""A plain loop over today's stock layers: what anyone would write with transformers alone.

Arguments: CHECKPOINT, TAR. Stock SigLIP and Qwen3 in float32 with SDPA, batches of 4 in the order
of the archive, padded, no gradient; the pooling head that nobody reads is left out.
"""

import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from protocol import serve
from safetensors.torch import load_file
from torch import nn
from transformers import (
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
    SiglipVisionConfig,
    SiglipVisionModel,
)

BATCH, MAX_TOKENS, IMAGE = 4, 75, -200


class Plain(nn.Module):
    """Tower, pooled projector, language model, head."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__()
        config = json.loads((checkpoint / "config.json").read_text())
        tower = checkpoint.parent / config["mm_vision_tower"]
        vision = SiglipVisionConfig(**json.loads((tower / "config.json").read_text()))
        vision.vision_use_head = False
        self.vision = SiglipVisionModel(vision)
        self.model = Qwen3Model(Qwen3Config(**config))
        width = config["hidden_size"]
        self.projector = nn.Sequential(
            nn.Linear(config["mm_hidden_size"], width), nn.GELU(), nn.Linear(width, width)
        )
        self.score = nn.Linear(width, 1, bias=False)
        self.side = int(config["mm_num_image_tokens"] ** 0.5)
        self.size = vision.image_size
        self._load(load_file(checkpoint / "model.safetensors"))

    def _load(self, weights: dict[str, torch.Tensor]) -> None:
        renamed = {
            name.replace("model.mm_projector.mlp_projector.", "projector.")
            .replace("model.vision_tower.vision_tower.vision_model.", "vision.")
            .replace(
                "vision.",
                "vision.vision_model." if hasattr(self.vision, "vision_model") else "vision.",
            ): weight
            for name, weight in weights.items()
        }
        missing, unexpected = self.load_state_dict(renamed, strict=False)
        if missing or any(".head." not in name for name in unexpected):
            raise ValueError(f"missing {missing}, unexpected {unexpected}")

    @torch.inference_mode()
    def forward(self, pixels: torch.Tensor, ids: list[list[int]]) -> torch.Tensor:
        """Scores of a batch: pixels [n, 3, s, s], ids with one image place each."""
        layers = self.vision(pixels, output_hidden_states=True).hidden_states
        grid = layers[-1].transpose(1, 2).unflatten(2, (int(layers[-1].shape[1] ** 0.5), -1))
        pooled = nn.functional.adaptive_avg_pool2d(grid, self.side).flatten(2).transpose(1, 2)
        images = self.projector(pooled)
        rows = []
        for row, image in zip(ids, images, strict=True):
            at = row.index(IMAGE)
            before, after = (
                self.model.embed_tokens(torch.tensor(t, dtype=torch.long))
                for t in (row[:at], row[at + 1 :])
            )
            rows.append(torch.cat([before, image, after]))
        lengths = torch.tensor([len(row) for row in rows])
        embeds = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.arange(embeds.shape[1]) < lengths[:, None]
        hidden = self.model(inputs_embeds=embeds, attention_mask=mask.long()).last_hidden_state
        return self.score(hidden[torch.arange(len(rows)), lengths - 1]).view(-1)


def main(checkpoint: str, tar: str) -> None:
    """Load, then score the shard whenever asked."""
    model = Plain(Path(checkpoint)).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint)

    def score_all() -> dict[str, float]:
        scores: dict[str, float] = {}
        batch: list[tuple[str, torch.Tensor, list[int]]] = []
        for key, image, text in _samples(tar):
            ids = tokenizer("\n" + text.replace("<image>", "image"))["input_ids"]
            ids = [tokenizer.bos_token_id, IMAGE, *ids, tokenizer.eos_token_id][:MAX_TOKENS]
            batch.append((key, _pixels(image, model.size), ids))
            if len(batch) == BATCH:
                scores.update(_score(model, batch))
                batch = []
        return scores | (_score(model, batch) if batch else {})

    serve(score_all)


def _score(model: Plain, batch: list[tuple[str, torch.Tensor, list[int]]]) -> dict[str, float]:
    keys, pixels, ids = zip(*batch, strict=True)
    return dict(zip(keys, model(torch.stack(pixels), list(ids)).tolist(), strict=True))


def _samples(tar: str) -> Iterator[tuple[str, bytes, str]]:
    with tarfile.open(tar) as archive:
        members = {}
        for info in archive:
            key, _, extension = info.name.partition(".")
            members[extension] = archive.extractfile(info).read()
            if extension == "json":
                yield key, members["jpg"], members["txt"].decode()


def _pixels(data: bytes, size: int) -> torch.Tensor:
    image = Image.open(io.BytesIO(data)).convert("RGB").resize((size, size), Image.BILINEAR)
    return torch.from_numpy((np.asarray(image, np.float32) / 255 - 0.5) / 0.5).permute(2, 0, 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
