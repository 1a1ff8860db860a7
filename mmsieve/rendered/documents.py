"""Documents of two or three pictures at the four quality levels.

The levels mix what the method's own rubric mixes (UniFilter, table 1): writing errors, how text
and pictures relate, where the pictures stand, whether the text teaches anything. Level 3: each
picture, then a right and complete explanation. 2: the same layout with several factual errors and
some slips. 1: readable, on the same topic, but each paragraph belongs to another of the pictures
or says hardly anything. 0: full of slips, about other pictures, which stand anywhere.
"""

from dataclasses import dataclass, replace

import numpy as np

from mmsieve.levels import LEVELS
from mmsieve.rendered.edits import change_one, change_several, stranger_to
from mmsieve.rendered.scenes import SIGN, Scene, pick, sample_scene
from mmsieve.rendered.words import Marked, Piece, clause, mark, plain, sentence, tell

Part = Marked | int


@dataclass(frozen=True, slots=True)
class Document:
    """Paragraphs and pictures in reading order; an int is the index of a picture."""

    level: int
    scenes: tuple[Scene, ...]
    parts: tuple[Part, ...]


CORNERS = {"circle": "no", "ring": "no", "square": "four", "triangle": "three", "star": "five",
            "cross": "twelve", "diamond": "four"}  # fmt: skip
_VAGUE = (
    "this picture has some shapes in it",
    "there are a few things to see here",
    "many pictures look like this",
    "it is a picture with colours",
)
_OPENINGS = (
    "let us look at some pictures",
    "this page explains some pictures",
    "what can we learn from these pictures",
)


def sample_scenes(family: str, rng: np.random.Generator) -> tuple[Scene, ...]:
    """Two or three pictures for a document, each a stranger to the others."""
    scenes = [sample_scene(family, int(rng.integers(2**62)))]
    for _ in range(1 + int(rng.random() < 0.25)):
        scenes.append(stranger_to(tuple(scenes), rng))
    return tuple(scenes)


def document(scenes: tuple[Scene, ...], level: int, rng: np.random.Generator) -> Document:
    """Write one document around these pictures."""
    writer = (_level_0, _level_1, _level_2, _level_3)[level]
    return Document(level, scenes, writer(scenes, rng))


def document_set(scenes: tuple[Scene, ...], rng: np.random.Generator) -> tuple[Document, ...]:
    """One document per level, in the order of the levels."""
    return tuple(document(scenes, level, rng) for level in LEVELS)


def _lesson(scene: Scene, rng: np.random.Generator, *, right: bool) -> list[Piece]:
    """A sentence of general knowledge about a shape in the picture, true or false."""
    shapes = tuple(thing.shape for thing in scene.things if thing.shape != SIGN)
    shape = pick(rng, shapes) if shapes else "square"
    said = CORNERS[shape]
    if not right:
        said = pick(rng, tuple(n for n in ("no", "three", "four", "five", "twelve") if n != said))
    article = "every" if rng.random() < 0.5 else "a"
    return sentence(plain(f"{article} {shape} has {said} corners"))


def _opening(rng: np.random.Generator) -> list[list[Piece]]:
    return [sentence(plain(pick(rng, _OPENINGS)))] if rng.random() < 0.3 else []


def _in_turn(
    opening: list[list[Piece]], paragraphs: list[list[Piece]], scenes: tuple[Scene, ...]
) -> tuple[Part, ...]:
    """The opening, then each picture followed by its paragraph, checked against it."""
    parts: list[Part] = [mark(pieces, None) for pieces in opening]
    for index, pieces in enumerate(paragraphs):
        parts += [index, mark(pieces, scenes[index])]
    return tuple(parts)


def _level_3(scenes: tuple[Scene, ...], rng: np.random.Generator) -> tuple[Part, ...]:
    paragraphs = [tell(scene, rng) + _lesson(scene, rng, right=True) for scene in scenes]
    return _in_turn(_opening(rng), paragraphs, scenes)


def _level_2(scenes: tuple[Scene, ...], rng: np.random.Generator) -> tuple[Part, ...]:
    """Several factual errors: one in each picture and more in one of them, or a false lesson."""
    worst = int(rng.integers(len(scenes)))
    paragraphs = []
    for index, scene in enumerate(scenes):
        told = (change_several if index == worst else change_one)(scene, rng)
        paragraphs.append(tell(told, rng) + _lesson(told, rng, right=rng.random() < 0.5))
    return _in_turn(_opening(rng), _slips(paragraphs, int(rng.integers(3)), rng), scenes)


def _level_1(scenes: tuple[Scene, ...], rng: np.random.Generator) -> tuple[Part, ...]:
    """Each paragraph is written for the next picture, fully or with hardly a word about it."""
    thin = rng.random() < 0.6
    paragraphs = []
    for index in range(len(scenes)):
        other = scenes[(index + 1) % len(scenes)]
        if thin:
            one = other.things[int(rng.integers(len(other.things)))]
            paragraphs.append(sentence(plain(pick(rng, _VAGUE))) + sentence(clause(one, rng)))
        else:
            paragraphs.append(tell(other, rng) + _lesson(other, rng, right=rng.random() < 0.5))
    return _in_turn(_opening(rng), _slips(paragraphs, int(rng.integers(2, 5)), rng), scenes)


def _level_0(scenes: tuple[Scene, ...], rng: np.random.Generator) -> tuple[Part, ...]:
    """Spoilt paragraphs about pictures that are not here; the pictures stand anywhere."""
    paragraphs = [tell(stranger_to(scenes, rng), rng) for _ in scenes]
    words = sum(len(_spoilable(pieces)) for pieces in paragraphs)
    paragraphs = _slips(paragraphs, round(words * rng.uniform(0.4, 0.6)), rng)
    slots: list[int | list[Piece]] = [*range(len(scenes)), *paragraphs]
    order = [slots[int(i)] for i in rng.permutation(len(slots))]
    parts: list[Part] = []
    seen: Scene | None = None
    for slot in order:
        if isinstance(slot, int):
            seen = scenes[slot]
            parts.append(slot)
        else:
            parts.append(mark(slot, seen))
    return tuple(parts)


def _spoilable(pieces: list[Piece]) -> list[int]:
    """Words long enough that a slip makes them no other word."""
    return [i for i, piece in enumerate(pieces) if len(piece.text) > 3 and piece.text.isalpha()]


def _slips(
    paragraphs: list[list[Piece]], count: int, rng: np.random.Generator
) -> list[list[Piece]]:
    """Misspell this many words, anywhere."""
    places = [(i, j) for i, pieces in enumerate(paragraphs) for j in _spoilable(pieces)]
    spoilt = [list(pieces) for pieces in paragraphs]
    for choice in rng.permutation(len(places))[:count]:
        i, j = places[int(choice)]
        piece = spoilt[i][j]
        spoilt[i][j] = replace(piece, text=_misspell(piece.text, rng), loose=True)
    return spoilt


def _misspell(word: str, rng: np.random.Generator) -> str:
    """Swap two inner letters that differ, drop one, or double one."""
    at = 1 + int(rng.integers(len(word) - 2))
    kind = int(rng.integers(3))
    if kind == 0 and word[at] != word[at + 1]:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    return word[:at] + word[at] * 2 + word[at + 1 :]
