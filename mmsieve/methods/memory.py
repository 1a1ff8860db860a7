"""How much memory a model takes, from its config and its tensors' headers: no weight is read.

Weights are counted. What a batch takes beside them is that of the step that takes most, and follows
from the sizes of the model: the layers are the stock ones, and one layer's numbers are let go of
before the next one's. `python -m benchmarks.memory` shows measured peaks beside it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mmsieve.devices import ITEM_BYTES, LIBRARIES, Device, Dtype, Memory, kind_of
from mmsieve.errors import RequestError
from mmsieve.methods.base import PATCHES, WINDOW_BYTES
from mmsieve.methods.configs import below
from mmsieve.methods.folders import StoredTensor, stored_tensors
from mmsieve.methods.tower import CheckpointFolder, Tower
from mmsieve.wording import counted

FLOAT32 = 4
"""Bytes of a number."""
_LIBRARIES_BYTES = 250_000_000
"""What a CPU's memory holds beside: code loaded with a model, and what its allocator keeps; as
measured by `python -m benchmarks.memory`."""
_PRODUCTS_UP_TO = 512
"""Tokens of a sequence whose attention a CPU computes by plain products in bfloat16 (`cpu.py`)."""


def count_numbers(tensors: Iterable[StoredTensor]) -> int:
    """Of all tensors together."""
    return sum(stored.numbers for stored in tensors)


@dataclass(frozen=True)
class LanguageSizes:
    """What decides how much a stock language model takes."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    """Numbers of all query heads together, per token."""
    keys: int
    """Numbers of all key heads together, per token."""
    attention_heads: int
    vocabulary: int
    has_scores: bool
    """Whether attention keeps a score for each pair of tokens (no fused kernel does its caps)."""
    has_key_norms: bool
    """Whether queries and keys have norms of their own."""

    @classmethod
    def of(cls, checkpoint: CheckpointFolder) -> "LanguageSizes":
        """Those of a checkpoint."""
        stored = stored_tensors(below(checkpoint.used, checkpoint.language_prefix))
        heads = int(checkpoint.config.get("num_attention_heads", 1))
        try:
            return cls.of_tensors(stored, heads, checkpoint.backbone)
        except KeyError as error:
            name = f"{checkpoint.language_prefix}{error.args[0]}"
            raise RequestError(f"{checkpoint.folder}: no tensor {name}") from error

    @classmethod
    def of_tensors(
        cls, stored: Mapping[str, StoredTensor], attention_heads: int, backbone: str
    ) -> "LanguageSizes":
        """Those of tensors by their names in the stock model; `backbone` is its `model_type`."""
        vocabulary, hidden = stored["embed_tokens.weight"].shape
        heads = stored["layers.0.self_attn.o_proj.weight"].shape[1]
        if "layers.0.self_attn.k_proj.weight" in stored:
            keys = stored["layers.0.self_attn.k_proj.weight"].shape[0]
        else:  # Phi-3's one layer for queries, keys and values
            keys = (stored["layers.0.self_attn.qkv_proj.weight"].shape[0] - heads) // 2
        return cls(
            hidden=hidden,
            intermediate=stored["layers.0.mlp.down_proj.weight"].shape[1],
            layers=sum(name.endswith("self_attn.o_proj.weight") for name in stored),
            heads=heads,
            keys=keys,
            attention_heads=attention_heads,
            vocabulary=vocabulary,
            has_scores=backbone == "gemma2",
            has_key_norms="layers.0.self_attn.k_norm.weight" in stored,
        )

    @property
    def numbers(self) -> int:
        """Weights of all layers, without embeddings."""
        products = 2 * self.heads + 2 * self.keys + 3 * self.intermediate
        return self.layers * self.hidden * products

    def layer_numbers(self, tokens: int, longest: int, by_products: bool) -> int:
        """The most numbers that are there while one layer computes, what comes in included."""
        around = 3 * self.hidden  # the model's input, the layer's, the norm's output
        mlp = around + 3 * self.intermediate
        attention = around + 4 * self.heads + 2 * self.keys
        if by_products or self.has_scores:  # keys and values repeated, scores and their softmax
            attention += 2 * self.heads + 2 * self.attention_heads * longest
        return tokens * max(mlp, attention)

    def cached(self, tokens: int) -> int:
        """Numbers of the keys and values of so many tokens."""
        return 2 * self.layers * self.keys * tokens


def tower_numbers(tower: Tower, images: int) -> int:
    """The most numbers that are there while one layer of a tower computes so many images."""
    width = int(tower.config["hidden_size"])
    inner = int(tower.config.get("intermediate_size") or 4 * width)
    tokens = images * (tower.patches + 1)
    pixels = images * 3 * tower.image.size**2
    return 3 * pixels + tokens * max(7 * width, 3 * width + 2 * inner)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What is computed at a time."""

    device: Device
    dtype: Dtype
    tokens: int
    """Of all samples, those of their images included."""
    sample: int
    """Tokens of a usual sample, with one image."""
    image_tokens: int
    windows: int
    """Batches whose samples wait in memory together."""

    @property
    def rows(self) -> int:
        """Samples."""
        return max(1, self.tokens // self.sample)

    @property
    def length(self) -> int:
        """Tokens, of a sample that is longer than the batch should be as well."""
        return max(self.tokens, self.sample)

    @property
    def item_bytes(self) -> int:
        """Of a number of the model."""
        return ITEM_BYTES[self.dtype]

    def waiting(self, tower: Tower) -> int:
        """Bytes of pixels in memory before they are computed: on a GPU not in its own."""
        square = 3 * tower.image.size**2
        if kind_of(self.device) != "cpu":
            return self.rows * square
        items = min(4096, self.windows * self.rows)
        return min(WINDOW_BYTES["cpu"], items * square) + self.rows * square

    def images(self, tower: Tower, hidden: int) -> tuple[int, int]:
        """Bytes that encoding the images takes at most, and those of what comes of it."""
        at_once = min(self.rows, max(1, PATCHES[kind_of(self.device)] // tower.patches))
        made = self.rows * self.image_tokens * hidden * self.item_bytes
        return made + tower_numbers(tower, at_once) * self.item_bytes, made

    def activations(self, sizes: LanguageSizes, tower: Tower) -> int:
        """Bytes of the step that takes most, and of what waits meanwhile."""
        encoding, images = self.images(tower, sizes.hidden)
        by_products = (
            kind_of(self.device) == "cpu"
            and self.dtype == "bfloat16"
            and self.sample <= _PRODUCTS_UP_TO
        )
        layer = sizes.layer_numbers(self.length, self.sample, by_products) * self.item_bytes
        return self.waiting(tower) + max(encoding, images + layer)

    def mask_bytes(self, sizes: LanguageSizes) -> int:
        """Of attention under a mask: keys and values are repeated for all heads; the mask."""
        repeated = 2 * self.length * sizes.heads * self.item_bytes
        return repeated + self.rows * self.sample**2 * (1 + self.item_bytes)


def estimate_tower(tower: Tower, device: Device, dtype: Dtype) -> Memory:
    """Of a tower alone, that encodes images of which 256 wait (`generate --diversify`)."""
    kept = {name: at for name, at in tower.tensors.items() if not name.startswith("head.")}
    at_once = max(1, PATCHES[kind_of(device)] // tower.patches)
    pixels = 256 * 3 * tower.image.size**2 if device == "cpu" else 0
    numbers = count_numbers(stored_tensors(kept).values())
    return Memory(
        device=device,
        dtype=dtype,
        parts={
            "weights": numbers * ITEM_BYTES[dtype],
            "activations": pixels + tower_numbers(tower, at_once) * ITEM_BYTES[dtype],
        },
        about=f"for {counted(at_once, 'images')} at a time",
        smaller=smaller_dtypes(numbers, dtype),
    )


def together(models: Sequence[Memory]) -> Memory | None:
    """Of models that are there at once, and compute one after the other."""
    if not models:
        return None
    first, parts = models[0], dict[str, int]()
    for name in dict.fromkeys(name for one in models for name in one.parts):
        sizes = [one.parts.get(name, 0) for one in models]
        parts[name] = sum(sizes) if name == "weights" else max(sizes)
    smaller = {
        name: sum(one.smaller.get(name, one.parts["weights"]) for one in models)
        for name in dict.fromkeys(name for one in models for name in one.smaller)
    }
    return replace(first, parts=parts, smaller=smaller)


def smaller_dtypes(numbers: int, dtype: Dtype) -> dict[str, int]:
    """The option of fewer bytes, where there is one -> what the weights then take."""
    return {"--dtype bfloat16": numbers * ITEM_BYTES["bfloat16"]} if dtype == "float32" else {}


def estimate(
    batch: Batch, numbers: int, activations: int, cache: int = 0, float32: int = 0
) -> Memory:
    """Of a model of so many numbers, `float32` more of which are never shorter."""
    weights = numbers * batch.item_bytes + float32 * FLOAT32
    parts = {"weights": weights, "activations": activations}
    parts |= {"keys and values": cache} if cache else {}
    parts |= {LIBRARIES: _LIBRARIES_BYTES} if batch.device == "cpu" else {}
    return Memory(
        device=batch.device,
        dtype=batch.dtype,
        parts=parts,
        about=f"for {batch.length:,} tokens at a time",
        smaller=smaller_dtypes(numbers, batch.dtype),
    )
