"""Split: which texts are for validation, so that no image is on both sides."""

from collections.abc import Sequence

import numpy as np


def choose_val(images: Sequence[Sequence[str]], fraction: float, seed: int) -> list[bool]:
    """For each item, given by the sha256 of its images, whether it is for validation.

    Items that share an image, directly or through others, stay together. At least `fraction` of
    the items is for validation, and more only by what the last ones are tied to.
    """
    together = _tie(images)
    members: dict[int, list[int]] = {}
    for item, root in enumerate(together):
        members.setdefault(root, []).append(item)
    groups = list(members.values())
    is_val = [False] * len(images)
    wanted = round(fraction * len(images))
    for index in np.random.default_rng((seed, 7)).permutation(len(groups)).tolist():
        if wanted <= 0:
            break
        for item in groups[index]:
            is_val[item] = True
        wanted -= len(groups[index])
    return is_val


def _tie(images: Sequence[Sequence[str]]) -> list[int]:
    """For each item the first one that it is tied to: union-find."""
    parent = list(range(len(images)))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = item = parent[parent[item]]
        return item

    first: dict[str, int] = {}
    for item, shown in enumerate(images):
        for sha256 in shown:
            one, other = root(first.setdefault(sha256, item)), root(item)
            parent[max(one, other)] = min(one, other)
    return [root(item) for item in range(len(images))]
