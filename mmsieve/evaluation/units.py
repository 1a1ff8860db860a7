"""Which texts belong together: those that share an image, directly or over other texts."""

from collections.abc import Iterable

import numpy as np

from mmsieve.metrics import Ints


def units_of(images: Iterable[list[str]]) -> Ints:
    """The number [n] of each text's unit, for the image paths of each text.

    The texts over one caption's image are a unit, and so are those over a document's images, in
    whatever order each text shows them: its first image alone would take them apart.
    """
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        while (parent := parents.setdefault(name, name)) != name:
            parents[name] = parents[parent]  # shortens the way for the next one
            name = parent
        return name

    firsts = []
    for index, names in enumerate(images):
        known = names or [f"\0{index}"]  # a text without an image stands alone
        firsts.append(known[0])
        for name in known[1:]:
            parents[root(name)] = root(known[0])
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(root(name), len(numbers)) for name in firsts], np.int64)
