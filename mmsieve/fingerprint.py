"""Fingerprints of files: cheap on gigabytes of weights, sure to notice another checkpoint.

Small files are hashed whole. Of weights: the size, the safetensors header (names, types, shapes,
offsets) and blocks spread evenly over the data, which any training step changes.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

_BLOCKS = 64
_BLOCK = 4096


def hash_files(files: Iterable[Path]) -> str:
    """One short hash over files, by name and content; a missing file is one that is empty."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda path: path.name):
        if file.is_file():
            digest.update(f"{file.name}\0".encode())
            _update(digest, file)
    return digest.hexdigest()[:16]


def _update(digest: "hashlib._Hash", file: Path) -> None:
    size = file.stat().st_size
    digest.update(f"{size}\0".encode())
    with file.open("rb") as opened:
        if file.suffix != ".safetensors":
            digest.update(opened.read())
            return
        header = min(int.from_bytes(opened.read(8), "little"), size)
        digest.update(opened.read(header))
        start = 8 + header
        step = max(_BLOCK, (size - start) // _BLOCKS)
        for offset in [*range(start, size, step), max(start, size - _BLOCK)]:
            opened.seek(offset)
            digest.update(opened.read(_BLOCK))
