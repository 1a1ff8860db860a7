"""Journal: what an export has finished, so that it goes on where it stopped; then the manifest."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from mmsieve.errors import RequestError
from mmsieve.pack.output import Tar
from mmsieve.table import product_version, write_atomically

MANIFEST = "manifest.json"
_JOURNAL = ".export.jsonl"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One finished unit of work: a source shard, or a whole repacked export."""

    unit: str
    identity: str
    """A digest of everything that its tars depend on."""
    tars: tuple[Tar, ...]
    complete: bool
    """Whether nothing failed, so that it isn't done again."""


class Journal:
    """The finished units of an output folder, a line each, appended as they are finished."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = Lock()
        self._path = folder / _JOURNAL
        self.entries: dict[str, Entry] = {}
        if not self._path.exists():
            return
        for line in self._path.read_text().splitlines():
            try:
                entry = _entry(json.loads(line))
            except (ValueError, TypeError, KeyError):
                continue  # a line that a killed run left half written: its unit is done again
            self.entries[entry.unit] = entry

    def is_done(self, unit: str) -> bool:
        """Whether a unit needn't be done again: nothing of it failed, and its tars are there."""
        entry = self.entries.get(unit)
        return entry is not None and entry.complete and all(map(self._is_there, entry.tars))

    def _is_there(self, tar: Tar) -> bool:
        path = self._folder / tar.name
        return path.is_file() and path.stat().st_size == tar.bytes

    def add(self, entry: Entry) -> set[str]:
        """Note a unit as finished; returns the names of tars that it had and has no more."""
        with self._lock:
            before = self.entries.get(entry.unit)
            self.entries[entry.unit] = entry
            with self._path.open("a") as file:
                file.write("\n" + json.dumps(asdict(entry)) + "\n")
        had = () if before is None else before.tars
        return {tar.name for tar in had} - {tar.name for tar in entry.tars}

    def clear(self) -> None:
        """Forget all units and remove their tars."""
        for entry in self.entries.values():
            for tar in entry.tars:
                (self._folder / tar.name).unlink(missing_ok=True)
        self.entries = {}
        self._path.unlink(missing_ok=True)
        (self._folder / MANIFEST).unlink(missing_ok=True)

    def begin(self) -> None:
        """Mark the folder as an export's, before the first tar is written."""
        self._path.touch()

    def check(self, identities: dict[str, str], overwrite: bool) -> None:
        """Raise RequestError where the folder holds what this export may not replace or leave."""
        if not self._path.exists():
            tar = next(self._folder.rglob("*.tar"), None) if self._folder.is_dir() else None
            if tar is not None:
                raise RequestError(f"--out {self._folder}: {tar} isn't an export's: choose another")
        for unit, entry in () if overwrite else self.entries.items():
            same = not entry.complete or identities.get(unit) == entry.identity
            if unit not in identities or not same:
                raise RequestError(
                    f"--out {self._folder}: holds an export of other decisions, sources or options "
                    f"({unit}): choose another --out, or --overwrite"
                )


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
    text = json.dumps(manifest, indent=1) + "\n"
    write_atomically(folder / MANIFEST, lambda temporary: temporary.write_text(text))


def _entry(fields: dict[str, Any]) -> Entry:
    tars = tuple(Tar(**{**tar, "sources": tuple(tar["sources"])}) for tar in fields.pop("tars"))
    return Entry(**fields, tars=tars)
