"""Images: bytes -> pixels, bounded; pixels -> the square that a vision tower takes.

Two paths lead there. The exact one (Pillow) gives the numbers of the published scorers: RGB by
Pillow's own conversion (alpha dropped, 16-bit clipped), resized as uint8 with antialiasing. The
fast one (simplejpeg and torch) is within a few grey levels of it. Which one made a score is part
of the annotator's fingerprint.
"""

import hashlib
import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
from cyclopts import Parameter
from PIL import Image, ImageOps, UnidentifiedImageError

from mmsieve.errors import SampleError, Status
from mmsieve.options import NotNegative, Options, Positive

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""Height x width x 3, RGB, 0-255."""

ImageFit: TypeAlias = Literal["stretch", "pad", "crop"]
"""How an image becomes a square: each side on its own, padded first, or the middle cut out."""


@dataclass(frozen=True)
class ImageFormat:
    """A format of image files, under one of its extensions."""

    extension: str
    """Of files and of a tar's members; empty for what is decoded wherever bytes hold it, only."""
    decoders: tuple[str, ...] = ()
    """Pillow's names; none for a second extension."""
    magic: bytes = rb"(?!)"
    """Pattern of what its files begin with; by default none does."""


FORMATS = (
    ImageFormat("jpg", ("JPEG", "MPO"), rb"\xff\xd8\xff"),
    ImageFormat("png", ("PNG",), rb"\x89PNG\r\n\x1a\n"),
    ImageFormat("jpeg"),
    ImageFormat("webp", ("WEBP",), rb"RIFF.{4}WEBP"),
    ImageFormat("gif", ("GIF",), rb"GIF8"),
    ImageFormat("bmp", ("BMP", "DIB"), rb"BM"),
    ImageFormat("tif", ("TIFF",), rb"II\*\0|MM\0\*"),
    ImageFormat("tiff"),
    ImageFormat("", ("PPM", "JPEG2000", "AVIF", "ICO")),
)
"""All that is read; of several images of a tar's key the first here is (webdataset's habit).

Formats whose decoder runs another program (EPS) are not among them.
"""

IMAGE_EXTENSIONS = tuple(known.extension for known in FORMATS if known.extension)

MAX_PIXELS = 89_478_485
"""256 MiB as RGB, where Pillow starts to warn."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ImageLimits(Options):
    """What an image may be; beyond it the sample is a row that says so."""

    max_bytes: Positive = 256 * 2**20
    """Largest image file, in bytes."""
    max_pixels: Positive = MAX_PIXELS
    """Largest width times height; twice PIL.Image.MAX_IMAGE_PIXELS is a limit too."""
    max_frames: NotNegative = 1000
    """Pages or frames that may be skipped to reach the one that is asked for."""
    min_side: NotNegative = 1
    """Shortest side in pixels: less is `image_too_small`, and left out of a document."""


@dataclass(frozen=True)
class ImageSpec:
    """What a vision tower takes (the values of its preprocessor_config.json)."""

    size: int
    """Side of the square, in pixels."""
    resample: int
    """Pillow's number of the filter: 2 bilinear, 3 bicubic."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: ImageFit
    """What the tower's published processor does; never `pad`, which is training's choice."""
    scale: float = 1 / 255


def extension_of(data: bytes) -> str:
    """The extension that an image's first bytes ask for; raises SampleError for an unknown kind."""
    for known in FORMATS:
        if re.match(known.magic, data, re.DOTALL):
            return known.extension
    kinds = ", ".join(sorted(IMAGE_EXTENSIONS))
    raise SampleError(Status.IMAGE_UNDECODABLE, f"the image is none of {kinds}")


def image_path(fast: bool) -> str:
    """Which path `fast` means on this machine: it changes numbers, so a fingerprint has it."""
    if not fast:
        return "exact"
    return "fast" if find_spec("simplejpeg") else "fast, decoded by Pillow"


def decode(
    data: bytes, limits: ImageLimits, frame: int = 0, orient: bool = False, fast: bool = False
) -> Pixels:
    """The RGB pixels of an image file, its `frame` counted from 0.

    Size limits are checked from the header, before any pixel is decoded. `orient` applies the
    EXIF orientation (the published scorers ignore it). `fast` decodes RGB and grey JPEG files
    with simplejpeg where that is installed.
    Raises SampleError: image_undecodable, image_too_large, image_too_small.
    """
    with _opened(data, limits, frame) as image:
        if fast and not orient and image.format == "JPEG" and image.mode in ("RGB", "L"):
            pixels = _simplejpeg(data)
            if pixels is not None:
                return pixels
        turned = ImageOps.exif_transpose(image) if orient else image
        return np.asarray(turned.convert("RGB"))


_squares: WeakValueDictionary[Any, Pixels] = WeakValueDictionary()


def load_square(
    data: bytes,
    spec: ImageSpec,
    limits: ImageLimits,
    *,
    frame: int = 0,
    mode: ImageFit | None = None,
    orient: bool = False,
    fast: bool = False,
    min_side: int = 1,
) -> Pixels:
    """An image file as the square that a tower takes: `decode`, then `fit`.

    The same picture is decoded once while its square is in use: a document may show one a thousand
    times. Raises SampleError as both do, and image_too_small below `min_side` pixels.
    """
    digest = hashlib.blake2b(data, digest_size=16).digest()
    asked = digest, spec, limits, frame, mode, orient, fast, min_side
    square = _squares.get(asked)
    if square is None:
        pixels = decode(data, limits, frame, orient, fast)
        if min(pixels.shape[:2]) < min_side:
            raise SampleError(Status.IMAGE_TOO_SMALL, "one pixel wide or high")
        square = _squares[asked] = fit(pixels, spec, mode, fast)
    return square


def read_size(data: bytes, limits: ImageLimits, frame: int = 0) -> tuple[int, int]:
    """Width and height of an image file from its header alone; raises SampleError as `decode`."""
    with _opened(data, limits, frame) as image:
        return image.size


def fit(
    pixels: Pixels, spec: ImageSpec, mode: ImageFit | None = None, fast: bool = False
) -> Pixels:
    """The image as a square of `spec.size`; `mode` overrides the fit that the spec names.

    `stretch` resizes both sides on their own; `crop` the shorter one, then cuts the middle out
    (CLIP's processor); `pad` first pads to a square with the mean colour, as the published
    training code does (llava/mm_utils.py, expand2square). Raises SampleError, image_too_large,
    where either would pass through more than `MAX_PIXELS`.
    """
    mode = mode or spec.fit
    resize = _resize_torch if fast else _resize_pillow
    height, width = pixels.shape[:2]
    long, short = max(height, width), min(height, width)
    if mode == "pad":
        _check_bound(long, long)
        pixels = _pad_square(pixels, tuple(int(channel * 255) for channel in spec.mean))
    elif mode == "crop":
        _check_bound(spec.size, spec.size * long // short)
        size = int(spec.size * height / short), int(spec.size * width / short)
        whole = resize(pixels, size, spec.resample)
        top, left = (size[0] - spec.size) // 2, (size[1] - spec.size) // 2
        return np.ascontiguousarray(whole[top : top + spec.size, left : left + spec.size])
    return resize(pixels, (spec.size, spec.size), spec.resample)


@contextmanager
def _opened(data: bytes, limits: ImageLimits, frame: int) -> Iterator[Image.Image]:
    """An image file at its frame, its header read; what goes wrong inside is a SampleError."""
    if len(data) > limits.max_bytes:
        raise _too_large(f"{len(data)} bytes, the limit is {limits.max_bytes}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                if frame >= limits.max_frames:
                    raise _too_large(f"frame {frame}, the limit is {limits.max_frames}")
                if frame:
                    _check_size(image.size, limits)
                    image.seek(frame)
                _check_size(image.size, limits)
                yield image
        except SampleError:
            raise
        except MemoryError:  # of the machine, which may be another sample's doing
            raise
        except Image.DecompressionBombError as error:
            raise _too_large(str(error)) from error
        except UnidentifiedImageError as error:
            message = "no known image format" if data else "no image data"
            raise SampleError(Status.IMAGE_UNDECODABLE, message) from error
        except Exception as error:  # decoders fail in many ways on hostile bytes
            raise SampleError(Status.IMAGE_UNDECODABLE, f"{error or type(error)}") from error


@cache
def _formats() -> tuple[str, ...]:
    """The decoders of FORMATS that the installed Pillow has."""
    Image.init()
    return tuple(name for known in FORMATS for name in known.decoders if name in Image.OPEN)


def _check_size(size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise _too_large(f"{width} x {height} pixels, the limit is {limits.max_pixels} in all")
    if min(size) < limits.min_side:
        message = f"{width} x {height} pixels, the shortest side allowed is {limits.min_side}"
        raise SampleError(Status.IMAGE_TOO_SMALL, message)


def _check_bound(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise _too_large(f"so thin that it takes {height} x {width} pixels to make it square")


def _too_large(message: str) -> SampleError:
    return SampleError(Status.IMAGE_TOO_LARGE, message)


def _simplejpeg(data: bytes) -> Pixels | None:
    """The pixels by simplejpeg, or None where it is missing or can't read this file."""
    try:
        import simplejpeg

        return np.asarray(simplejpeg.decode_jpeg(data, colorspace="RGB"))
    except (ImportError, ValueError):
        return None


def _resize_pillow(pixels: Pixels, size: tuple[int, int], resample: int) -> Pixels:
    image = Image.fromarray(pixels)
    return np.asarray(image.resize(size[::-1], Image.Resampling(resample)))


def _resize_torch(pixels: Pixels, size: tuple[int, int], resample: int) -> Pixels:
    import torch

    modes = {2: "bilinear", 3: "bicubic"}
    if resample not in modes:
        return _resize_pillow(pixels, size, resample)
    resize: Callable[..., Any] = torch.nn.functional.interpolate
    image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None]
    small = resize(image, size=size, mode=modes[resample], antialias=True, align_corners=False)
    return np.ascontiguousarray(small[0].permute(1, 2, 0).numpy())


def _pad_square(pixels: Pixels, colour: tuple[int, ...]) -> Pixels:
    height, width = pixels.shape[:2]
    side = max(height, width)
    square = np.full((side, side, 3), colour, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square
