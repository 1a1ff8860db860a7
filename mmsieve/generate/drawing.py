"""Drawing: a whole generation by the rendered teacher, into the training files."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from mmsieve.errors import RequestError
from mmsieve.generate.files import TrainingFiles
from mmsieve.generate.groups import Group
from mmsieve.generate.options import GenerateOptions
from mmsieve.generate.prompts import What
from mmsieve.generate.rendered import Drawing, caption_group, document_group
from mmsieve.generate.shards import write_shards
from mmsieve.levels import LEVELS
from mmsieve.progress import show_progress
from mmsieve.rendered.scenes import WORLDS
from mmsieve.sample import Sample
from mmsieve.shard_job import Progress as Advance

SHARDS = "shards"
"""Folder of the tars, beside the training files."""

_MakeGroup: TypeAlias = Callable[[int, int, Drawing], Group]
_Piece: TypeAlias = tuple[Group, bool]
"""A group with the texts that are wanted, and whether they are for validation."""


def check_drawing(what: What, options: GenerateOptions) -> None:
    """Raise RequestError for what can't be drawn."""
    if what == "documents" and not WORLDS[options.family].has_things:
        raise RequestError(f"--family {options.family}: documents are written over core or many")


def draw(what: What, out: Path, options: GenerateOptions) -> tuple[dict[str, int], int]:
    """Draw and write into a folder; returns the texts of each file, and how many tars."""
    make: _MakeGroup = caption_group if what == "captions" else document_group
    groups = -(-options.count // options.texts_per_image)
    files, tars = TrainingFiles(out), 0
    with show_progress(what, options.count, options.quiet, "texts") as advance:
        samples = _samples(_pieces(make, groups, options), files, advance)
        if options.shards:
            tars = write_shards(samples, out / SHARDS, options.shard_size)
        else:
            deque(samples, maxlen=0)
    return files.finish(), tars


def _pieces(make: _MakeGroup, groups: int, options: GenerateOptions) -> Iterator[_Piece]:
    rng = np.random.default_rng((options.seed, 7))
    val = set(rng.permutation(groups)[: round(groups * options.val_fraction)].tolist())
    levels = rng.integers(len(LEVELS), size=groups)
    drawing = Drawing(family=options.family, blank=options.blank_images)
    for index in range(groups):
        group = make(options.seed, index, drawing)
        texts = group.texts[: options.count - index * len(LEVELS)]
        if options.texts_per_image == 1:
            texts = group.texts[levels[index] :][:1]
        yield replace(group, texts=texts), index in val


def _samples(pieces: Iterator[_Piece], files: TrainingFiles, advance: Advance) -> Iterator[Sample]:
    """Write the groups to the training files, and give each text as a sample."""
    for group, is_val in pieces:
        files.add(group, is_val)
        for index, told in enumerate(group.texts):
            key = f"{group.key}-{index}"
            truth = {"uid": key, "level": int(told.label)}
            yield replace(group.sample(told), key=key, metadata=truth)
        advance(len(group.texts), len(group.texts))
