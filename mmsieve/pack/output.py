"""Output tars: written under another name, checked by reading them back, then named."""

import hashlib
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mmsieve.errors import ShardError
from mmsieve.pack.selection import Packed
from mmsieve.read.tar import index_tar
from mmsieve.table import write_atomically


@dataclass(frozen=True, kw_only=True)
class Tar:
    """What the manifest says of an output tar."""

    name: str
    samples: int
    bytes: int
    sha256: str
    sources: tuple[str, ...]
    """The source shards whose samples it holds."""


def write_tar(
    folder: Path,
    name: str,
    samples: Iterable[Packed],
    whole: Callable[[Tar], object] = lambda tar: None,
) -> Tar | None:
    """Write one tar of samples; None, and no file, where there are none.

    `whole` is called when all is written and checked, just before the tar gets its name.
    """
    iterator = iter(samples)
    first = next(iterator, None)
    if first is None:
        return None
    writing = _Writing(name, first, iterator, whole)
    write_atomically(folder / name, writing)
    return writing.tar()


class _Writing:
    """Writes the samples to a temporary file, which must read back as what was meant."""

    def __init__(
        self, name: str, first: Packed, rest: Iterator[Packed], whole: Callable[[Tar], object]
    ) -> None:
        self._name, self._first, self._rest, self._whole = name, first, rest, whole
        self.written: list[tuple[str, tuple[tuple[str, int], ...]]] = []
        self.sources: dict[str, None] = {}
        self.digest = hashlib.sha256()
        self.size = 0

    def tar(self) -> Tar:
        """What was written."""
        return Tar(
            name=self._name,
            samples=len(self.written),
            bytes=self.size,
            sha256=self.digest.hexdigest(),
            sources=tuple(self.sources),
        )

    def __call__(self, temporary: Path) -> None:
        with temporary.open("wb") as file:
            for block in self._blocks():
                file.write(block)
                self.digest.update(block)
                self.size += len(block)
        with temporary.open("rb") as file:
            index = index_tar(file)
        found = [
            (group.key, tuple((name, member.size) for name, member in group.members.items()))
            for group in index.groups
        ]
        if index.problem is not None or found != self.written:
            raise ShardError(
                "the tar written from it doesn't read back as the same samples "
                f"({index.problem or 'other members'}): please report this"
            )
        self._whole(self.tar())

    def _blocks(self) -> Iterator[bytes]:
        sample: Packed | None = self._first
        while sample is not None:
            self.written.append((sample.key, sample.sizes))
            self.sources[sample.shard] = None
            yield sample.data
            sample = next(self._rest, None)
        end = 2 * tarfile.BLOCKSIZE
        yield bytes(end + -(self.size + end) % tarfile.RECORDSIZE)


class Repacked:
    """Cuts a stream of samples into runs of `size`; no run holds a key twice."""

    def __init__(self, samples: Iterable[Packed], size: int) -> None:
        self._samples = iter(samples)
        self._size = size
        self._next = next(self._samples, None)

    def runs(self) -> Iterator[Iterator[Packed]]:
        """The runs one after the other: each must be read to its end before the next."""
        while self._next is not None:
            yield self._run()

    def _run(self) -> Iterator[Packed]:
        keys: set[str] = set()
        while self._next is not None and len(keys) < self._size and self._next.key not in keys:
            keys.add(self._next.key)
            yield self._next
            self._next = next(self._samples, None)
