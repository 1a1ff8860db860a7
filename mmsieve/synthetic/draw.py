"""Draws scenes with Pillow: the same scene gives the same pixels on every machine.

Shapes are drawn at twice the size and reduced, then shaded by noise: enough variation that pixels
cannot be memorised, little enough that a tower of a million weights reads every attribute. Letters
are bitmaps of our own, as fonts differ between builds of Pillow.
"""

import math

import numpy as np
from PIL import Image, ImageDraw

from mmsieve.synthetic.scenes import COLOURS, GRID, SIGN, BarChart, NumberTable, Scene, Thing

_SUPERSAMPLE = 2
_NOISE = 9
_RADIUS = {"small": 0.27, "large": 0.43, "": 0.4}
_SIGN_RADIUS = 0.46

Point = tuple[float, float]
Colour = tuple[int, int, int]

_ROWS = {
    "A": "25755", "B": "65656", "C": "34443", "D": "65556", "E": "74647", "F": "74644",
    "G": "34553", "H": "55755", "I": "72227", "J": "11152", "K": "55655", "L": "44447",
    "M": "57755", "N": "65555", "O": "25552", "P": "65644", "Q": "25573", "R": "65655",
    "S": "34216", "T": "72222", "U": "55557", "V": "55552", "W": "55775", "X": "55255",
    "Y": "55222", "Z": "71247", "0": "75557", "1": "26227", "2": "61247", "3": "61216",
    "4": "55711", "5": "74616", "6": "34757", "7": "71122", "8": "75757", "9": "75716",
    " ": "00000",
}  # fmt: skip
"""Letter -> its rows from top to bottom, an octal digit for three bits."""


def draw_scene(scene: Scene, size: int = 72, aspect: float = 1.0) -> Image.Image:
    """The scene as an RGB picture `size` pixels high and `aspect` times as wide."""
    rng = np.random.default_rng(scene.seed)
    width = round(size * aspect) * _SUPERSAMPLE
    canvas = Image.new("RGB", (width, size * _SUPERSAMPLE), scene.tint)
    if scene.chart is not None:
        _draw_chart(canvas, scene.chart, rng)
    elif scene.table is not None:
        _draw_table(canvas, scene.table)
    for thing in scene.things:
        _draw_thing(canvas, thing, rng)
    pixels = np.asarray(canvas.reduce(_SUPERSAMPLE), dtype=np.int16)
    noise = rng.integers(-_NOISE, _NOISE + 1, pixels.shape, dtype=np.int16)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def _shade(name: str, rng: np.random.Generator) -> Colour:
    """A named colour, a little off, so that no colour is one exact triple."""
    red, green, blue = map(int, np.clip(COLOURS[name] + rng.integers(-14, 15, 3), 0, 255))
    return red, green, blue


def _draw_thing(canvas: Image.Image, thing: Thing, rng: np.random.Generator) -> None:
    """One object, jittered inside its cell."""
    cell, across = canvas.height / GRID, canvas.width / GRID
    radius = _SIGN_RADIUS if thing.shape == SIGN else _RADIUS[thing.size]
    radius *= 1 + rng.uniform(-0.06, 0.06)
    slack = max(0.0, min(0.08, 0.5 - radius))
    dx, dy = rng.uniform(-slack, slack, 2)
    row, column = divmod(thing.cell, GRID)
    wider = (column + 0.5) * (across - cell)
    centre = ((column + 0.5 + dx) * cell + wider, (row + 0.5 + dy) * cell)
    colour = _shade(thing.colour, rng)
    if thing.shape == SIGN:
        _draw_sign(canvas, thing.word, centre, cell, colour)
        return
    mask = Image.new("L", canvas.size, 0)
    _draw_shape(ImageDraw.Draw(mask), thing.shape, centre, radius * cell)
    canvas.paste(_paint(canvas.size, thing.fill, colour, cell), mask=mask)


def _paint(size: tuple[int, int], fill: str, colour: Colour, cell: float) -> Image.Image:
    """A sheet of the object's colour and pattern, to be cut out by its shape."""
    sheet = Image.new("RGB", size, colour)
    if fill == "solid":
        return sheet
    pale: Colour = tuple((value + 3 * 255) // 4 for value in colour)  # type: ignore[assignment]
    pen = ImageDraw.Draw(sheet)
    step = cell / 4
    for line in range(GRID * 4):
        y = line * step
        if fill == "striped":
            pen.rectangle((0, y, size[0], y + step / 2 - 1), fill=pale)
            continue
        for x in (dot * step for dot in range(math.ceil(size[0] / step))):
            pen.ellipse((x, y, x + step * 0.6, y + step * 0.6), fill=pale)
    return sheet


def _draw_shape(pen: ImageDraw.ImageDraw, shape: str, centre: Point, radius: float) -> None:
    x, y = centre
    if shape in ("circle", "ring"):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
        if shape == "ring":
            inner = radius * 0.5
            pen.ellipse((x - inner, y - inner, x + inner, y + inner), fill=0)
    elif shape == "square":
        half = radius * 0.9
        pen.rectangle((x - half, y - half, x + half, y + half), fill=255)
    elif shape == "cross":
        arm = radius * 0.34
        pen.rectangle((x - radius, y - arm, x + radius, y + arm), fill=255)
        pen.rectangle((x - arm, y - radius, x + arm, y + radius), fill=255)
    else:
        radii = {
            "triangle": [radius * 1.1] * 3,
            "diamond": [radius, radius * 0.7] * 2,
            "star": [radius * 1.1, radius * 0.45] * 5,
        }[shape]
        turns = [i * (2 * math.pi / len(radii)) - math.pi / 2 for i in range(len(radii))]
        corners = zip(radii, turns, strict=True)  # around the centre, the first at the top
        pen.polygon([(x + r * math.cos(t), y + r * math.sin(t)) for r, t in corners], fill=255)


def _draw_sign(canvas: Image.Image, word: str, centre: Point, cell: float, colour: Colour) -> None:
    """A plate with a word on it, dark on light plates and light on dark ones."""
    width, height = cell * 0.96, cell * 0.66
    left, top = centre[0] - width / 2, centre[1] - height / 2
    plate = (left, top, left + width, top + height)
    ImageDraw.Draw(canvas).rectangle(plate, fill=colour)
    ink = (20, 20, 20) if sum(colour) > 380 else (250, 250, 250)
    _write(canvas, word, centre, cell / 13, ink)


def _write(canvas: Image.Image, word: str, centre: Point, dot: float, ink: Colour) -> None:
    """Letters around a centre, `dot` pixels to the bit."""
    rows = np.array([[int(digit) for digit in _ROWS[letter]] for letter in word.upper()]).T
    bits = rows[:, :, None] >> (2, 1, 0, 3) & 1  # bit 3 is never set: a column between letters
    mask = bits.reshape(len(rows), -1)[:, :-1] * 255
    side = max(1, round(dot))
    stencil = Image.fromarray(mask.astype(np.uint8).repeat(side, 0).repeat(side, 1))
    corner = (round(centre[0] - stencil.width / 2), round(centre[1] - stencil.height / 2))
    canvas.paste(Image.new("RGB", stencil.size, ink), corner, stencil)


def _draw_chart(canvas: Image.Image, chart: BarChart, rng: np.random.Generator) -> None:
    """Bars on a base line, ten units high."""
    pen, (width, side) = ImageDraw.Draw(canvas), canvas.size
    slot, base = width / len(chart.colours), side * 0.94
    for index, (name, height) in enumerate(zip(chart.colours, chart.heights, strict=True)):
        left = (index + 0.15) * slot
        top = base - side * 0.088 * height
        pen.rectangle((left, top, left + slot * 0.7, base), fill=_shade(name, rng))
    pen.rectangle((0, base, width, base + side * 0.02), fill=(30, 30, 30))


def _draw_table(canvas: Image.Image, table: NumberTable) -> None:
    """Names cut to three letters (there is no room for more), numbers in ruled cells."""
    pen, ink = ImageDraw.Draw(canvas), (20, 20, 20)
    height = canvas.height / (len(table.rows) + 1)
    width = canvas.width / (len(table.columns) + 1)
    for line in range(1, len(table.rows) + 1):
        pen.line((0, line * height, canvas.width, line * height), fill=ink)
    for line in range(1, len(table.columns) + 1):
        pen.line((line * width, 0, line * width, canvas.height), fill=ink)
    for i, row in enumerate(("", *table.rows)):
        for j, column in enumerate(("", *table.columns)):
            text = str(table.at(row, column)) if row and column else (row or column)[:3]
            if text:
                centre = ((j + 0.5) * width, (i + 0.5) * height)
                _write(canvas, text, centre, canvas.height / (len(table.columns) + 1) / 15, ink)
