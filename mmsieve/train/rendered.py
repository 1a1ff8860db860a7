"""Rendered groups as training data: drawn when they are asked for, the same ones every time."""

import numpy as np
from torch.utils.data import Dataset

from mmsieve.generate.rendered import Drawing, caption_group, document_group
from mmsieve.methods.unifilter_inputs import UniFilterPreparer
from mmsieve.rendered.scenes import WORLDS
from mmsieve.train.data import PreparedGroup, prepare_group, text_by_text
from mmsieve.train.recipe import Rendered


def choose_family(
    families: dict[str, float], seed: tuple[int, ...], *, only_things: bool = False
) -> str:
    """A family by its share, of those whose scenes are made of objects if asked for."""
    names = [name for name in families if not only_things or WORLDS[name].has_things]
    shares = np.array([families[name] for name in names])
    rng = np.random.default_rng(seed)
    return names[int(rng.choice(len(names), p=shares / shares.sum()))]


class RenderedGroups(Dataset[list[PreparedGroup]]):
    """A step's worth of rendered groups per index, all of one kind so that rows pad little."""

    def __init__(
        self, preparer: UniFilterPreparer, wanted: Rendered, batch: int, seed: int
    ) -> None:
        self._preparer, self._wanted = preparer, wanted
        self._batch, self._seed = batch, seed

    def __len__(self) -> int:
        return self._wanted.groups // self._batch

    def __getitem__(self, step: int) -> list[PreparedGroup]:
        """The groups of a step; the same step gives the same groups."""
        share = self._wanted.document_share
        documents = int((step + 1) * share) > int(step * share)
        make = document_group if documents else caption_group
        count = max(1, self._batch // _LONGER) if documents else self._batch
        first = step * self._batch
        families = self._wanted.families
        family = choose_family(families, (self._seed, 3, step), only_things=documents)
        drawing = _drawing(self._wanted, family)
        groups = [make(self._seed, first + i, drawing) for i in range(count)]
        return [prepare_group(self._preparer, group) for group in groups]


_LONGER = 4
"""How many groups of captions take the room of one group of documents, about."""


class HeldOutTexts(Dataset[list[PreparedGroup]]):
    """Texts over rendered images that no training sees, one per index."""

    def __init__(self, preparer: UniFilterPreparer, wanted: Rendered, seed: int) -> None:
        drawing = _drawing(wanted, "core")
        self._texts = [
            text
            for index in range(wanted.held_out)
            for make in (caption_group, document_group)
            for text in text_by_text(make(seed, _UNSEEN + index, drawing))
        ]
        self._preparer = preparer

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: int) -> list[PreparedGroup]:
        """The text, as a group of its own."""
        return [prepare_group(self._preparer, self._texts[index])]


_UNSEEN = 10**12
"""Training never counts its groups so far."""


def _drawing(wanted: Rendered, family: str) -> Drawing:
    return Drawing(family=family, encoding="BMP", blank=wanted.blank_images, aspect=wanted.aspect)
