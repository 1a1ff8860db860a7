"""Samples into tars in the layouts that `score` reads, so that a pipeline can be tried on them."""

from collections.abc import Iterable
from pathlib import Path

from mmsieve.pack.members import member_bytes, sample_members
from mmsieve.sample import Sample
from mmsieve.table import write_atomically

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
