"""Output tars: written under another name, checked, then named; and the journal of those."""

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any

from pydantic import TypeAdapter

from mmsieve import outputs
from mmsieve.errors import ShardError
from mmsieve.exporting.samples import Sizes, TarSample
from mmsieve.read.tar import index_tar
from mmsieve.sources import MANIFEST
from mmsieve.tables import product_version


@dataclass(frozen=True)
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
    samples: Iterable[TarSample],
    whole: Callable[[Tar], object] = lambda tar: None,
) -> Tar | None:
    """Write one tar of samples, if any; `whole` is called just before the tar gets its name."""
    iterator = iter(samples)
    first = next(iterator, None)
    if first is None:
        return None
    made: list[Tar] = []

    def write(temporary: Path) -> None:
        made.append(_write(temporary, name, chain([first], iterator)))
        whole(made[0])

    outputs.write_atomically(folder / name, write)
    return made[0]


def _write(file: Path, name: str, samples: Iterable[TarSample]) -> Tar:
    """Write a tar's samples, which must read back as what was meant."""
    written: list[tuple[str, Sizes]] = []
    sources: dict[str, None] = {}
    sha256, size = hashlib.sha256(), 0
    with file.open("wb") as out:
        for sample in samples:
            written.append((sample.key, sample.sizes))
            sources[sample.shard] = None
            out.write(sample.data)
            sha256.update(sample.data)
            size += len(sample.data)
        end = 2 * tarfile.BLOCKSIZE
        last = bytes(end + -(size + end) % tarfile.RECORDSIZE)
        out.write(last)
        sha256.update(last)
    with file.open("rb") as back:
        index = index_tar(back)
    found = [(g.key, tuple((n, m.size) for n, m in g.members.items())) for g in index.groups]
    if index.problem is not None or found != written:
        raise ShardError(
            "the tar written from it doesn't read back as the same samples "
            f"({index.problem or 'other members'}): please report this"
        )
    return Tar(name, len(written), size + len(last), sha256.hexdigest(), tuple(sources))


def sample_runs(samples: Iterable[TarSample], size: int) -> Iterator[Iterator[TarSample]]:
    """Runs of `size` samples, each to be read to its end before the next; none has a key twice."""
    stream = iter(samples)
    waiting = next(stream, None)

    def run() -> Iterator[TarSample]:
        nonlocal waiting
        keys: set[str] = set()
        while waiting is not None and len(keys) < size and waiting.key not in keys:
            keys.add(waiting.key)
            yield waiting
            waiting = next(stream, None)

    while waiting is not None:
        yield run()


# What an export has finished, so that it goes on where it stopped; then the manifest

_JOURNAL = ".export.jsonl"


@dataclass(frozen=True, kw_only=True)
class ExportEntry:
    """One finished unit of work: a source shard, or a whole repacked export."""

    unit: str
    identity: str
    """A digest of everything that its tars depend on."""
    tars: tuple[Tar, ...]
    complete: bool
    """Whether nothing failed, so that it isn't done again."""


class ExportJournal:
    """The finished units of an output folder, a line each, appended as they are finished."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = Lock()
        self._path = folder / _JOURNAL
        entries = outputs.read_lines(self._path, TypeAdapter(ExportEntry).validate_json)
        self.entries = {entry.unit: entry for entry in entries}
        named = (tar.name for entry in self.entries.values() for tar in entry.tars)
        outputs.check_below(folder, named)

    def is_done(self, unit: str) -> bool:
        """Whether a unit needn't be done again: nothing of it failed, and its tars are there."""
        entry = self.entries.get(unit)
        if entry is None or not entry.complete:
            return False
        files = [(self._folder / tar.name, tar.bytes) for tar in entry.tars]
        return all(path.is_file() and path.stat().st_size == size for path, size in files)

    def add(self, entry: ExportEntry) -> set[str]:
        """Note a unit as finished; returns the names of tars that it had and has no more."""
        with self._lock:
            before = self.entries.get(entry.unit)
            self.entries[entry.unit] = entry
            outputs.append_line(self._path, asdict(entry))
        had = () if before is None else before.tars
        return {tar.name for tar in had} - {tar.name for tar in entry.tars}

    def clear(self) -> None:
        """Forget all units and remove their tars."""
        for entry in self.entries.values():
            for tar in entry.tars:
                (self._folder / tar.name).unlink(missing_ok=True)
        self.entries = {}
        outputs.remove_place(self._path)
        (self._folder / MANIFEST).unlink(missing_ok=True)

    def begin(self) -> None:
        """Mark the folder as an export's, before the first tar is written."""
        outputs.begin_journal(self._path)

    def check(self, identities: dict[str, str], overwrite: bool) -> None:
        """Raise RequestError where the folder holds what this export may not replace or leave."""
        if not self._path.exists():
            outputs.check_unused(self._folder)
        for unit, entry in () if overwrite else self.entries.items():
            same = not entry.complete or identities.get(unit) == entry.identity
            if unit not in identities or not same:
                difference = f"choice of samples, source or option ({unit})"
                raise outputs.made_otherwise(self._folder, [difference])


def digest(words: Sequence[str]) -> str:
    """A digest of a list of words."""
    made = hashlib.blake2b(digest_size=16)
    for word in words:
        data = word.encode("utf-8", "surrogatepass")
        made.update(len(data).to_bytes(8, "little") + data)
    return made.hexdigest()


def write_manifest(
    folder: Path, tars: Sequence[Tar], failed: dict[str, str], limit: int | None
) -> None:
    """Write manifest.json, the last file of an export: what is in each tar, and totals."""
    manifest: dict[str, Any] = {
        "mmsieve": product_version(),
        "limit": limit,
        "samples": sum(tar.samples for tar in tars),
        "bytes": sum(tar.bytes for tar in tars),
        "tars": [asdict(tar) for tar in sorted(tars, key=lambda tar: tar.name)],
        "failed": dict(sorted(failed.items())),
    }
    outputs.write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
