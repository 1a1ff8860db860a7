"""What the JSON files of checkpoints must hold, and their sizes against the tensors' headers.

A config is a few bytes that make torch build anything: all that sizes it is compared with the
shapes that the weights have before torch is asked, and named with its file and key.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypeAlias

from pydantic import ConfigDict, Field, PositiveInt, TypeAdapter
from typing_extensions import TypedDict

from mmsieve.errors import RequestError
from mmsieve.images import ImageSpec
from mmsieve.methods.folders import FIX, read_json, tensor_shape
from mmsieve.validated import check_json

Size: TypeAlias = Annotated[int, Field(ge=1, lt=1 << 31)]
TokenId: TypeAlias = Annotated[int, Field(ge=-1, lt=1 << 31)]
Name: TypeAlias = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*$")]
Places: TypeAlias = Mapping[str, tuple[Path, str]]
"""A tensor's name -> file, name in that file."""

_OPEN = ConfigDict(extra="allow", strict=True)


class ModelSettings(TypedDict, total=False):
    """The key `mmsieve` of a checkpoint that mmsieve made."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]

    backbone: str
    capabilities: dict[Name, Annotated[str, Field(pattern="^[^<]+$")]]
    clean_format: bool
    image: dict[str, Any]
    image_fit: Literal["stretch", "pad"] | None
    max_text_tokens: PositiveInt | None
    plain_text: bool
    styles: bool
    vision_config: dict[str, Any]


class ModelConfig(TypedDict, total=False):
    """config.json of a checkpoint or of a tower: keys that we look at, beside those that we don't.

    What the stock classes need of it they check themselves.
    """

    __pydantic_config__ = _OPEN  # type: ignore[misc]

    model_type: str
    id2label: dict[str, Any] | None
    num_labels: Size
    tie_word_embeddings: bool
    tokenizer_model_max_length: PositiveInt | None
    mm_hidden_size: Size
    mm_num_image_tokens: Size
    mm_patch_merge_type: str | None
    mm_projector_type: str
    mm_vision_select_feature: str
    mm_vision_select_layer: int
    mm_vision_tower: str | None
    vision_model_name_or_path: str | None
    image_tile_tokens: Size
    mmsieve: ModelSettings | None
    text_config: dict[str, Any]
    vision_config: dict[str, Any]
    torch_dtype: str | None
    bos_token_id: TokenId | None
    eos_token_id: TokenId | list[TokenId] | None
    pad_token_id: TokenId | None
    original_max_position_embeddings: Size | None
    rope_parameters: dict[str, Any] | None
    rope_scaling: dict[str, Any] | None
    repetition_penalty: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    hidden_size: Size
    head_dim: Size | None
    image_size: Size
    intermediate_size: Size
    max_position_embeddings: Size
    num_attention_heads: Size
    num_channels: Size
    num_hidden_layers: Size
    num_key_value_heads: Size | None
    patch_size: Size
    projection_dim: Size
    vocab_size: Size


_CONFIG: TypeAdapter[ModelConfig] = TypeAdapter(ModelConfig)


def read_config_file(file: Path) -> dict[str, Any]:
    """A config as it is, once its keys are checked; raises RequestError."""
    return checked_config(file, read_json(file))


def checked_config(file: Path, config: dict[str, Any]) -> dict[str, Any]:
    """The config, or a part of one; raises RequestError for what isn't one."""
    check_json(file, config, _CONFIG, FIX)
    return config


Side: TypeAlias = Size | dict[str, Size]
_Finite: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]
_Above: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Triple: TypeAlias = tuple[_Finite, _Finite, _Finite]
_TripleAbove: TypeAlias = tuple[_Above, _Above, _Above]
_Filter: TypeAlias = Annotated[int, Field(ge=0, le=5)]


class ProcessorConfig(TypedDict, total=False):
    """preprocessor_config.json: how an image becomes what a tower takes."""

    size: Side
    crop_size: Side
    do_center_crop: bool
    do_normalize: bool
    do_rescale: bool
    image_mean: _Finite | _Triple
    image_std: _Above | _TripleAbove
    rescale_factor: _Above
    resample: _Filter


_PROCESSOR: TypeAdapter[ProcessorConfig] = TypeAdapter(ProcessorConfig)


def checked_processor(file: Path, processor: dict[str, Any]) -> ProcessorConfig:
    """What a processor's config says, without what it leaves open; raises RequestError."""
    said = {name: value for name, value in processor.items() if value is not None}
    return check_json(file, said, _PROCESSOR, FIX)


class PixelConfig(TypedDict):
    """The key `mmsieve.image`: the fields of an ImageSpec."""

    size: Size
    resample: _Filter
    mean: _Triple
    std: _TripleAbove
    fit: Literal["stretch", "crop"]
    scale: NotRequired[_Above]


_PIXELS: TypeAdapter[PixelConfig] = TypeAdapter(PixelConfig)


def read_pixels(file: Path, value: object) -> ImageSpec:
    """What a checkpoint made by mmsieve says of its pixels; raises RequestError."""
    return ImageSpec(**check_json(file, value, _PIXELS, FIX))


# Sizes

_LAYER = re.compile(r"(?:encoder\.)?layers\.(\d+)\.")
Sizes: TypeAlias = dict[str, tuple[str, int]]
"""Key of a config -> the tensor that has the size, and in which dimension."""

_TEXT: Sizes = {
    "vocab_size": ("embed_tokens.weight", 0),
    "hidden_size": ("embed_tokens.weight", 1),
    "intermediate_size": ("layers.0.mlp.down_proj.weight", 1),
}
_VISION: Sizes = {
    "hidden_size": ("embeddings.patch_embedding.weight", 0),
    "num_channels": ("embeddings.patch_embedding.weight", 1),
    "patch_size": ("embeddings.patch_embedding.weight", 2),
    "intermediate_size": ("encoder.layers.0.mlp.fc1.weight", 0),
}
_CLIP_TEXT: Sizes = {
    "vocab_size": ("embeddings.token_embedding.weight", 0),
    "hidden_size": ("embeddings.token_embedding.weight", 1),
    "max_position_embeddings": ("embeddings.position_embedding.weight", 0),
    "intermediate_size": ("encoder.layers.0.mlp.fc1.weight", 0),
}


def check_text_sizes(
    file: Path, config: Mapping[str, Any], tensors: Places, cut: bool = False
) -> None:
    """Raise RequestError where a language model's config asks for other sizes than its tensors'.

    `tensors` by their names in the stock model. `cut`: the vocabulary is that of the tokenizer.
    """
    sizes = {key: place for key, place in _TEXT.items() if not (cut and key == "vocab_size")}
    for key in (*sizes, "num_hidden_layers", "num_attention_heads"):
        if config.get(key) is None:  # the stock class would take its own, that of a 7B model
            raise RequestError(f"{file}: has no {key}: {FIX}")
    _check_sizes(file, config, tensors, sizes)
    _check_layers(file, config, tensors)
    _check_heads(file, config, tensors)
    check_token_ids(file, config, tensors)


def _check_heads(file: Path, config: Mapping[str, Any], tensors: Places) -> None:
    """Raise RequestError where queries, keys or values have not as many numbers as heads ask."""
    heads, width = config.get("num_attention_heads"), config.get("hidden_size")
    if not heads or not width:
        return
    size = config.get("head_dim") or width // heads
    queries = _shape(tensors, "layers.0.self_attn.o_proj.weight")
    if queries and heads * size != queries[1]:
        raise _wrong(file, "num_attention_heads", heads, f"{queries[1]} numbers of all heads")
    keys, fused = (
        _shape(tensors, f"layers.0.self_attn.{name}.weight") for name in ("k_proj", "qkv_proj")
    )
    found = keys[0] if keys else (fused[0] - heads * size) // 2 if fused else None
    asked = config.get("num_key_value_heads")
    if asked and found is not None and asked * size != found:
        numbers = f"{found} numbers of all keys, {size} a head"
        raise _wrong(file, "num_key_value_heads", asked, numbers)


def check_token_ids(file: Path, config: Mapping[str, Any], tensors: Places) -> None:
    """Raise RequestError where a config names a token that the embeddings have no row of."""
    rows = (_shape(tensors, "embed_tokens.weight") or (1 << 31,))[0]
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        ids = config.get(key)
        for token in ids if isinstance(ids, list) else [ids]:
            if token is not None and token >= rows:
                raise _wrong(file, key, token, f"embeddings of {rows} tokens")


def check_tower_sizes(
    file: Path, config: Mapping[str, Any], tensors: Places, class_tokens: int
) -> None:
    """The same of a vision tower; the last layer, which nobody computes, may be missing."""
    _check_sizes(file, config, tensors, _VISION)
    _check_layers(file, config, tensors, more=1)
    positions = _shape(tensors, "embeddings.position_embedding.weight")
    patches = (config["image_size"] // config["patch_size"]) ** 2
    if positions is not None and positions[0] != patches + class_tokens:
        found = f"positions of {positions[0] - class_tokens} patches of {config['patch_size']}"
        raise _wrong(file, "image_size", config["image_size"], found)


def check_projector_sizes(file: Path, config: Mapping[str, Any], tensors: Places, key: str) -> None:
    """Raise RequestError where the two-layer projector takes features of another width than `key`.

    `tensors` by their names in the projector, from `0.weight` on.
    """
    _check_sizes(file, config, tensors, {key: ("0.weight", 1), "hidden_size": ("0.weight", 0)})


def check_clip_text_sizes(file: Path, config: Mapping[str, Any], tensors: Places) -> None:
    """The same of the text tower of a CLIP or SigLIP."""
    _check_sizes(file, config, tensors, _CLIP_TEXT)
    _check_layers(file, config, tensors)


def below(places: Places, prefix: str) -> dict[str, tuple[Path, str]]:
    """The tensors whose names begin so, without it."""
    return {n.removeprefix(prefix): at for n, at in places.items() if n.startswith(prefix)}


def _check_sizes(file: Path, config: Mapping[str, Any], tensors: Places, sizes: Sizes) -> None:
    for key, (name, axis) in sizes.items():
        shape, asked = _shape(tensors, name), config.get(key)
        if shape is None or asked is None:
            continue
        if len(shape) <= axis:
            raise RequestError(f"{file.parent}: tensor {name} has the shape {list(shape)}: {FIX}")
        if shape[axis] != asked:
            raise _wrong(file, key, asked, f"{shape[axis]} in {name}")


def _check_layers(
    file: Path, config: Mapping[str, Any], tensors: Iterable[str], more: int = 0
) -> None:
    found = len({match[1] for name in tensors if (match := _LAYER.match(name))})
    asked = config.get("num_hidden_layers", found)
    if not found <= asked <= found + more:
        raise _wrong(file, "num_hidden_layers", asked, f"{found} layers")


def _shape(tensors: Places, name: str) -> tuple[int, ...] | None:
    return tensor_shape(*tensors[name]) if name in tensors else None


def _wrong(file: Path, key: str, asked: object, found: str) -> RequestError:
    return RequestError(f"{file}: {key} is {asked}, the tensors have {found}: {FIX}")
