"""What a folder's model says, put together by hand from stock modules: no code of mmsieve.

Only the rows of embeddings that are needed become float32, so that a 7B geometry is judged in
little memory.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional

from tests.full_width.folders import TOWER, Geometry, stored

IMAGE = -200


class Judge:
    """Hidden states and logits of sequences of ids and images."""

    def __init__(self, folder: Path, geometry: Geometry) -> None:
        self._places = dict(stored(folder))
        self._geometry = geometry
        self._tables: dict[str, Tensor] = {}
        config = json.loads((folder / "config.json").read_text())
        # what AutoConfig makes of the base model's own keys, but for its embeddings' rows
        known = {k: v for k, v in config.items() if k in geometry.text} | {"vocab_size": 8}
        known |= {"num_hidden_layers": config["num_hidden_layers"]}
        known |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
        text = transformers.AutoConfig.for_model(geometry.family, **known)
        attention = "eager" if geometry.family == "gemma2" else "sdpa"
        model = transformers.AutoModel.from_config(text, attn_implementation=attention)
        self.text = self._filled(model, "model.model." if self._is_aitqe else "model.", "embed")
        tower = transformers.SiglipVisionConfig(**TOWER, vision_use_head=False)
        inside = "vision_model." if self._is_aitqe else "model.vision_tower.vision_tower."
        stock = transformers.SiglipVisionModel(tower)
        stock = getattr(stock, "vision_model", stock)
        self.tower = self._filled(stock, f"{inside}vision_model.", "encoder.layers.1")

    @property
    def _is_aitqe(self) -> bool:
        return self._geometry.method == "aitqe"

    def _filled(self, model: Any, prefix: str, lacking: str) -> Any:
        """The module with the folder's weights; those that begin with `lacking` may be missing."""
        names = [n for n in self._places if n.startswith(prefix) and "embed_tokens" not in n]
        own = {n.removeprefix(prefix): self.tensor(n) for n in names}
        own = {n: t for n, t in own.items() if n in model.state_dict()}
        missing, _ = model.load_state_dict(own, strict=False)
        assert all(name.startswith(lacking) for name in missing), missing
        return model.float().eval()

    def tensor(self, name: str, rows: Any = ...) -> Tensor:
        """float32; of some rows only where they are given."""
        with safe_open(self._places[name], "pt", backend="pread") as opened:
            if rows is ...:
                return opened.get_tensor(name).float()
            if name not in self._tables:  # as it is stored: a 7B's rows are 2 GB in float32
                self._tables[name] = opened.get_tensor(name)
            return self._tables[name][rows].float()

    def images(self, pixels: np.ndarray) -> Tensor:
        """[images, size, size, 3] uint8 -> [images, tokens, hidden]."""
        values = (torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
        hidden = self.tower.embeddings(values)
        layers = self.tower.encoder.layers
        for layer in layers if self._geometry.method == "unifilter" else layers[:-1]:
            out = layer(hidden, attention_mask=None)
            hidden = out[0] if isinstance(out, tuple) else out
        if self._geometry.method == "unifilter":
            grid = hidden.transpose(1, 2).reshape(len(hidden), -1, 27, 27)
            pooled = functional.adaptive_avg_pool2d(grid, 12).flatten(2).transpose(1, 2)
            return self._project(pooled, "model.mm_projector.mlp_projector.")
        if self._is_aitqe:
            return self._project(hidden, "mm_projector.")
        newline = self.tensor("model.image_newline").expand(len(hidden), 1, -1)
        return torch.cat([self._project(hidden, "model.mm_projector."), newline], 1)

    def _project(self, seen: Tensor, prefix: str) -> Tensor:
        first = functional.linear(
            seen, self.tensor(f"{prefix}0.weight"), self.tensor(f"{prefix}0.bias")
        )
        bias = None if self._is_aitqe else self.tensor(f"{prefix}2.bias")
        return functional.linear(functional.gelu(first), self.tensor(f"{prefix}2.weight"), bias)

    def hidden(self, ids: list[int], images: Tensor) -> Tensor:
        """[hidden] of the last place: `IMAGE` stands for the next of `images` in `ids`."""
        table = "model.model." if self._is_aitqe else "model."
        shown = iter(images)
        parts, words = [], [token for token in ids if token != IMAGE]
        embedded = iter(self.tensor(f"{table}embed_tokens.weight", words))
        for token in ids:
            parts.append(next(shown) if token == IMAGE else next(embedded)[None])
        inputs = torch.cat(parts)[None]
        if self._geometry.family == "gemma2":
            inputs = inputs * self.text.config.hidden_size**0.5
        return self.text(inputs_embeds=inputs).last_hidden_state[0, -1]
