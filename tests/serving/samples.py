"""What is asked about: drawn samples, and captions of every sort over pictures of every sort."""

import io
import os
import random
from pathlib import Path

import PIL.Image

from mmsieve import Sample
from mmsieve.synthetic.instructions import instruction
from mmsieve.synthetic.teacher import Drawing, assessment_group, caption_scene
from tests.helpers.shards import read

REFERENCE = os.environ.get("MMSIEVE_REFERENCE")
_TURNED = 0x0112
"""EXIF's orientation."""


def conversations(count: int) -> list[Sample]:
    """Drawn instruction samples."""
    return [instruction(5, index).sample(Drawing().draw) for index in range(count)]


def pairs(count: int) -> list[Sample]:
    """Drawn caption pairs, a good and a poor one of each scene."""
    groups = (assessment_group(5, index) for index in range(count // 2))
    return [
        Sample.caption(group.image, pair.text, f"{group.key}-{number}")
        for group in groups
        for number, pair in enumerate(group.pairs)
    ]


def invented(count: int) -> list[Sample]:
    """Captions that no model has learnt, over pictures with alpha, EXIF, palettes, 16 bits."""
    draw = random.Random(9)
    words = [
        "a",
        "dog,",
        "the",
        "Sea",
        "3.5",
        "(b)",
        "x/y",
        "\u00fcber",
        "\u8868\u793a",
        "\U0001f600",
    ]
    words += ['"so"', "it's", "\\n", "{k:", "1}", "<b>", "&", "%"]
    samples = []
    for number in range(count):
        text = " ".join(draw.choices(words, k=draw.choice((1, 4, 12, 40))))
        scene = caption_scene(9, number)
        picture = PIL.Image.open(io.BytesIO(Drawing(aspect=draw.choice((1, 2))).draw(scene)))
        samples.append(Sample.caption(_encoded(picture, number), text, f"{number:04d}"))
    return samples


def _encoded(picture: PIL.Image.Image, number: int) -> bytes:
    file = io.BytesIO()
    kind = number % 5
    if kind == 0:
        exif = PIL.Image.Exif()
        exif[_TURNED] = 2 + number % 7
        picture.convert("RGB").save(file, "JPEG", exif=exif)
    elif kind == 1:
        picture = picture.convert("RGBA")
        picture.putalpha(picture.convert("L"))
        picture.save(file, "PNG")
    elif kind == 2:
        picture.convert("P").save(file, "GIF")
    elif kind == 3:
        picture.convert("I;16").save(file, "PNG")
    else:
        picture.resize((300, 200)).convert("RGB").save(file, "WEBP")
    return file.getvalue()


def real(count: int) -> list[Sample]:
    """Captions that people wrote, from the folder that MMSIEVE_REFERENCE names."""
    return read(Path(REFERENCE or "") / "data" / "captions", kinds=("caption",)).samples[:count]
