"""Bytes -> pixels -> squares: bounded, tolerant, and the numbers of the stock processors."""

import io
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile

from mmsieve.errors import SampleError, Status
from mmsieve.images import FLAT, IMAGE_EXTENSIONS, ImageLimits, ImageSpec, decode, extension_of, fit
from mmsieve.sample import collect_notes
from tests.helpers.tiny import picture

LIMITS = ImageLimits()
HALF = (0.5, 0.5, 0.5)
SPEC = ImageSpec(62, 2, HALF, HALF, "stretch")


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def status(data: bytes, limits: ImageLimits = LIMITS, **options: object) -> Status:
    with pytest.raises(SampleError) as error:
        decode(data, limits, **options)
    return error.value.status


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises far more pixels than there are."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


PHOTO = Image.fromarray(picture(1, 48, 80))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP", "JPEG"])
def test_formats_by_content(kind):
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}.get(kind, {})
    image = PHOTO.quantize(200) if kind == "GIF" else PHOTO
    pixels = decode(encode(image, kind, **options), LIMITS)
    assert pixels.shape == (48, 80, 3) and pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - np.asarray(image.convert("RGB"))).mean() < 12


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16"])
def test_modes_become_rgb_as_pillow_does_it(mode):
    if mode == "I;16":
        image = Image.fromarray(np.arange(0, 48 * 80, dtype=np.uint16).reshape(48, 80) * 16)
    else:
        image = PHOTO.convert(mode)
    if mode == "RGBA":
        image.putalpha(30)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    pixels = decode(encode(image, kind), LIMITS)
    assert np.array_equal(pixels, np.asarray(image.convert("RGB")))
    if mode == "I;16":
        assert pixels[-1].min() == 255  # clipped, not scaled
    if mode == "RGBA":
        assert np.array_equal(pixels, np.asarray(PHOTO))  # dropped, not composited


def test_palette_with_transparency_and_a_colour_profile_make_no_noise():
    palette = PHOTO.quantize(16)
    data = encode(palette, transparency=bytes(range(16)))
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(data, LIMITS).shape == (48, 80, 3)
        assert decode(encode(PHOTO, icc_profile=profile), LIMITS).shape == (48, 80, 3)


def test_orientation_is_ignored_unless_asked_for():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(PHOTO, "JPEG", exif=exif, quality=95)
    assert decode(data, LIMITS).shape == (48, 80, 3)
    for fast in (False, True):
        turned = decode(data, LIMITS, orient=True, fast=fast)
        assert turned.shape == (80, 48, 3)


def test_the_first_frame_or_the_one_asked_for():
    pages = [Image.new("RGB", (9 + n, 9), (n * 40, 0, 0)) for n in range(4)]
    data = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert decode(data, LIMITS)[0, 0, 0] == 0
    page = decode(data, LIMITS, frame=2)
    assert page.shape == (9, 11, 3) and page[0, 0, 0] == 80
    assert status(data, frame=4) == Status.IMAGE_UNDECODABLE
    assert status(data, ImageLimits(max_frames=3), frame=3) == Status.IMAGE_TOO_LARGE
    gif = encode(pages[0], "GIF", save_all=True, append_images=pages[1:])
    assert decode(gif, LIMITS).shape[2] == 3


def test_limits_are_checked_from_the_header():
    assert status(bomb(60_000, 60_000)) == Status.IMAGE_TOO_LARGE  # Pillow's own limit
    assert status(bomb(12_000, 9_000)) == Status.IMAGE_TOO_LARGE
    assert status(bomb(50, 50), ImageLimits(max_pixels=2499)) == Status.IMAGE_TOO_LARGE
    assert status(bomb(50, 50), ImageLimits(max_pixels=2500)) == Status.IMAGE_UNDECODABLE
    assert status(encode(PHOTO), ImageLimits(max_bytes=100)) == Status.IMAGE_TOO_LARGE
    assert status(encode(PHOTO), ImageLimits(min_side=49)) == Status.IMAGE_TOO_SMALL


def test_pillow_is_left_as_it_was():
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    decode(encode(PHOTO), LIMITS)
    status(bomb(60_000, 60_000))
    assert before == (
        Image.MAX_IMAGE_PIXELS,
        ImageFile.LOAD_TRUNCATED_IMAGES,
        list(warnings.filters),
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_a_file_cut_short_is_undecodable(kind):
    data = encode(PHOTO.quantize(64) if kind == "GIF" else PHOTO, kind)
    assert status(data[: len(data) // 2]) == Status.IMAGE_UNDECODABLE
    assert status(data[: len(data) // 2], fast=True) == Status.IMAGE_UNDECODABLE


def test_no_program_is_run_for_postscript():
    assert status(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == Status.IMAGE_UNDECODABLE


@pytest.mark.parametrize("data", [b"", b"\0", b"not an image", b"\xff\xd8\xff", b"GIF89a"])
def test_no_image(data):
    assert status(data) == Status.IMAGE_UNDECODABLE


@settings(max_examples=150)
@given(
    start=st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO", ""]),
    noise=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=12),
    tail=st.binary(max_size=64),
    options=st.fixed_dictionaries(
        {"orient": st.booleans(), "fast": st.booleans(), "frame": st.integers(0, 2)}
    ),
)
def test_bytes_never_raise_anything_but_a_sample_error(start, noise, tail, options):
    whole = encode(PHOTO.quantize(32) if start == "GIF" else PHOTO, start) if start else b""
    data = bytearray(whole)
    for place, value in noise:
        if data:
            data[place % len(data)] = value
    try:
        pixels = decode(bytes(data) + tail, LIMITS, **options)
    except SampleError:
        return
    assert pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8


@settings(max_examples=40)
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    mode=st.sampled_from(["stretch", "pad", "crop"]),
    resample=st.sampled_from([2, 3]),
    fast=st.booleans(),
)
def test_any_shape_fits(height, width, mode, resample, fast):
    spec = ImageSpec(20, resample, HALF, HALF, "stretch")
    out = fit(picture(3, height, width), spec, mode, fast)
    assert out.shape == (20, 20, 3) and out.dtype == np.uint8 and out.flags.c_contiguous


def stock(processor: object, pixels: np.ndarray) -> np.ndarray:
    """What a stock processor makes of an image, undone to uint8."""
    out = processor(Image.fromarray(pixels), return_tensors="np", do_normalize=False)
    return np.rint(out["pixel_values"][0].transpose(1, 2, 0) * 255).astype(np.uint8)


@pytest.mark.parametrize("shape", [(31, 77), (200, 90), (5, 5), (3, 40), (63, 63)])
@pytest.mark.parametrize("resample", [2, 3])
def test_stretch_and_crop_are_the_stock_processors(shape, resample):
    from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

    pixels = picture(7, *shape)
    siglip = SiglipImageProcessorPil(size={"height": 62, "width": 62}, resample=resample)
    spec = ImageSpec(62, resample, HALF, HALF, "stretch")
    assert np.array_equal(fit(pixels, spec), stock(siglip, pixels))
    clip = CLIPImageProcessorPil(
        size={"shortest_edge": 62}, crop_size={"height": 62, "width": 62}, resample=resample
    )
    assert np.array_equal(fit(pixels, spec, "crop"), stock(clip, pixels))


@pytest.mark.parametrize("mode", ["pad", "crop"])
def test_a_thread_of_an_image_is_refused_where_squaring_it_would_explode(mode):
    thread = np.zeros((1, 2_000_000, 3), np.uint8)
    with pytest.raises(SampleError) as error:
        fit(thread, SPEC, mode)
    assert error.value.status == Status.IMAGE_TOO_LARGE
    assert fit(thread, SPEC).shape == (62, 62, 3)


@pytest.mark.parametrize("shape", [(40, 90), (91, 40), (50, 50)])
def test_pad_is_what_the_published_training_does(shape):
    """expand2square of llava/mm_utils.py: pasted in the middle of a square of the mean colour."""
    pixels = picture(8, *shape)
    height, width = shape
    side = max(shape)
    square = Image.new("RGB", (side, side), (127, 127, 127))
    square.paste(Image.fromarray(pixels), ((side - width) // 2, (side - height) // 2))
    wanted = square.resize((62, 62), Image.Resampling.BILINEAR)
    assert np.array_equal(fit(pixels, SPEC, "pad"), np.asarray(wanted))


@pytest.mark.parametrize("resample", [2, 3])
@pytest.mark.parametrize("mode", ["stretch", "pad", "crop"])
def test_the_fast_path_is_close(mode, resample):
    spec = ImageSpec(62, resample, HALF, HALF, "stretch")
    for shape in ((48, 80), (300, 401), (20, 30)):
        data = encode(Image.fromarray(picture(9, *shape)), "JPEG", quality=90)
        exact = fit(decode(data, LIMITS), spec, mode)
        fast = fit(decode(data, LIMITS, fast=True), spec, mode, fast=True)
        assert np.abs(exact.astype(int) - fast).max() <= 3


@pytest.mark.parametrize("mode", ["CMYK", "L"])
def test_the_fast_path_takes_every_jpeg(mode):
    data = encode(PHOTO.convert(mode), "JPEG", quality=95)
    assert np.array_equal(decode(data, LIMITS, fast=True), decode(data, LIMITS))


def test_the_fast_path_without_simplejpeg_is_pillow(monkeypatch):
    data = encode(PHOTO, "JPEG")
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert np.array_equal(decode(data, LIMITS, fast=True), decode(data, LIMITS))


def test_the_exact_path_needs_no_torch():
    code = (
        "import sys, numpy as np; from mmsieve.images import *; "
        "fit(np.zeros((9, 9, 3), np.uint8), ImageSpec(4, 2, (.5,) * 3, (.5,) * 3, 'stretch')); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("kind", "extension"),
    [
        ("AVIF", "avif"),
        ("JPEG2000", "jp2"),
        ("PPM", "ppm"),
        ("ICO", "ico"),
        ("JPEG", "jpg"),
        ("WEBP", "webp"),
    ],
)
def test_what_is_decoded_has_an_extension(kind, extension):
    data = encode(Image.new("RGB", (32, 32), "red"), kind)
    assert extension_of(data) == extension in IMAGE_EXTENSIONS
    assert decode(data, ImageLimits()).shape == (32, 32, 3)


def test_a_big_tiff_is_a_tiff():
    assert extension_of(encode(Image.new("L", (9, 9)), "TIFF", big_tiff=True)) == "tif"


def chunk(kind: bytes, data: bytes) -> bytes:
    crc = zlib.crc32(kind + data).to_bytes(4, "big")
    return len(data).to_bytes(4, "big") + kind + data + crc


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"x" * 2_000_000)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"<x/>" * 500_000))
        + chunk(b"tEXt", b"p\0" + b"x" * 2_000_000),
        chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(2_000_000))),
        chunk(b"tEXt", b"a\0b")[:-4] + b"\0\0\0\0",
        b"".join(chunk(b"tEXt", b"k%d\0" % n + b"x" * 999_999) for n in range(70)),
    ],
)
def test_texts_in_a_png_do_not_cost_its_pixels(extra):
    plain = encode(Image.new("RGB", (8, 9), "red"), "PNG")
    pixels = decode(plain[:33] + extra + plain[33:], ImageLimits())
    assert (pixels == decode(plain, ImageLimits())).all()


def ramp() -> np.ndarray:
    return np.linspace(0, 65535, 64 * 64).reshape(64, 64)


def hidden() -> Image.Image:
    """Black words on nothing."""
    image = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (10, 10, 30, 30))
    return image


@pytest.mark.parametrize(
    "data",
    [
        encode(Image.fromarray(ramp().astype(np.uint16)), "PNG"),
        encode(Image.fromarray((ramp() / 65535).astype(np.float32)), "TIFF"),
        encode(Image.fromarray((ramp() - 9).astype(np.float32)), "TIFF"),
        encode(hidden(), "PNG"),
    ],
)
def test_what_conversion_empties_is_noted_and_can_be_converted_well(data):
    with collect_notes() as notes:
        plain = decode(data, ImageLimits())
    assert notes == {FLAT} and len(np.unique(plain)) <= 32
    with collect_notes() as notes:
        well = decode(data, ImageLimits(convert_well=True))
    assert not notes and well.min() == 0 and well.max() == 255


def test_usual_images_are_not_noted():
    kinds = [("RGB", "white"), ("L", 255), ("RGBA", (255, 0, 0, 255)), ("P", 3), ("I;16", 9)]
    for mode, colour in kinds:
        with collect_notes() as notes:
            decode(encode(Image.new(mode, (9, 9), colour), "PNG"), ImageLimits())
        assert not notes


def test_options_that_change_pixels_are_in_the_fingerprint():
    usual, well = ImageLimits(), ImageLimits(convert_well=True)
    assert "convert_well" not in str(usual) and str(well) != str(usual)
