"""What all methods share: how samples are read, and how inputs go through a device in batches.

Torch is imported only by what computes: the processes that prepare samples import this module too.
"""

import gc
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import chain, pairwise
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from cyclopts import Group, Parameter

from mmsieve.devices import Dtype, is_out_of_memory, quiet, trim_memory
from mmsieve.engine.annotator import Device, Row, RunnerOptions
from mmsieve.errors import (
    MmsieveError,
    RequestError,
    SampleError,
    ShardError,
    Status,
    is_order_to_end,
)
from mmsieve.images import ImageFit, ImageLimits, ImageSpec, Pixels, image_path, load_square
from mmsieve.methods.folders import StoredTensor, stored_tensors
from mmsieve.methods.tower import Tower
from mmsieve.options import Options
from mmsieve.outputs import is_full
from mmsieve.sample import Image, Sample, Text
from mmsieve.wording import counted

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")
Array: TypeAlias = npt.NDArray[Any]
Result: TypeAlias = tuple[int, Row | SampleError]
"""The number of an item in its stream, and its row."""

# The CPU half


class ArrayItem:
    """The inputs of one sample, as a dataclass with arrays."""

    __slots__ = ()

    @property
    def nbytes(self) -> int:
        """What its arrays take in memory."""
        values = (getattr(self, part.name) for part in fields(self))  # type: ignore[arg-type]
        return sum(value.nbytes for value in values if isinstance(value, np.ndarray))


class Portable:
    """A dataclass that is sent to other processes: what it has cached stays behind."""

    def __getstate__(self) -> dict[str, Any]:
        return {part.name: getattr(self, part.name) for part in fields(self)}  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class TextImagePreparer(Portable):
    """Turns texts into ids and images into squares; needs no torch, unless images are fast."""

    tokenizer: Any
    """What a tokenizer is built from: a TokenizerSpec, or a ClipTokenizer."""
    image: ImageSpec
    fit: ImageFit | None
    """How an image becomes a square where it isn't as the tower's processor does."""
    plain_text: bool
    orient: bool
    fast: bool
    limits: ImageLimits

    @cached_property
    def _backend(self) -> Any:
        return self.tokenizer.build(self.plain_text)

    def pixels(self, image: Image, min_side: int = 1) -> Pixels:
        """The square of an image; raises SampleError where it can't be used."""
        return load_square(
            image.data,
            self.image,
            self.limits,
            frame=image.frame,
            mode=self.fit,
            orient=self.orient,
            fast=self.fast,
            min_side=min_side,
        )


def caption_text(sample: Sample) -> str:
    """The text of a caption pair as it is; raises SampleError where there is none."""
    texts = [part.text for part in sample.parts if isinstance(part, Text)]
    if not texts:
        raise SampleError(Status.TEXT_MISSING, "an image without a caption")
    return "\n".join(texts)


def caption_image(sample: Sample) -> Image:
    """The image of a caption pair; raises SampleError where there is none."""
    if not sample.images:
        raise SampleError(Status.IMAGE_MISSING, "a caption without an image")
    return sample.images[0]


def read_usable(images: Sequence[Image], read: Callable[[Image], T]) -> tuple[list[T], int]:
    """What is read of the images, and how many can't be used; raises SampleError where none can."""
    usable: list[T] = []
    first = ""
    for image in images:
        try:
            usable.append(read(image))
        except SampleError as error:
            first = first or image.problem or str(error)
    skipped = len(images) - len(usable)
    if not usable:
        raise no_usable_image(skipped, first)
    return usable, skipped


def no_usable_image(count: int, first: str) -> SampleError:
    """The reason of a document that shows nothing: how many images it has, why of the first."""
    why = f": {first}" if first else ""
    return SampleError(Status.NO_USABLE_IMAGE, f"{counted(count, 'images')}, none usable{why}")


def quality_row(item: Any, score: float, **more: Any) -> Row | SampleError:
    """The row of a caption or document: its score, and what of it the model saw."""
    if not np.isfinite(score):
        return SampleError(Status.SCORE_NOT_FINITE, f"the score is {score}")
    return {
        "quality_score": score,
        **more,
        "num_images": len(item.images),
        "num_tokens": item.num_tokens,
        "truncated": item.truncated,
        "num_skipped_images": item.skipped,
    }


# The device half: batches by token budget, sorted by length so that little is padding


@dataclass(frozen=True)
class Window:
    """How many items are looked at together: whichever limit comes first closes the window."""

    items: int
    tokens: int
    nbytes: int

    def split(self, stream: Iterable[T], size: Callable[[T], tuple[int, int]]) -> Iterator[list[T]]:
        """Runs of the stream, in order; `size` gives an item's tokens and bytes."""
        run: list[T] = []
        tokens = nbytes = 0
        for item in stream:
            run.append(item)
            more = size(item)
            tokens, nbytes = tokens + more[0], nbytes + more[1]
            if len(run) >= self.items or tokens >= self.tokens or nbytes >= self.nbytes:
                yield run
                run, tokens, nbytes = [], 0, 0
        if run:
            yield run


def batches(costs: list[int], budget: int, boundary: int | None = None) -> list[list[int]]:
    """Indices of `costs` (tokens per item) in batches, longest first.

    A batch of n items padded to its longest stays within `budget` tokens; an item longer than
    that is a batch of its own. Equal costs keep their order: same costs, same batches. Items
    longer than `boundary` never share a batch with others.
    """
    order = sorted(range(len(costs)), key=lambda index: (-costs[index], index))
    made: list[list[int]] = []
    room, beyond = 0, False
    for index in order:
        was_beyond, beyond = beyond, boundary is not None and costs[index] > boundary
        if room <= 0 or beyond != was_beyond:
            made.append([])
            room = max(1, budget // max(1, costs[index]))
        made[-1].append(index)
        room -= 1
    return made


WINDOW_BYTES = {"cpu": 192 * 2**20, "cuda": 2**30}


class TokenBudget:
    """Tokens that a device computes at a time: fewer from then on, once its memory ran out."""

    def __init__(self, device: "torch.device", tokens: int, remedy: str = "") -> None:
        """`remedy` is the option that makes an input smaller, for the message of one too large."""
        self._device, self._tokens, self._remedy = device, tokens, remedy

    def window(self, batch_count: int) -> Window:
        """What is sorted together: about so many batches."""
        return Window(4096, batch_count * self._tokens, WINDOW_BYTES[self._device.type])

    def run(
        self,
        items: Sequence[T],
        costs: list[int],
        compute: Callable[[list[T]], R],
        encode_fewer: Callable[[], bool] = lambda: False,
        boundary: int | None = None,
    ) -> Iterator[tuple[list[T], R]]:
        """The items in batches, each with what is computed of it.

        Out of memory halves a batch; one item alone is tried again where `encode_fewer` says that
        it takes less memory now. Raises ShardError where nothing helps.
        """
        for batch in batches(costs, self._tokens, boundary):
            pending = [batch]
            while pending:
                places = pending.pop()
                piece = [items[place] for place in places]
                try:
                    computed = compute(piece)
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                    longest = max(costs[place] for place in places)
                    pending += self._split(places, longest, encode_fewer)
                else:
                    yield piece, computed

    def _split(
        self, places: list[int], longest: int, encode_fewer: Callable[[], bool]
    ) -> list[list[int]]:
        """What to try instead of a batch that did not fit, the last one first."""
        release_memory(self._device)
        if len(places) > 1:
            half = len(places) // 2
            self._tokens = max(1, min(self._tokens, half * longest))
            return [places[half:], places[:half]]
        if encode_fewer():
            return [places]
        raise ShardError(
            f"a sample of {longest:,} tokens, images among them, does not fit into the memory of "
            f"{self._device}: use --dtype bfloat16{self._remedy} or a device with more memory"
        )


class BatchRunner(ABC, Generic[T, R]):
    """Rows for a stream of items, computed in batches of like length.

    Items have `nbytes`, what they take in memory. A batch that doesn't fit the device is halved.
    """

    batch_tokens: ClassVar[dict[str, int]] = {"cpu": 2048, "cuda": 32768}
    """Tokens of a batch by default, by kind of device."""
    batches_sorted: ClassVar[int] = 16
    """Batches of a window."""
    remedy: ClassVar[str] = ", --max-text-tokens"
    """What else to use where a sample doesn't fit into memory."""
    boundary: int | None = None
    """Items longer than this never share a batch with shorter ones."""
    encoders: Sequence["ImageEncoder"] = ()
    """May encode fewer images at a time where memory runs out."""

    def __init__(self, options: RunnerOptions) -> None:
        self.device = open_device(options.device)
        tokens = options.batch_tokens or self.batch_tokens[self.device.type]
        self._budget = TokenBudget(self.device, tokens, self.remedy)
        self.notes: dict[str, str] = {}

    @abstractmethod
    def tokens(self, item: T) -> int:
        """What an item takes of a batch."""

    @abstractmethod
    def compute(self, items: list[T]) -> R:
        """What the model says of a batch; may be on the device still."""

    @abstractmethod
    def rows(self, items: list[T], computed: R) -> Iterable[Row | SampleError]:
        """A row per item of the batch."""

    def run(self, items: Iterable[tuple[int, T]]) -> Iterator[Result]:
        """Rows for a stream of (index, item), window by window, longest first in each.

        A batch's numbers are fetched once the next one is under way, so a GPU need not wait.
        """
        launched: Iterator[Any] = chain(self._launch(items, self.compute), [None])
        for (batch, computed), _ in pairwise(launched):
            rows = self.rows([item for _, item in batch], computed)
            yield from zip((index for index, _ in batch), rows, strict=True)

    def _launch(
        self, items: Iterable[tuple[int, T]], compute: Callable[[list[T]], S]
    ) -> Iterator[tuple[list[tuple[int, T]], S]]:
        """The items in batches, window by window, each with what is computed of it."""

        def compute_items(batch: list[tuple[int, T]]) -> S:
            return compute([item for _, item in batch])

        for run in self._budget.window(self.batches_sorted).split(items, self._size):
            costs = [self.tokens(item) for _, item in run]
            yield from self._budget.run(
                run, costs, compute_items, self._encode_fewer, self.boundary
            )

    def _encode_fewer(self) -> bool:
        return any(encoder.halve() for encoder in self.encoders)

    def _size(self, indexed: tuple[int, Any]) -> tuple[int, int]:
        return self.tokens(indexed[1]), indexed[1].nbytes


def release_memory(device: "torch.device") -> None:
    """Give back what is kept for later but held by nothing."""
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    trim_memory()


def open_device(device: Device) -> "torch.device":
    """The torch device of a resolved name; raises RequestError where torch finds no GPU."""
    import torch

    if device != "cpu" and not torch.cuda.is_available():
        raise RequestError(f"device {device!r}: torch finds no GPU; use --device cpu")
    return torch.device(device)


# The device half: images


def send(array: Array, device: "torch.device") -> "Tensor":
    """An array as a tensor on a device; a GPU's copy goes on beside what it computes."""
    import torch

    tensor = torch.from_numpy(array)
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


class PixelNormaliser:
    """Squares of 0-255 -> the values that a vision tower takes."""

    def __init__(self, spec: ImageSpec, device: "torch.device", dtype: "torch.dtype") -> None:
        import torch

        self._device, self._dtype, self._scale = device, dtype, spec.scale
        self._mean, self._std = (
            torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (spec.mean, spec.std)
        )

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> "Tensor":
        """[images, size, size, 3] -> [images, 3, size, size], on the device."""
        values = send(pixels, self._device).permute(0, 3, 1, 2).float() * self._scale
        return ((values - self._mean) / self._std).to(self._dtype)


def stock_tower(config: Any) -> Any:
    """A new SigLIP or CLIP vision model of transformers, without the pooling head."""
    from transformers import AutoModel

    if config.model_type.startswith("siglip"):
        config.vision_use_head = False
    model = AutoModel.from_config(config)
    return getattr(model, "vision_model", model)  # nested in some versions


def encode_patches(tower: Any, pixels: "Tensor", select_layer: int) -> "Tensor":
    """[images, 3, size, size] normalised -> [images, patches (+ 1 for CLIP), width].

    `tower` is a vision model of transformers. `select_layer` counts hidden states as the published
    code does: 0 the embeddings, N what layer N puts out, -1 the last layer's output. What comes
    after that layer, the last norm too, is not computed.
    """
    stock = getattr(tower, "vision_model", tower)  # nested in some versions
    hidden = stock.embeddings(pixels)
    if hasattr(stock, "pre_layrnorm"):
        hidden = stock.pre_layrnorm(hidden)
    layers = stock.encoder.layers
    count = select_layer if select_layer >= 0 else len(layers) + 1 + select_layer
    for layer in layers[:count]:
        out = layer(hidden, attention_mask=None)
        hidden = out[0] if isinstance(out, tuple) else out
    return hidden  # type: ignore[no-any-return]


PATCHES = {"cpu": 1600, "cuda": 147456}
"""Encoded at a time, by kind of device."""


class ImageEncoder:
    """Squares -> embeddings on a device, a bounded number of images at a time."""

    def __init__(self, tower: Tower, model: Any, network: Callable[["Tensor"], "Tensor"]) -> None:
        """`network`, a part of `model`, takes normalised pixels."""
        first: Tensor = next(model.parameters())
        self._normalise = PixelNormaliser(tower.image, first.device, first.dtype)
        self._network = network
        self._at_once = max(1, PATCHES[first.device.type] // tower.patches)

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> "Tensor":
        """What the network makes of [images, size, size, 3], at least one: [images, ...]."""
        import torch

        pieces = np.array_split(pixels, ceil(len(pixels) / self._at_once))
        made = [self._network(self._normalise(piece)) for piece in pieces]
        return made[0] if len(made) == 1 else torch.cat(made)

    def halve(self) -> bool:
        """Encode half as many images at a time from now on; False where it is one already."""
        more = self._at_once > 1
        self._at_once = max(1, self._at_once // 2)
        return more


_UNUSED = ("head.", "post_layernorm.")
"""Parts of a tower after its last layer, whose output is what is averaged."""


class ImageFeatures:
    """One vector per image: a vision tower's patch features, averaged; nothing else is loaded."""

    def __init__(self, tower: Tower, device: Device, dtype: Dtype) -> None:
        """Raises RequestError where the tower's weights and config do not fit."""
        import torch

        self.image = tower.image
        self.width = int(tower.config["hidden_size"])
        model = _load_tower(tower).to(torch.device(device), getattr(torch, dtype))
        first = int(tower.kind == "clip")  # after its class token

        def average(pixels: "Tensor") -> "Tensor":
            return encode_patches(model, pixels, -1)[:, first:].mean(1)

        self._encode = ImageEncoder(tower, model, average)

    def embed(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """[images, size, size, 3] -> [images, width]."""
        import torch

        with torch.inference_mode():
            vectors: npt.NDArray[np.float32] = self._encode(pixels).float().cpu().numpy()
        return vectors


def _load_tower(tower: Tower) -> Any:
    from transformers import AutoConfig

    used = {name: at for name, at in tower.tensors.items() if not name.startswith(_UNUSED)}
    with fitting(tower.note), quiet():
        model = stock_tower(AutoConfig.for_model(**tower.config))
        unknown: list[str] = []
        for name, stored in stored_tensors(used).items():  # one at a time: never all of them twice
            unknown += model.load_state_dict({name: stored[...]}, strict=False).unexpected_keys
    missing = model.state_dict().keys() - used.keys()
    wanted = sorted(name for name in missing if not name.startswith(_UNUSED))
    if wanted or unknown:
        raise RequestError(f"{tower.note}: weights and config do not fit: {[*wanted, *unknown][0]}")
    return model.eval().requires_grad_(False)


# Stock models: with the weights of a published layout, or one line on why they don't fit


def rename(name: str, prefixes: Iterable[tuple[str, str]]) -> str | None:
    """A name with its prefix, one of pairs (old, new), replaced; None where it has none of them."""
    return next((new + name[len(old) :] for old, new in prefixes if name.startswith(old)), None)


def pixel_settings(spec: ImageSpec) -> dict[str, Any]:
    """What a stock image processor is told of a tower's pixels."""
    return {
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": spec.size, "width": spec.size},
        "resample": spec.resample,
        "do_rescale": True,
        "rescale_factor": spec.scale,
        "do_normalize": True,
        "image_mean": spec.mean,
        "image_std": spec.std,
    }


@contextmanager
def fitting(where: Path | str) -> Iterator[None]:
    """Turn whatever the libraries raise over a model's files into a RequestError that names them.

    What they find is that a config has no sense, or isn't that of the weights.
    """
    try:
        yield
    except BaseException as error:
        is_known = isinstance(error, MmsieveError) or is_full(error) or is_out_of_memory(error)
        if is_known or is_order_to_end(error):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise RequestError(f"{where}: weights and config do not fit: {lines[0]}") from error


_LARGE = 1 << 22
"""Numbers of a tensor that is converted while it is read. Smaller ones may be kept in another
format than the model's, as heads are."""


def build_model(
    kind: Any, dtype: str, folder: Path, config: Any, state: Mapping[str, Any]
) -> tuple[Any, set[str]]:
    """The model of a transformers class, on the CPU, and the tensors that it has no use for.

    `state` has its weights by name, StoredTensors or tensors. Raises RequestError, naming `folder`,
    where tensors are missing or of another shape than the config says.
    """
    import torch

    weights = {
        name: one.to(dtype) if isinstance(one, StoredTensor) and one.numbers > _LARGE else one
        for name, one in state.items()
    }

    with fitting(folder), quiet():
        model, info = kind.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype=getattr(torch, dtype),
            output_loading_info=True,
        )
    if info["missing_keys"]:
        raise RequestError(f"{folder}: no tensor {min(info['missing_keys'])}")
    return model.eval().requires_grad_(False), set(info["unexpected_keys"])


_MODEL = Parameter(group=Group("Images and device", sort_key=5))
"""Of --help: after what a method asks for itself."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    """How images are decoded, and where a model computes."""

    apply_orientation: Annotated[bool, _MODEL] = False
    """Turn images as their EXIF data says (the published code does not)."""
    fast_images: Annotated[bool, _MODEL] = False
    """Decode and resize with simplejpeg and torch: faster, off by a few grey levels."""
    device: Annotated[str, _MODEL] = "auto"
    """auto, cpu, cuda or cuda:N."""
    dtype: Annotated[Literal["auto", "float32", "bfloat16", "float16"], _MODEL] = "auto"
    """auto is float32 on a CPU; on a GPU what the published code computes released checkpoints in
    (UniFilter, mmSSR: float16, AITQE: bfloat16), and bfloat16 for all others."""
    image_limits: Annotated[ImageLimits, _MODEL] = field(default_factory=ImageLimits)
    """Beyond these an image is refused."""

    @property
    def of_images(self) -> dict[str, Any]:
        """How a preparer reads images, by the names of its fields."""
        fast, limits = self.fast_images, self.image_limits
        return {"orient": self.apply_orientation, "fast": fast, "limits": limits}

    def image_fingerprint(self, spec: ImageSpec, fitted: str | None = None) -> dict[str, str]:
        """Whatever changes the pixels that a tower is shown; `fitted` where that can be chosen."""
        return {
            "image_path": image_path(self.fast_images),
            **({"image_fit": fitted} if fitted else {}),
            "image_values": f"{spec.size} {spec.resample} {spec.mean} {spec.std} {spec.scale:.6g}",
            "image_limits": str(self.image_limits),
            "apply_orientation": str(self.apply_orientation),
        }
