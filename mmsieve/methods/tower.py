"""Checkpoint folders in the published layouts, and their vision tower; read without torch.

What the layouts of UniFilter, AITQE and mmSSR share: `config.json` is the language model's own with
a few keys of the whole, weights are safetensors, a vision tower is named or lies among them, and
mmsieve's own checkpoints add one key, `mmsieve`: how their tower is built and how they want their
inputs.

The published code loads the tower that `mm_vision_tower` names and ignores the copy inside the
checkpoint (llava/model/multimodal_encoder). So does mmsieve where that tower can be had; else the
copy is used, and the tower's `note` says so.
"""

import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from mmsieve.devices import Dtype
from mmsieve.errors import RequestError
from mmsieve.images import ImageSpec
from mmsieve.methods.configs import (
    check_tower_sizes,
    checked_config,
    checked_processor,
    read_config_file,
    read_pixels,
)
from mmsieve.methods.folders import (
    FIX,
    hub_folder,
    read_json,
    save_tensors,
    tensor_files,
    tensor_shape,
)
from mmsieve.methods.tokenizer import FILES

if TYPE_CHECKING:
    from torch import Tensor

Kind: TypeAlias = Literal["siglip", "clip"]
Places: TypeAlias = dict[str, tuple[Path, str]]
"""A tensor's stock name -> file, name in that file."""

INSIDE = "model.vision_tower.vision_tower."
"""Prefix of the copy's tensors."""

_KINDS: dict[str, Kind] = {"siglip": "siglip", "clip": "clip"}
_PARTS = ("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm.", "head.")

_HEADS = {768: 12, 1024: 16, 1152: 16, 1280: 16, 1536: 16}
"""Attention heads of the published SigLIP and CLIP towers, by width: weights don't tell."""

_LAYERS = {768: 12, 1024: 24, 1152: 27}
"""Encoder layers of the published SigLIP towers, by width."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Tower:
    """A vision tower, found."""

    kind: Kind
    config: dict[str, Any] = field(repr=False)
    """The stock SiglipVisionConfig or CLIPVisionConfig, as a dict."""
    image: ImageSpec
    tensors: Places = field(repr=False)
    """By their stock names without `vision_model.`."""
    note: str
    """Where weights and pixel values come from, for people."""

    @property
    def patches(self) -> int:
        """Patches of an image; pixels beyond the last whole patch are ignored."""
        return (int(self.config["image_size"]) // int(self.config["patch_size"])) ** 2

    @property
    def layers(self) -> int:
        """Encoder layers."""
        return int(self.config["num_hidden_layers"])


GENERATION = "generation_config.json"

_NOT_TEXT = {
    "architectures",
    "dtype",
    "id2label",
    "label2id",
    "mmsieve",
    "model_type",
    "num_labels",
    "text_config",
    "torch_dtype",
    "transformers_version",
    "use_cache",
    "vision_config",
}
"""Keys of config.json that are not the language model's, beside `mm_*`. Under the `model_type`
`llava`, `text_config` and `vision_config` are the defaults of a stock class that nobody built."""


@dataclass(frozen=True)
class CheckpointFolder:
    """A checkpoint's folder, understood: all that is needed to build, feed and name its model."""

    folder: Path
    config: dict[str, Any] = field(repr=False)
    """config.json, with the `model_type` of the published class."""
    tensors: dict[str, Path] = field(repr=False)
    """Tensor name -> file."""
    tower: Tower
    recognised: str = ""
    """What the folder was recognised as, in a line; empty for one that is being made."""

    not_text: ClassVar[Iterable[str]] = ()
    """More keys of this layout's config.json that are not the language model's."""
    published_dtype: ClassVar[Dtype] = "float16"
    """What the published code computes in, on a GPU."""
    language_prefix: ClassVar[str] = "model."
    """Before the names of the language model's tensors."""

    @property
    def backbone(self) -> str:
        """`model_type` of the stock language model inside."""
        return "qwen2"

    @property
    def text_config(self) -> dict[str, Any]:
        """The config of the stock language model."""
        left_out = {*_NOT_TEXT, *self.not_text}
        names = (name for name in self.config if not name.startswith("mm_"))
        kept = {name: self.config[name] for name in names if name not in left_out}
        return {**kept, "model_type": self.backbone}

    @property
    def ties_embeddings(self) -> bool:
        """Whether the language model's output embedding is its input embedding."""
        # What the stock configs of these families do where config.json does not say.
        return bool(self.config.get("tie_word_embeddings", self.backbone == "gemma2"))

    @property
    def own(self) -> dict[str, Any] | None:
        """How a checkpoint made by mmsieve wants its inputs; None for a released one."""
        own = self.config.get("mmsieve")
        return own if isinstance(own, dict) else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of a released folder; one made by mmsieve says all of itself."""
        found = (self.tower.note, self.recognised) if self.own is None else ()
        return tuple(note for note in found if note)

    @property
    def used(self) -> Places:
        """The tensors that the model is built of; the tower's by their stock names."""
        tied = {"lm_head.weight"} if self.ties_embeddings else set()
        outside = {n: (file, n) for n, file in self.tensors.items() if not n.startswith(INSIDE)}
        kept = {name: place for name, place in outside.items() if name not in tied}
        # the pooling head of a tower is never used
        tower = {n: place for n, place in self.tower.tensors.items() if not n.startswith("head.")}
        return kept | {f"{INSIDE}vision_model.{name}": place for name, place in tower.items()}

    @property
    def gpu_dtype(self) -> Dtype:
        """What `--dtype auto` means on a GPU: as published, or bfloat16 of a checkpoint of ours."""
        return self.published_dtype if self.own is None else "bfloat16"

    @property
    def embedded(self) -> int | None:
        """Tokens that have an embedding; None where no tensor of it is found."""
        names = (name for name in self.tensors if name.endswith("embed_tokens.weight"))
        name = next(names, None)
        return None if name is None else tensor_shape(self.tensors[name], name)[0]

    @property
    def image(self) -> ImageSpec:
        """What the vision tower takes."""
        return self.tower.image

    @property
    def image_tokens(self) -> int:
        """Embeddings that an image takes in the sequence: all its patches."""
        return self.tower.patches

    @property
    def generation(self) -> dict[str, Any]:
        """generation_config.json as it is; empty where there is none."""
        file = self.folder / GENERATION
        return read_config_file(file) if file.is_file() else {}

    @property
    def end_ids(self) -> frozenset[int]:
        """The ids that end an answer."""
        ids = self.generation.get("eos_token_id")
        ids = self.config.get("eos_token_id") if ids is None else ids
        return frozenset(ids if isinstance(ids, list) else [] if ids is None else [ids])

    def write(
        self,
        folder: Path,
        state: dict[str, "Tensor"],
        config: dict[str, Any],
        own: dict[str, Any] | None,
        generates: bool = True,
    ) -> None:
        """Write a folder in this layout, with the tokenizer of this one.

        `state` are the published tensors, `config` is config.json without `mmsieve`. `own` is how a
        model trained by mmsieve wants its inputs: with it the folder stands alone, vision settings
        included. The generation settings are copied where the model `generates`.
        """
        save_tensors(state, folder)
        if own is not None:
            stands_alone = {"vision_config": self.tower.config, "image": asdict(self.image)}
            config = config | {"mmsieve": own | stands_alone}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        for name in (*FILES, GENERATION) if generates else FILES:
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, folder / name)


def check_config(folder: Path, config: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise RequestError where a key that has only one value that is supported has another."""
    for name, value in wanted.items():
        if config.get(name, value) != value:
            raise RequestError(f"{folder}: {name} {config[name]!r}: only {value!r} is supported")


def find_tower(folder: Path, config: dict[str, Any], tensors: dict[str, Path]) -> Tower:
    """The tower of the checkpoint in `folder`, whose config and tensors are given.

    A relative `mm_vision_tower` is looked up from the working directory, in the checkpoint's
    folder and beside it; a hub id in the local cache, then on the hub. Checkpoints made by
    mmsieve carry their tower and say how to build it. Raises RequestError.
    """
    source = str(config.get("mm_vision_tower") or "")
    inside = _inside(tensors)
    if own := _own_tower(folder, config, inside):
        return own
    place = _find_local(folder, source) or (hub_folder(source) if source else None)
    if place is not None and any(place.glob("*.safetensors")):
        return open_tower(place)
    if not inside:
        raise RequestError(
            f"{folder}: the vision tower {source!r} is neither inside it nor found from here or "
            "beside the checkpoint, nor on the hub: put its folder in one of these places"
        )
    return inside_tower(folder, config, source, inside, place)


def find_inside(folder: Path, config: dict[str, Any], tensors: dict[str, Path]) -> Tower:
    """The copy of the tower inside a checkpoint, with the geometry of the whole tower.

    For the published code that overwrites the tower it names with the copy, which may have fewer
    layers. The hub isn't asked: the geometry of published widths is known. Raises RequestError.
    """
    inside = _inside(tensors)
    if not inside:
        raise RequestError(f"{folder}: no vision tower among its tensors")
    source = str(config.get("mm_vision_tower") or "")
    tower = inside_tower(folder, config, source, inside)
    is_known = _own_tower(folder, config, inside) or _find_local(folder, source)
    if not is_known and tower.kind == "siglip":
        layers = max(tower.layers, _LAYERS.get(int(tower.config["hidden_size"]), 0))
        tower = replace(tower, config={**tower.config, "num_hidden_layers": layers})
    return tower


def inside_tower(
    folder: Path, config: dict[str, Any], source: str, inside: Places, place: Path | None = None
) -> Tower:
    """The tower whose weights, all of them, are `inside` the checkpoint, by their stock names.

    How it is built, and its pixel values, are what the checkpoint says where mmsieve made it, else
    what is in `place` (by default `source`, looked for as in `find_tower`), else those of published
    widths. Raises RequestError.
    """
    if own := _own_tower(folder, config, inside):
        return own
    place = place or _find_local(folder, source)
    guessed = ""
    if place is None:
        kind, geometry, guessed = _infer(folder, config, source, inside)
    else:
        kind, geometry = _geometry(read_json(place / "config.json"), place)
    image, note = _pixel_values(place, kind, geometry, source)
    note += guessed
    named = (place or folder) / "config.json"
    return _fitting(
        named, Tower(kind, geometry, image, inside, f"tower inside the checkpoint{note}")
    )


def _own_tower(folder: Path, config: dict[str, Any], inside: Places) -> Tower | None:
    """The tower of a checkpoint made by mmsieve, which says how it is built."""
    own = config.get("mmsieve")
    if not (isinstance(own, dict) and "vision_config" in own and inside):
        return None
    kind, geometry = _geometry(own["vision_config"], folder)
    file = folder / "config.json"
    spec = read_pixels(file, own.get("image"))
    if spec.size != geometry["image_size"]:
        sizes = f"{spec.size}, that of mmsieve.vision_config {geometry['image_size']}"
        raise RequestError(f"{file}: the size of mmsieve.image is {sizes}: {FIX}")
    return _fitting(file, Tower(kind, geometry, spec, inside, "tower inside the checkpoint"))


def _fitting(file: Path, tower: Tower) -> Tower:
    """A tower whose sizes are those of its tensors; raises RequestError for another."""
    check_tower_sizes(file, tower.config, tower.tensors, int(tower.kind == "clip"))
    return tower


def _find_local(folder: Path, source: str) -> Path | None:
    places = (Path(source), folder / source, folder.parent / source) if source else ()
    return next((place for place in places if (place / "config.json").is_file()), None)


def open_tower(place: Path) -> Tower:
    """The tower in a folder of its own, or that of a whole CLIP or SigLIP; raises RequestError."""
    kind, geometry = _geometry(read_json(place / "config.json"), place)
    tensors = {
        stock: (file, name)
        for name, file in tensor_files(place).items()
        if (stock := name.removeprefix("vision_model.")).startswith(_PARTS)
    }
    if not tensors:
        raise RequestError(f"{place}: no vision tensors in it")
    image, note = _pixel_values(place, kind, geometry, place.name)
    tower = Tower(kind, geometry, image, tensors, f"tower from {place}{note}")
    return _fitting(place / "config.json", tower)


def _inside(tensors: dict[str, Path]) -> Places:
    return {
        name.removeprefix(INSIDE).removeprefix("vision_model."): (file, name)
        for name, file in tensors.items()
        if name.startswith(INSIDE)
    }


_STOCK_DEFAULTS = {"hidden_size": 768, "num_hidden_layers": 12, "image_size": 224}
_STOCK_PATCHES = {"siglip": 16, "clip": 32}


def _geometry(published: dict[str, Any], place: Path) -> tuple[Kind, dict[str, Any]]:
    """The vision part of a tower's config.json, with what the stock config leaves unsaid."""
    found = str(published.get("model_type"))
    kind = _KINDS.get(found.removesuffix("_vision_model"))
    if kind is None:
        allowed = "siglip (fixed size) or clip"
        raise RequestError(f"{place}: vision tower of type {found!r} is not {allowed}")
    vision = checked_config(place / "config.json", published.get("vision_config", published))
    drop = ("torch_dtype", "dtype", "transformers_version", "architectures")
    kept = {name: value for name, value in vision.items() if name not in drop}
    unsaid = {**_STOCK_DEFAULTS, "patch_size": _STOCK_PATCHES[kind]}
    return kind, {**unsaid, **kept, "model_type": f"{kind}_vision_model"}


def _infer(
    folder: Path, config: dict[str, Any], source: str, inside: Places
) -> tuple[Kind, dict[str, Any], str]:
    """The geometry from the copy's tensors alone, for towers of a published width.

    With a note of where the image size is from, unless the tower's name says it.
    """
    kind: Kind = "clip" if "embeddings.class_embedding" in inside else "siglip"
    width, patch = _dimensions(folder, inside, "embeddings.patch_embedding.weight", 0, 2)
    if width not in _HEADS:
        raise RequestError(
            f"{folder}: the vision tower {source!r} can't be had, and the copy inside does not "
            f"say how it is built: put the tower's config.json into {folder.parent / source}"
        )
    (positions,) = _dimensions(folder, inside, "embeddings.position_embedding.weight", 0)
    grid = isqrt(positions)
    size, by = _image_size(kind, config, source, grid, patch)
    layers = {name.split(".")[2] for name in inside if name.startswith("encoder.layers.")}
    (wide,) = _dimensions(folder, inside, "encoder.layers.0.mlp.fc1.weight", 0)
    geometry = {
        "model_type": f"{kind}_vision_model",
        "hidden_size": width,
        "intermediate_size": wide,
        "num_hidden_layers": len(layers),
        "num_attention_heads": _HEADS[width],
        "image_size": size,
        "patch_size": patch,
    }
    return kind, geometry, by and f", images of {size} pixels by {by}"


_SIZES = (224, 256, 336, 384, 512)
"""Pixels of the published SigLIP towers' images; 384 is 27 whole patches of 14, and a rest."""


def _image_size(
    kind: Kind, config: dict[str, Any], source: str, grid: int, patch: int
) -> tuple[int, str]:
    """Pixels of a side that `grid` patches come of, and what says so where the name doesn't.

    In this order: `pesudo_img_size` of AITQE's config.json, a number in the tower's name, the
    smallest tile of LLaVA-NeXT's `image_grid_pinpoints`, the published sizes, whole patches.
    """

    def fits(size: object) -> bool:
        return isinstance(size, int) and size // patch == grid

    asked = config.get("pesudo_img_size")
    named = [int(number) for number in re.findall(r"(?<!\d)\d{2,4}(?!\d)", Path(source).name)]
    tiles = config.get("image_grid_pinpoints")
    sides = [s for tile in tiles for s in tile if isinstance(tile, list)] if tiles else []
    if isinstance(asked, int) and fits(asked):
        return asked, "" if asked in named else "pesudo_img_size"
    if found := [size for size in named if fits(size)]:
        return found[-1], ""
    if found := [size for size in sides if fits(size)]:
        return min(found), "image_grid_pinpoints"
    if kind == "siglip" and (found := [size for size in _SIZES if fits(size)]):
        return found[-1], "the published towers of its width"
    return grid * patch, "its whole patches"


def _dimensions(folder: Path, inside: Places, name: str, *axes: int) -> tuple[int, ...]:
    """Sizes of a tensor of the copy; raises RequestError where it isn't there, or has fewer."""
    shape = tensor_shape(*inside[name]) if name in inside else ()
    if len(shape) <= max(axes) or not all(shape):
        raise RequestError(f"{folder}: its vision tower has no whole {name}: fetch it again")
    return tuple(shape[axis] for axis in axes)


def _pixel_values(
    place: Path | None, kind: Kind, geometry: dict[str, Any], source: str
) -> tuple[ImageSpec, str]:
    """What the folder of a tower says of its pixels, else its kind's defaults and a note of it."""
    own, shared = "preprocessor_config.json", "processor_config.json"
    if place is not None and (place / own).is_file():
        return _image_spec(read_json(place / own), geometry, place), ""
    if place is not None and (place / shared).is_file():  # as transformers 5 saves it
        images = read_json(place / shared).get("image_processor")
        if isinstance(images, dict):
            return _image_spec(images, geometry, place), ""
    size = int(geometry["image_size"])
    note = f", pixel values by {kind}'s defaults (no preprocessor_config.json)"
    if kind == "clip":
        return ImageSpec(size, 3, CLIP_MEAN, CLIP_STD, "crop"), note
    half = (0.5, 0.5, 0.5)
    return ImageSpec(size, 2 if "siglip2" in source.lower() else 3, half, half, "stretch"), note


def _image_spec(processor: dict[str, Any], geometry: dict[str, Any], place: Path) -> ImageSpec:
    said = checked_processor(place / "preprocessor_config.json", processor)
    side = int(geometry["image_size"])
    crop = bool(said.get("do_center_crop", False))
    sizes = _sizes(said.get("size", side))
    if crop:
        sizes |= _sizes(said.get("crop_size", side))
    if sizes != {side}:
        raise RequestError(f"{place}: images of {sorted(sizes)} pixels for a tower of {side}")
    normalise = said.get("do_normalize", True)
    mean = _triple(said.get("image_mean", 0.5)) if normalise else (0.0, 0.0, 0.0)
    std = _triple(said.get("image_std", 0.5)) if normalise else (1.0, 1.0, 1.0)
    scale = said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 1
    resample = int(said.get("resample", 3))
    return ImageSpec(side, resample, mean, std, "crop" if crop else "stretch", float(scale))


def _sizes(size: Any) -> set[int]:
    return {int(value) for value in size.values()} if isinstance(size, dict) else {int(size)}


def _triple(value: Any) -> tuple[float, float, float]:
    red, green, blue = value if isinstance(value, list | tuple) else [value] * 3
    return float(red), float(green), float(blue)
