"""CLIP and SigLIP folders in the stock Hugging Face layout, read without importing torch.

CLIP: Radford et al., arXiv 2103.00020. SigLIP: Zhai et al., arXiv 2303.15343; SigLIP 2, arXiv
2502.14786, whose fixed-size checkpoints are SigLIP models with another tokenizer.
"""

import warnings
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, normalizers

from mmsieve.errors import RequestError
from mmsieve.methods.configs import below, check_clip_text_sizes, checked_config, read_config_file
from mmsieve.methods.folders import tensor_files, tensor_shape
from mmsieve.methods.tokenizer import FILES, open_tokenizer
from mmsieve.methods.tower import Tower, open_tower

TEXT_FILES = (*FILES, "spiece.model")
"""Every file that decides how text becomes ids."""

_LENGTHS = {"clip": 77, "siglip": 64}
"""Ids of a text where config.json leaves the stock default unsaid."""


@dataclass(frozen=True)
class ClipFolder:
    """A CLIP or SigLIP, understood: all that is needed to build, feed and name it."""

    folder: Path
    tower: Tower
    """The image side; its kind is that of the whole."""
    tensors: dict[str, Path] = field(repr=False)
    """Tensor name -> file."""
    text_length: int
    """Most ids of a text."""

    @property
    def pads_to_end(self) -> bool:
        """Whether texts are padded to their greatest length: a SigLIP looks at its padding."""
        return self.tower.kind == "siglip"

    def tokenizer(self, limit: int | None = None) -> "Tokenizing":
        """What texts are tokenized with, cut at `limit` ids; raises RequestError."""
        return load_clip_tokenizer(self, limit)


class TextEncoder(Protocol):
    """A text -> ids."""

    def encode(self, text: str) -> tuple[npt.NDArray[np.int32], bool]:
        """Ids as the model wants them, not padded, and whether the text was cut."""


class Tokenizing(Protocol):
    """What a text encoder is built from, where it is needed; ready to travel."""

    @property
    def pad(self) -> int:
        """The id of padding."""

    @property
    def pad_left(self) -> bool:
        """Whether padding comes before the text."""

    def build(self, plain: bool = False) -> TextEncoder:
        """What encodes texts; `plain` reads control strings in a text as ordinary text."""


def open_clip(folder: Path) -> ClipFolder:
    """Understand a folder; raises RequestError where it holds no CLIP or SigLIP that we can use."""
    file = folder / "config.json"
    config = read_config_file(file)
    kind = config.get("model_type")
    if kind == "siglip2":
        raise RequestError(
            f"{folder}: a SigLIP 2 for images of any size (NaFlex) is not supported: take one of "
            "a fixed size, such as siglip2-base-patch16-224"
        )
    if kind not in _LENGTHS:
        raise RequestError(f"{folder}: model_type {kind!r} is not one of clip, siglip")
    tensors = tensor_files(folder)
    if not any(name.startswith("text_model.") for name in tensors):
        raise RequestError(f"{folder}: no text tower in it: a whole {kind} model is needed")
    if not any((folder / file).is_file() for file in ("tokenizer.json", "vocab.json", _SPIECE)):
        wanted = f"tokenizer.json, vocab.json + merges.txt, or {_SPIECE}"
        raise RequestError(f"no tokenizer in {folder}: it needs {wanted}")
    text = checked_config(file, config.get("text_config") or {})
    places = {name: (at, name) for name, at in tensors.items()}
    check_clip_text_sizes(file, text, below(places, "text_model."))
    length = int(text.get("max_position_embeddings", _LENGTHS[kind]))
    return ClipFolder(folder, open_tower(folder), tensors, length)


@dataclass(frozen=True)
class ClipTokenizer:
    """A text -> ids, ready to travel: a backend's JSON, or where the stock slow tokenizer lies."""

    json: str | None
    folder: Path
    length: int
    """Most ids of a text, the special ones included."""
    pad: int
    pad_left: bool

    def build(self, plain: bool = False) -> "_FastEncoder | _SlowEncoder":
        """What encodes texts; `plain` reads control strings in a text as ordinary text."""
        if self.json is None:
            stock = open_tokenizer(self.folder, _SLOW)
            stock.split_special_tokens = plain
            return _SlowEncoder(stock, self.length)
        backend = Tokenizer.from_str(self.json)
        backend.no_padding()
        backend.enable_truncation(self.length)
        backend.encode_special_tokens = plain
        return _FastEncoder(backend)


@dataclass(frozen=True)
class _FastEncoder:
    backend: Tokenizer

    def encode(self, text: str) -> tuple[npt.NDArray[np.int32], bool]:
        """Ids with bos and eos as the model wants them, and whether the text was cut."""
        encoded = self.backend.encode(text)
        return np.array(encoded.ids, np.int32), bool(encoded.overflowing)


@dataclass(frozen=True)
class _SlowEncoder:
    tokenizer: Any
    length: int

    def encode(self, text: str) -> tuple[npt.NDArray[np.int32], bool]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a text has an eos of its own
            ids = self.tokenizer(text, verbose=False)["input_ids"]
        cut = len(ids) > self.length
        return np.array([*ids[: self.length - 1], ids[-1]] if cut else ids, np.int32), cut


_SPIECE = "spiece.model"
_SLOW = "SiglipTokenizer"
"""The stock class that reads it."""


def load_clip_tokenizer(clip: ClipFolder, limit: int | None = None) -> ClipTokenizer:
    """The tokenizer of a folder, cutting at `limit` ids where that is less than the model's.

    CLIP: the stock class; shorter texts are padded after their eos, where a causal model does not
    look. SigLIP: `tokenizer.json` as it is, in lower case, as SigLIP 2 was trained (stock
    Siglip2Tokenizer; the JSON of SigLIP 1 does it itself), else the stock slow class on
    `spiece.model`; padded to the model's length, as it was trained, on the right unless
    tokenizer_config.json says otherwise. Raises RequestError.
    """
    folder, length = clip.folder, min(limit or clip.text_length, clip.text_length)
    name = "text_model.embeddings.token_embedding.weight"
    rows = tensor_shape(clip.tensors[name], name)[0] if name in clip.tensors else None
    if clip.tower.kind == "clip":
        stock = open_tokenizer(folder, "CLIPTokenizer", rows)
        json = stock.backend_tokenizer.to_str()
        return ClipTokenizer(json, folder, length, int(stock.eos_token_id), pad_left=False)
    if (folder / "tokenizer.json").is_file():
        stock = open_tokenizer(folder, "PreTrainedTokenizerFast", rows)
        backend = stock.backend_tokenizer
        before = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])
        json = backend.to_str()
    elif find_spec("sentencepiece") is None or find_spec("google.protobuf") is None:
        advice = "pip install sentencepiece protobuf"
        raise RequestError(f"{folder} has only {_SPIECE}, which needs more: {advice}")
    else:
        stock, json = open_tokenizer(folder, _SLOW, rows), None
    if stock.pad_token_id is None:
        raise RequestError(f"{folder}: its tokenizer has no pad token")
    pad_left = stock.padding_side == "left"
    return ClipTokenizer(json, folder, length, int(stock.pad_token_id), pad_left)
