"""The stock Hugging Face layout that `convert` writes: a Llava, as servers and libraries load it.

vLLM (0.32), SGLang and transformers 5 read the same folder: one view of an image, stretched to the
tower's square, so that its patches are as many tokens. Tensors of the tower have the names that
all of them know (`model.vision_tower.vision_model.*`; some versions of transformers write them
without `vision_model.`, which vLLM refuses).
"""

import base64
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
from tokenizers import Tokenizer

from mmsieve.errors import RequestError, SampleError, Status
from mmsieve.images import ImageLimits, Pixels, decode
from mmsieve.methods.base import Portable, pixel_settings
from mmsieve.methods.folders import hash_files, read_json, save_tensors
from mmsieve.methods.tokenizer import IMAGE, load_tokenizer
from mmsieve.methods.tower import CheckpointFolder

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

RECORD = "convert.json"
"""What a folder was converted from."""
_LAYOUT = "llava 2"
"""Another name for each way in which folders were written."""


def record_of(checkpoint: CheckpointFolder) -> dict[str, str]:
    """What `RECORD` says of a folder that was converted from a checkpoint."""
    files = {*checkpoint.tensors.values(), checkpoint.folder / "config.json"}
    return {"model": hash_files(files), "layout": _LAYOUT}


def check_stock(folder: Path, checkpoint: CheckpointFolder) -> None:
    """Raise RequestError where a folder isn't `convert`'s, or is of another checkpoint.

    One that a tool for quantisation made of such a folder has no record, and is taken as it is.
    """
    if read_json(folder / "config.json").get("model_type") != "llava":
        raise RequestError(f"{folder}: is no folder that `convert` wrote: give one")
    if (folder / RECORD).is_file() and read_json(folder / RECORD) != record_of(checkpoint):
        raise RequestError(
            f"{folder}: was converted from another model than {checkpoint.folder}: convert that one"
        )


# The text of a chat, as ids


@dataclass(frozen=True)
class ChatLayout:
    """How a method's prompts are written as a chat, so that a server's ids are the published."""

    marks: tuple[str, ...]
    """Tokens that an image is in the text; its patches take the place of the first."""
    line_breaks: str
    """Pattern of what is a token of its own at the beginning of a text, whatever follows."""
    template: str
    """Jinja's, of a chat."""


@dataclass(frozen=True)
class ServedTokenizer(Portable):
    """The tokenizer of a converted folder, as a server uses it. Picklable."""

    json: str
    marks: tuple[int, ...]
    """Ids of the layout's marks."""

    @classmethod
    def of(cls, checkpoint: CheckpointFolder, layout: ChatLayout) -> "ServedTokenizer":
        """That of the folder which a checkpoint is converted to."""
        backend = load_tokenizer(checkpoint.folder, checkpoint.embedded).build()
        backend.add_special_tokens(list(layout.marks))
        parts = json.loads(backend.to_str())
        pattern = {"Regex": layout.line_breaks}
        split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
        steps = [step for step in (split, parts.get("pre_tokenizer")) if step]
        parts["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
        marks = tuple(int(backend.token_to_id(mark) or 0) for mark in layout.marks)
        return cls(json.dumps(parts, ensure_ascii=False), marks)

    @cached_property
    def _backend(self) -> Tokenizer:
        return Tokenizer.from_str(self.json)

    def spread(self, ids: Iterable[int]) -> list[int]:
        """Ids of a prompt, each IMAGE as the marks that a server is given."""
        return [mark for one in ids for mark in (self.marks if one == IMAGE else (int(one),))]

    def check(self, text: str, ids: Iterable[int]) -> None:
        """Raise SampleError where a server would read a chat's text as other ids than these."""
        if self._backend.encode(text, add_special_tokens=False).ids != self.spread(ids):
            message = "a server would read its text as other tokens, as where it holds <|im_end|>"
            fix = "rate it without a server, or with --backend vllm"
            raise SampleError(Status.TEXT_UNDECODABLE, f"{message}: {fix}")


def image_part(square: Pixels) -> dict[str, Any]:
    """The part of a chat that shows a square to the pixel, as PNG."""
    return _data_part("png", _png(np.ascontiguousarray(square), compress_level=1))


_AS_IT_IS = {b"\xff\xd8\xff": "jpeg", b"\x89PNG\r\n\x1a\n": "png"}
"""First bytes of files that any server reads; others are sent as PNG."""


def file_part(data: bytes, limits: ImageLimits, orient: bool) -> dict[str, Any]:
    """The part of a chat that shows an image file: as it is, or as PNG where a server might not
    read it, or see something else. Raises SampleError where it can't be decoded."""
    pixels = decode(data, limits, 0, orient)
    kind = next((kind for magic, kind in _AS_IT_IS.items() if data.startswith(magic)), None)
    if kind is None or orient or limits.convert_well:
        return _data_part("png", _png(pixels))
    return _data_part(kind, data)


def _png(pixels: Pixels, **settings: int) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG", **settings)
    return file.getvalue()


def _data_part(kind: str, data: bytes) -> dict[str, Any]:
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def escape(text: str) -> str:
    """A text as a regular expression of it, as those of servers are."""
    return re.sub(r"[\\^$.|?*+()\[\]{}]", lambda found: f"\\{found[0]}", text)


# Writing


def save_stock(model: "LlavaForConditionalGeneration", folder: Path) -> None:
    """Write weights, config and generation settings of a model, in its number format."""
    tied = bool(model.config.tie_word_embeddings)
    state = {
        _served_name(name): tensor
        for name, tensor in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    save_tensors(state, folder)
    model.config.architectures = [type(model).__name__]
    model.config.dtype = model.dtype
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)


_TOWER = "model.vision_tower."
_NESTED = "vision_model."


def _served_name(name: str) -> str:
    if not name.startswith(_TOWER):
        return name
    return f"{_TOWER}{_NESTED}{name.removeprefix(_TOWER).removeprefix(_NESTED)}"


def write_processor(checkpoint: CheckpointFolder, folder: Path, layout: ChatLayout) -> list[int]:
    """Write what a LlavaProcessor is made of, chat template included; the ids of the marks."""
    served = ServedTokenizer.of(checkpoint, layout)
    (folder / "tokenizer.json").write_text(served.json, "utf-8")
    spec, backend = load_tokenizer(checkpoint.folder), Tokenizer.from_str(served.json)
    names = {"bos_token": spec.bos, "eos_token": spec.eos, "pad_token": spec.pad}
    settings: dict[str, Any] = {
        # other classes build a tokenizer of their own from the vocabulary
        "tokenizer_class": "PreTrainedTokenizerFast",
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": {"image_token": layout.marks[0]},
        **{name: backend.id_to_token(token) for name, token in names.items() if token is not None},
    }
    _write(folder / "tokenizer_config.json", settings)
    kinds = {"image_processor_type": "SiglipImageProcessor", "processor_class": "LlavaProcessor"}
    _write(folder / "preprocessor_config.json", kinds | pixel_settings(checkpoint.image))
    settings = {
        "processor_class": "LlavaProcessor",
        "image_token": layout.marks[0],
        "patch_size": checkpoint.tower.config["patch_size"],
        "vision_feature_select_strategy": "full",
        "num_additional_image_tokens": 0,
    }
    _write(folder / "processor_config.json", settings)
    (folder / "chat_template.jinja").write_text(layout.template, "utf-8")
    return list(served.marks)


def _write(file: Path, settings: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
