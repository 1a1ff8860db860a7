"""A whole generation by the rendered teacher, into training files and tars."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmsieve.exporting.samples import member_bytes, sample_members
from mmsieve.generation.files import TrainingFiles
from mmsieve.generation.options import GenerateOptions
from mmsieve.generation.tasks.task import Task
from mmsieve.labels import LEVELS
from mmsieve.progress import Advance, show_progress
from mmsieve.sample import Sample
from mmsieve.synthetic.teacher import Drawing, Drawn
from mmsieve.tables import write_atomically

# Samples into tars in the layouts that `score` reads, so that a pipeline can be tried on them

_END = bytes(1024)
"""Two empty blocks end a tar."""


def write_shards(samples: Iterable[Sample], folder: Path, size: int) -> int:
    """Write 00000000.tar, 00000001.tar, ... of `size` samples each; returns how many tars."""
    folder.mkdir(parents=True, exist_ok=True)
    tars = 0
    held: list[bytes] = []
    for count, sample in enumerate(samples, 1):
        held.append(b"".join(member_bytes(*member) for member in sample_members(sample)))
        if count % size == 0:
            tars += _write(held, folder, tars)
            held = []
    return tars + (_write(held, folder, tars) if held else 0)


def _write(samples: list[bytes], folder: Path, index: int) -> int:
    def write(path: Path) -> None:
        path.write_bytes(b"".join([*samples, _END]))

    write_atomically(folder / f"{index:08d}.tar", write)
    return 1


# Drawing: a whole generation by the rendered teacher, into the training files

SHARDS = "shards"
"""Folder of the tars, beside the training files."""

_Piece = tuple[Drawn, bool]
"""Images with the records that are wanted, and whether they are for validation."""


def count_drawn(task: Task, options: GenerateOptions) -> int:
    """How many times something is drawn."""
    return -(-options.count // (1 if options.texts_per_image == 1 else task.each))


def draw(task: Task, out: Path, options: GenerateOptions) -> tuple[dict[str, int], int]:
    """Draw and write into a folder; returns the records of each file, and how many tars."""
    files, tars = TrainingFiles(out), 0
    with show_progress(task.name, options.count, options.quiet, task.noun) as advance:
        samples = _samples(_pieces(task, options), files, advance)
        if options.shards:
            tars = write_shards(samples, out / SHARDS, options.shard_size)
        else:
            deque(samples, maxlen=0)
    return files.finish(), tars


def _pieces(task: Task, options: GenerateOptions) -> Iterator[_Piece]:
    times = count_drawn(task, options)
    rng = np.random.default_rng((options.seed, 7))
    val = set(rng.permutation(times)[: round(times * options.val_fraction)].tolist())
    levels = rng.integers(len(LEVELS), size=times)
    drawing = Drawing(family=options.family, blank=options.blank_images)
    for index in range(times):
        drawn = task.draw(options.seed, index, drawing)
        records = drawn.records[: options.count - index * task.each]
        if options.texts_per_image == 1:
            records = drawn.records[levels[index] :][:1]
        yield replace(drawn, records=records), index in val


def _samples(pieces: Iterator[_Piece], files: TrainingFiles, advance: Advance) -> Iterator[Sample]:
    """Write what is drawn to the training files, and give each record as a sample."""
    for drawn, is_val in pieces:
        files.add_images(drawn.key, drawn.images)
        files.add(drawn.key, (record.fields for record in drawn.records), is_val)
        files.add_to_pool(record.item for record in drawn.records if record.item is not None)
        for index, record in enumerate(drawn.records):
            key = f"{drawn.key}-{index}"
            yield replace(record.sample, key=key, metadata={"uid": key} | record.sample.metadata)
        advance(len(drawn.records), len(drawn.records))
