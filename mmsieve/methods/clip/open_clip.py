"""open_clip's folders, DFN's among them, as a CLIP: built and fed by the open_clip library.

The layout is that of github.com/mlfoundations/open_clip: open_clip_config.json and weights, here as
safetensors alone. DFN: Fang et al., arXiv 2309.17425. The library is the extra
`mmsieve[open_clip]`: it brings torchvision, and nothing else here imports it.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict

from mmsieve.errors import RequestError
from mmsieve.images import ImageSpec
from mmsieve.methods.base import Portable
from mmsieve.methods.clip.checkpoint import ClipFolder
from mmsieve.methods.configs import Size
from mmsieve.methods.folders import FIX, read_json, stored_tensors, tensor_files
from mmsieve.methods.tower import CLIP_MEAN, CLIP_STD, Tower
from mmsieve.validated import check_json

if TYPE_CHECKING:
    import torch
    from torch import nn

CONFIG = "open_clip_config.json"
_Number = Annotated[float, Field(allow_inf_nan=False)]
_Triple = tuple[_Number, _Number, _Number]


class _Vision(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    image_size: Size
    patch_size: NotRequired[Size | None]
    width: NotRequired[Size]


class _Text(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    context_length: NotRequired[Size]


class _Model(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    vision_cfg: _Vision
    text_cfg: _Text


class _Preprocess(TypedDict, total=False):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    mean: _Triple
    std: _Triple
    interpolation: Literal["bicubic", "bilinear"]
    resize_mode: Literal["shortest", "squash"]


class _Config(TypedDict):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    model_cfg: _Model
    preprocess_cfg: NotRequired[_Preprocess]


_WHOLE: TypeAdapter[_Config] = TypeAdapter(_Config)


class OpenClipFolder(ClipFolder):
    """An open_clip folder, understood."""

    pads_to_end = True

    def tokenizer(self, limit: int | None = None) -> "OpenClipTokenizer":
        """What the library tokenizes texts with, cut at `limit` ids."""
        return OpenClipTokenizer(self.folder, min(limit or self.text_length, self.text_length))

    def build(self, dtype: "torch.dtype") -> "nn.Module":
        """The library's model with the folder's weights, on the CPU; raises RequestError."""
        import open_clip

        from mmsieve.methods.base import fitting

        with fitting(self.folder):
            model = open_clip.create_model(
                f"local-dir:{self.folder}", load_weights=False, pretrained_text=False
            )
            stored = stored_tensors({name: (file, name) for name, file in self.tensors.items()})
            model.load_state_dict({name: tensor.read() for name, tensor in stored.items()})
        built: nn.Module = model.to(dtype).eval().requires_grad_(False)
        return built


def is_open_clip(folder: Path) -> bool:
    """Whether a folder is in open_clip's layout."""
    return (folder / CONFIG).is_file()


def open_open_clip(folder: Path) -> OpenClipFolder:
    """Understand a folder; raises RequestError for one of no use, or without the library."""
    file = folder / CONFIG
    config = check_json(file, read_json(file), _WHOLE, FIX)
    if find_spec("open_clip") is None:
        raise RequestError(f"{folder}: open_clip's layout: pip install 'mmsieve[open_clip]'")
    vision, pixels = config["model_cfg"]["vision_cfg"], config.get("preprocess_cfg", {})
    geometry = {
        "image_size": vision["image_size"],
        "patch_size": vision.get("patch_size") or 32,
        "hidden_size": vision.get("width") or 768,
    }
    image = ImageSpec(
        vision["image_size"],
        2 if pixels.get("interpolation") == "bilinear" else 3,
        pixels.get("mean", CLIP_MEAN),
        pixels.get("std", CLIP_STD),
        "stretch" if pixels.get("resize_mode") == "squash" else "crop",
    )
    tensors = tensor_files(folder)
    tower = Tower("clip", geometry, image, {}, f"open_clip's model from {folder}")
    length = config["model_cfg"]["text_cfg"].get("context_length", 77)
    return OpenClipFolder(folder, tower, tensors, length)


@dataclass(frozen=True)
class OpenClipTokenizer(Portable):
    """A text -> ids, by the library's tokenizer of a folder; ready to travel."""

    folder: Path
    length: int
    """Most ids of a text, the special ones included."""
    pad: int = 0
    pad_left: bool = False

    def build(self, plain: bool = False) -> "OpenClipTokenizer":
        """What encodes texts; control strings are ordinary text to no tokenizer of open_clip."""
        if plain:
            raise RequestError(f"{self.folder}: --plain-text: open_clip's tokenizers have no such")
        return replace(self)

    @cached_property
    def _tokenizer(self) -> Any:
        import open_clip

        return open_clip.get_tokenizer(f"local-dir:{self.folder}")

    def encode(self, text: str) -> tuple[npt.NDArray[np.int32], bool]:
        """Ids with the first and the last one, and whether the text was cut."""
        longest = self.length + 1
        whole = self._tokenizer([text], context_length=longest)[0].numpy()
        cut = bool(whole[-1])
        ids = self._tokenizer([text], context_length=self.length)[0].numpy()
        kept = ids if ids.all() else ids[: max(1, int(np.flatnonzero(ids)[-1]) + 1)]
        return kept.astype(np.int32), cut
