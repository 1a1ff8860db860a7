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
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
from cyclopts import Parameter
from PIL import Image, ImageOps, UnidentifiedImageError

from mmsieve.errors import SampleError, Status, check_machine
from mmsieve.options import NotNegative, Options, Positive
from mmsieve.sample import add_note

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""Height x width x 3, RGB, 0-255."""

ImageFit: TypeAlias = Literal["stretch", "pad", "crop"]
"""How an image becomes a square: each side on its own, padded first, or the middle cut out."""


@dataclass(frozen=True)
class ImageFormat:
    """A format of image files, under one of its extensions."""

    extension: str
    """Of files and of a tar's members."""
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
    ImageFormat("tif", ("TIFF",), rb"II\*\0|MM\0\*|II\+\0|MM\0\+"),
    ImageFormat("tiff"),
    ImageFormat("avif", ("AVIF",), rb".{4}ftyp(avi[fs]|mif1|msf1)"),
    ImageFormat("jp2", ("JPEG2000",), rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    ImageFormat("ppm", ("PPM",), rb"P[1-7fFy]\s|P0CMYK"),
    ImageFormat("ico", ("ICO",), rb"\0\0\x01\0"),
    ImageFormat("jfif"),
    ImageFormat("jpe"),
    ImageFormat("j2k"),
    ImageFormat("jpx"),
    ImageFormat("dib"),
    *map(ImageFormat, ("pgm", "pbm", "pnm", "pfm")),
)
"""All that is read: members of tars, files, bytes anywhere; of several images of a tar's key the
first here is (webdataset's habit).

Formats whose decoder runs another program (EPS) are not among them.
"""

IMAGE_EXTENSIONS = tuple(known.extension for known in FORMATS)

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
    convert_well: bool = field(default=False, repr=False)
    """16-bit and float images scaled to 8 bits, transparent ones laid on white; the published code
    clips the former and drops transparency, which can leave one flat colour (a run says so)."""

    def __str__(self) -> str:
        """What fingerprints have had from the first, and what was added where it is used."""
        return repr(self) + (" convert_well" if self.convert_well else "")


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


ENCODED = {"jpg": "jpg", "jpeg": "jpg", "png": "png", "webp": "webp"}
"""Extensions in which images can be written -> what `extension_of` says of the format."""
_WRITERS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    "png": ("PNG", {}),
    "webp": ("WEBP", {"quality": 95}),
}


def reencode(data: bytes, extension: str) -> bytes:
    """An image file in a format of ENCODED: its pixels as models see them; raises SampleError."""
    name, options = _WRITERS[ENCODED[extension]]
    file = io.BytesIO()
    Image.fromarray(decode(data, ImageLimits())).save(file, name, **options)
    return file.getvalue()


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
        return _to_rgb(turned, limits.convert_well)


FLAT = "16-bit, float or transparent: as RGB one flat colour (--convert-well)"
_MOST_FLAT = 0.99
"""Share of the pixels of one colour, from which on an image shows nothing."""


def _to_rgb(image: Image.Image, well: bool) -> Pixels:
    """The pixels by Pillow's own conversion, or `well`; notes an image that the former empties."""
    has_alpha = image.has_transparency_data
    if not has_alpha and image.mode[0] not in "IF":
        return np.asarray(image.convert("RGB"))
    better = _laid_on_white if has_alpha else _scaled
    if well:
        return better(image)
    plain = np.asarray(image.convert("RGB"))
    if _is_flat(plain) and not _is_flat(better(image)):
        add_note(FLAT)
    return plain


def _laid_on_white(image: Image.Image) -> Pixels:
    layers = image.convert("RGBA")
    white = Image.new("RGBA", layers.size, "white")
    return np.asarray(Image.alpha_composite(white, layers).convert("RGB"))


def _scaled(image: Image.Image) -> Pixels:
    """Grey values of 16 or 32 bits or floats as 8 bits: 0-65535 and 0-1 as such, others stretched
    between their extremes."""
    values = np.nan_to_num(np.asarray(image).astype(np.float32), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 1 and image.mode == "F":
        low, high = 0.0, 1.0
    elif low >= 0 and 255 < high <= 65535:
        low, high = 0.0, 65535.0
    elif low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    grey = np.rint((values - low) * (255 / ((high - low) or 1))).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _is_flat(pixels: Pixels) -> bool:
    """Whether nearly all pixels have the colour of the brightest or the darkest corner of RGB."""
    plain = pixels.reshape(-1, 3)
    share = max(float((plain == value).all(axis=1).mean()) for value in (0, 255))
    return share >= _MOST_FLAT


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
        raise _too_large(f"{len(data):,} bytes, the limit is {limits.max_bytes:,}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            file = io.BytesIO(_without_texts(data))
            with Image.open(file, formats=_formats()) as image:
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
            check_machine(error, "an image can't be decoded here")
            raise SampleError(Status.IMAGE_UNDECODABLE, f"{error or type(error)}") from error


_PNG = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_ORIENTATION = b"XML:com.adobe.xmp\0\0"
_MOST_TEXT = 1 << 20


def _without_texts(data: bytes) -> bytes:
    """A PNG file without texts and colour profile, which no pixel depends on and which may be too
    large, or damaged, for a decoder that reads all before it gives the pixels."""
    if not data.startswith(_PNG):
        return data
    kept = [_PNG]
    start = len(_PNG)
    while start + 12 <= len(data):
        size, kind = int.from_bytes(data[start : start + 4]), data[start + 4 : start + 8]
        stop = start + 12 + size
        turns = size < _MOST_TEXT and data.startswith(_ORIENTATION, start + 8)
        if kind not in _TEXTS or turns:
            kept.append(data[start:stop])
        start = stop
    return b"".join([*kept, data[start:]]) if sum(map(len, kept)) < start else data


@cache
def _formats() -> tuple[str, ...]:
    """The decoders of FORMATS that the installed Pillow has."""
    Image.init()
    return tuple(name for known in FORMATS for name in known.decoders if name in Image.OPEN)


def _check_size(size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise _too_large(f"{width} x {height} pixels, the limit is {limits.max_pixels:,} in all")
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
