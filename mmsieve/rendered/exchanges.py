"""A question and its answer over scenes, and the small phrases that they are made of."""

from dataclasses import dataclass, replace

import numpy as np

from mmsieve.rendered.scenes import GRID, Fact, Scene, Thing
from mmsieve.rendered.words import NUMBERS, Piece, plain, sentence

PHRASE, SHORT = "word/short-phrase", "short description"
STEPS, FORM = "chain-of-thought (step-by-step)", "specified style"
Pieces = list[Piece]
Scenes = tuple[Scene, ...]


@dataclass(frozen=True, slots=True)
class Exchange:
    """What is asked and answered; every fact of the answer holds for the scenes it is about."""

    question: Pieces
    answer: Pieces
    styles: tuple[str, ...]
    asked: tuple[Piece, ...]
    """The words of the answer that answer the question: a contradiction shows in these."""


def exchange(
    question: Pieces, answer: Pieces, *styles: str, asked: tuple[Piece, ...] | None = None
) -> Exchange:
    """An exchange whose every fact was asked for, unless said otherwise."""
    if asked is None:
        asked = tuple(piece for piece in answer if piece.fact is not None)
    return Exchange(sentence(question, "?"), answer, styles, asked)


def phrase_or_sentence(
    question: Pieces, phrase: Pieces, told: Pieces, rng: np.random.Generator
) -> Exchange:
    """The answer alone, or a sentence (with place and object in front) that ends in it."""
    asked = tuple(piece for piece in phrase if piece.fact is not None)
    if rng.random() < 0.4:
        return exchange(question, phrase, PHRASE, asked=asked)
    return exchange(question, sentence([*told, *phrase]), SHORT, asked=asked)


def said(thing: Thing, attribute: str) -> Piece:
    """The word for an attribute of an object."""
    value = getattr(thing, attribute)
    return Piece(value, Fact(thing.place, attribute, value))


def at(thing: Thing) -> Pieces:
    """`at the left`."""
    return [*plain("at the"), Piece(thing.place, Fact(thing.place, "place", thing.place))]


def the(thing: Thing, *attributes: str) -> Pieces:
    """`the star`, with attributes in front if asked for."""
    return [Piece("the"), *(said(thing, name) for name in attributes), said(thing, "shape")]


def how_many(scene: Scene, value: str) -> Piece:
    """The number of objects with a colour, shape or fill."""
    number = sum(value in (t.colour, t.shape, t.fill) for t in scene.things)
    return Piece(NUMBERS[number], Fact("scene", value, str(number)))


def box(thing: Thing) -> str:
    """Left, top, right and bottom of an object's cell as parts of the picture's sides."""
    row, column = divmod(thing.cell, GRID)
    sides = (column, row, column + 1, row + 1)
    return "[" + ",".join(f"{side / GRID:.1f}" for side in sides) + "]"


def join(groups: list[Pieces], between: str) -> Pieces:
    """Phrases with a word between each two."""
    joined = list(groups[0])
    for group in groups[1:]:
        joined += [Piece(between), *group]
    return joined


def on_second(pieces: Pieces) -> Pieces:
    """The same words, about the second picture."""
    return [replace(piece, picture=1) for piece in pieces]


def one_of(things: tuple[Thing, ...], rng: np.random.Generator) -> Thing:
    """Any of the objects."""
    return things[int(rng.integers(len(things)))]


def shapes(scene: Scene) -> tuple[Thing, ...]:
    """The objects that are no signs."""
    return tuple(thing for thing in scene.things if not thing.word)


def signs(scene: Scene) -> tuple[Thing, ...]:
    """The objects that are signs."""
    return tuple(thing for thing in scene.things if thing.word)


def told_apart(scene: Scene) -> tuple[Thing, ...]:
    """The objects that colour and shape are enough to point at."""
    looks = [(thing.colour, thing.shape) for thing in scene.things]
    return tuple(t for t in scene.things if looks.count((t.colour, t.shape)) == 1)
