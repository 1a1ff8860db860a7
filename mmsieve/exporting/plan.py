"""Exporting: which kept samples each source shard has, and the two ways to write them."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from mmsieve.decisions import Decisions, Kept
from mmsieve.errors import RequestError, ShardError
from mmsieve.exporting.items import write_items
from mmsieve.exporting.samples import FinalCaptions, KeptReader, TarSample
from mmsieve.exporting.tars import ExportEntry, ExportJournal, Tar, digest, sample_runs, write_tar
from mmsieve.identity import SourceShards
from mmsieve.progress import Advance
from mmsieve.read import ReadOptions
from mmsieve.sources import Shard

REPACKED = "all shards"
"""The unit of work of an export that doesn't mirror the source shards."""


@dataclass(frozen=True)
class ExportPart:
    """One source shard of an export."""

    shard: Shard
    count: int
    """Kept samples, of a trial run only its part of them."""
    identity: str
    """A digest of what its output depends on: its kept samples, and the source."""


@dataclass(frozen=True)
class ExportPlan:
    """What is exported."""

    parts: tuple[ExportPart, ...]
    failed: dict[str, str]
    """Shards with kept samples that can't be exported, and why."""

    @property
    def kept(self) -> int:
        """Kept samples of all shards."""
        return sum(part.count for part in self.parts)

    def by_file(self) -> dict[str, list[ExportPart]]:
        """Name of a file to write -> the parts of the source file whose items it holds."""
        files: dict[str, list[ExportPart]] = {}
        for part in self.parts:
            name = part.shard.name.removesuffix(f"-{part.shard.name[-6:]}")
            files.setdefault(name + part.shard.suffix, []).append(part)
        return files

    def identities(self, shard_size: int | None, as_source: bool) -> dict[str, str]:
        """Unit of work -> digest of what its output depends on."""
        if as_source:
            files = self.by_file().items()
            return {name: digest([part.identity for part in parts]) for name, parts in files}
        if shard_size is None:
            return {part.shard.name: part.identity for part in self.parts}
        words = [part.identity for part in self.parts]
        return {REPACKED: digest([str(shard_size), *words])}


KeptSamples: TypeAlias = Decisions | FinalCaptions
"""Which samples are exported: those of decisions, or all that a table has captions of."""


def make_plan(
    shards: Sequence[Shard],
    decisions: KeptSamples,
    limit: int | None,
    captions: FinalCaptions | None = None,
) -> ExportPlan:
    """Match shards and decisions; raises RequestError where a shard has none."""
    known = SourceShards(shards)
    named: dict[Shard, str] = {}
    failed = {}
    for name in decisions.shards:
        shard, problem = known.find(decisions.source(name))
        if shard is not None:
            named[shard] = name
        if problem and shard is not None:
            failed[name] = problem
        elif problem and (count := len(decisions.kept(name))):
            failed[name] = f"{count} samples are kept of it and it isn't among the SOURCEs"
    without = [shard.name for shard in shards if shard not in named]
    if without:
        raise RequestError(
            f"{decisions.label}: none for {len(without)} of {len(shards)} shards, the "
            f"first is {without[0]}: export the same SOURCEs that were scored"
        )
    parts = []
    left = limit
    for shard in shards:
        name = named[shard]
        if name in failed:
            continue
        kept = decisions.kept(name)[:left]
        words = [name, str(shard.size), str(shard.start), str(shard.stop), *_words(kept)]
        if captions is not None:
            changes = captions.changes(name)
            words += [f"{change.key} {change.identity}" for change in changes.values()]
        parts.append(ExportPart(replace(shard, name=name), len(kept), digest(words)))
        left = None if left is None else left - len(kept)
    return ExportPlan(tuple(parts), failed)


def _words(kept: Sequence[Kept]) -> Iterator[str]:
    """What says which samples are kept: keys, as journals have had, and the place of a repeat."""
    seen: set[str] = set()
    for one in kept:
        yield f"{one.key}\0{one.place}" if one.key in seen else one.key
        seen.add(one.key)


@dataclass(frozen=True)
class Exporter:
    """Writes a plan's tars and notes them in the journal."""

    decisions: KeptSamples
    read: ReadOptions
    out: Path
    journal: ExportJournal
    captions: FinalCaptions | None = None

    @property
    def trial(self) -> int | None:
        """Samples of the trial run that decisions or captions are of, if they are of one."""
        return self.decisions.limit or (self.captions.limit if self.captions else None)

    def mirror(self, parts: Sequence[ExportPart], workers: int, advance: Advance) -> dict[str, str]:
        """One tar per source shard, with its name; returns what failed of which shard."""
        failed: dict[str, str] = {}
        with ThreadPoolExecutor(workers, "mmsieve-export") as pool:
            futures = {pool.submit(self._copy, part): part for part in parts}
            try:
                for future in as_completed(futures):
                    part = futures[future]
                    failed |= _named(part, future.result())
                    advance(part.count, part.shard.size)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return failed

    def repack(
        self, parts: Sequence[ExportPart], size: int, identity: str, advance: Advance
    ) -> dict[str, str]:
        """Numbered tars of `size` samples, those of all shards one after the other."""
        failed: dict[str, str] = {}

        def all_samples() -> Iterator[TarSample]:
            for part in parts:
                samples = self._select(part)
                yield from samples
                failed.update(_named(part, samples.problems))
                advance(part.count, part.shard.size)

        tars: list[Tar | None] = []
        for run in sample_runs(all_samples(), size):
            tars.append(write_tar(self.out, f"{len(tars):08d}.tar", run))
        self._note(REPACKED, identity, tars, not failed)
        return failed

    def copy_items(
        self,
        files: Mapping[str, Sequence[ExportPart]],
        identities: Mapping[str, str],
        advance: Advance,
    ) -> None:
        """The kept items of each file, in the form in which they came, under its name."""
        for name, parts in files.items():
            kept = [
                one for part in parts for one in self.decisions.kept(part.shard.name)[: part.count]
            ]
            places = np.array([one.place for one in kept], np.int64)
            path = self.out / name
            path.unlink(missing_ok=True)
            write_items(path, [(Path(parts[0].shard.url), np.sort(places))])
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            sources = tuple(part.shard.name for part in parts)
            tar = Tar(name, len(kept), path.stat().st_size, sha256, sources)
            self._note(name, identities[name], [tar], complete=True)
            advance(len(kept), sum(part.shard.size for part in parts))

    def _select(self, part: ExportPart) -> KeptReader:
        kept = self.decisions.kept(part.shard.name)[: part.count]
        changes = None if self.captions is None else self.captions.changes(part.shard.name)
        return KeptReader(part.shard, kept, self.read, changes)

    def _copy(self, part: ExportPart) -> list[str]:
        """Write the tar of one shard; returns what could not be exported.

        It is noted after what had its name is gone and before it gets it: whenever a run is
        killed, a tar that is there and noted is the one that was noted.
        """
        samples = self._select(part)
        name, identity = part.shard.name, part.identity

        def note(tar: Tar | None) -> None:
            (self.out / f"{name}.tar").unlink(missing_ok=True)
            self._note(name, identity, [tar], not samples.problems)

        try:
            if not part.count or write_tar(self.out, f"{name}.tar", samples, note) is None:
                note(None)
        except ShardError as error:
            samples.problems.append(str(error))
            note(None)
        return samples.problems

    def _note(self, unit: str, identity: str, tars: Sequence[Tar | None], complete: bool) -> None:
        written = tuple(tar for tar in tars if tar is not None)
        entry = ExportEntry(unit=unit, identity=identity, tars=written, complete=complete)
        for name in self.journal.add(entry):
            (self.out / name).unlink(missing_ok=True)  # of an earlier export that failed


def _named(part: ExportPart, problems: Sequence[str]) -> dict[str, str]:
    if not problems:
        return {}
    more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
    return {part.shard.name: problems[0] + more}
