"""Writing the files of an export, each noted in its journal."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from mmsieve.errors import RequestError, ShardError
from mmsieve.exporting.captions import CaptionChange, CaptionEdit, FinalCaptions
from mmsieve.exporting.items import write_items
from mmsieve.exporting.pictures import ImageCopies
from mmsieve.exporting.plan import REPACKED, ExportFile, ExportPart, ExportPlan, KeptSamples
from mmsieve.exporting.rows import ItemsOf, Places
from mmsieve.exporting.sample_rows import write_samples
from mmsieve.exporting.samples import OWN_NAMES, ImageNames, KeptReader, TarSample
from mmsieve.exporting.tars import ExportEntry, Tar, sample_runs, write_tar
from mmsieve.outputs import write_atomically
from mmsieve.progress import Advance
from mmsieve.read import ReadOptions
from mmsieve.read.captions import CaptionItemParser
from mmsieve.read.instructions import InstructionParser
from mmsieve.read.shards import open_shard
from mmsieve.sources import local_path
from mmsieve.wording import counted


class Notes(Protocol):
    """Where it is noted which files are written: the journal, or what is added to it later."""

    def add(self, entry: ExportEntry) -> set[str]:
        """Note a unit as finished; returns the names of tars that it had and has no more."""


@dataclass(frozen=True)
class Exporter:
    """Writes a plan's files and notes them in the journal."""

    decisions: KeptSamples
    read: ReadOptions
    out: Path
    journal: Notes
    captions: FinalCaptions | None = None
    names: ImageNames = OWN_NAMES
    pictures: ImageCopies | None = None
    """Where image files are copied, if they are to be."""
    folders: Mapping[str, Path] = field(default_factory=dict)
    """URL of a source file -> the folder for them."""

    @property
    def trial(self) -> int | None:
        """Samples of the trial run that decisions or captions are of, if they are of one."""
        return self.decisions.limit or (self.captions.limit if self.captions else None)

    def mirror(
        self, files: Sequence[tuple[ExportFile, str]], workers: int, advance: Advance
    ) -> dict[str, str]:
        """One file per source, with its name; returns what failed of which.

        `files`: each with the digest of what it depends on.
        """
        failed: dict[str, str] = {}
        with ThreadPoolExecutor(workers, "mmsieve-export") as pool:
            futures = {pool.submit(self.write, file, id_): file for file, id_ in files}
            try:
                for future in as_completed(futures):
                    file = futures[future]
                    failed |= named(file.label, future.result())
                    advance(file.count, file.size)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return failed

    def write(self, file: ExportFile, identity: str) -> list[str]:
        """Write and note one file; returns what could not be exported."""
        ways = {"tar": self._write_tar, "samples": self._write_rows, "items": self._write_items}
        return ways[file.way](file, identity)

    def note(self, entry: ExportEntry) -> None:
        """Note a unit as finished, and remove what it had and has no more."""
        for name in self.journal.add(entry):
            (self.out / name).unlink(missing_ok=True)  # of an earlier export that failed

    def repack(
        self, plan: ExportPlan, size: int, identity: str, advance: Advance
    ) -> dict[str, str]:
        """Numbered tars of `size` samples, those of all shards one after the other.

        They are done again where a shard has failed, also one that wasn't even begun.
        """
        failed: dict[str, str] = {}

        def all_samples() -> Iterator[TarSample]:
            for part in (part for file in plan.files for part in file.parts):
                samples = self._select(part)
                yield from samples
                failed.update(named(part.shard.name, samples.problems))
                advance(part.count, part.shard.size)

        tars: list[Tar | None] = []
        for run in sample_runs(all_samples(), size):
            tars.append(write_tar(self.out, f"{len(tars):08d}.tar", run))
        self._note(REPACKED, identity, tars, not failed and not plan.failed)
        return failed

    def _select(self, part: ExportPart) -> KeptReader:
        kept = self.decisions.kept(part.shard.name)[: part.count]
        changes = None if self.captions is None else self.captions.changes(part.shard.name)
        return KeptReader(part.shard, kept, self.read, changes, self.names)

    def _write_tar(self, file: ExportFile, identity: str) -> list[str]:
        """Write the tar of one shard; returns what could not be exported.

        It is noted after what had its name is gone and before it gets it: whenever a run is
        killed, a tar that is there and noted is the one that was noted.
        """
        (part,) = file.parts
        samples = self._select(part)

        def note(tar: Tar | None) -> None:
            self._forget(file)
            self._note(file.unit, identity, [tar], not samples.problems)

        try:
            if not part.count or write_tar(self.out, file.name, samples, note) is None:
                note(None)
        except ShardError as error:
            samples.problems.append(str(error))
            note(None)
        return samples.problems

    def _write_rows(self, file: ExportFile, identity: str) -> list[str]:
        """Write the samples of one shard as rows; returns what could not be exported."""
        (part,) = file.parts
        samples = self._select(part)
        self._forget(file)
        counts: list[int] = []

        def write(temporary: Path) -> None:
            found = samples.samples()
            counts.append(write_samples(temporary, found, self.names, samples.problems))

        made = []
        if part.count:
            write_atomically(self.out / file.name, write)
            made.append(self._described(file, counts[0]))
        self._note(file.unit, identity, made, not samples.problems)
        return samples.problems

    def _write_items(self, file: ExportFile, identity: str) -> list[str]:
        """Write the kept items of one source file; returns what could not be exported."""
        self._forget(file)
        shards = [part.shard for part in file.parts]
        problems: list[str] = []
        try:
            places = self._places(file)
            if self.pictures is not None:
                folder = self.folders[shards[0].url]
                problems = self.pictures.copy(shards, places, self.read, folder)
            with local_path(shards[0]) as path:
                part = ItemsOf(Path(path), places, shards[0].suffix)
                write_items(self.out / file.name, [part], self._edit(file))
        except (ShardError, RequestError) as error:
            self._note(file.unit, identity, [], complete=False)
            return [str(error)]
        tar = self._described(file, len(places))
        self._note(file.unit, identity, [tar], complete=not problems)
        return problems

    def _places(self, file: ExportFile) -> Places:
        """The places of a file's kept items, ascending; raises ShardError for rows without."""
        kept = [
            one for part in file.parts for one in self.decisions.kept(part.shard.name)[: part.count]
        ]
        if any(one.place is None for one in kept):
            raise ShardError("the decisions don't say where its rows are: make them with filter")
        return np.array(sorted(one.place or 0 for one in kept), np.int64)

    def _edit(self, file: ExportFile) -> CaptionEdit | None:
        """What puts final captions into items, if they are asked for; raises ShardError."""
        if self.captions is None:
            return None
        shard = file.parts[0].shard
        if shard.names is not None:
            raise ShardError("its manifest names its fields: final captions need --format tar")
        with open_shard(shard, self.read) as reader:
            parser = reader.parse
        if not isinstance(parser, CaptionItemParser | InstructionParser):
            raise ShardError(f"{reader.layout} hold no captions to be replaced")
        changes: dict[int, CaptionChange] = {}
        for part in file.parts:
            changes |= self.captions.changes(part.shard.name)
        return CaptionEdit(changes, parser.put_caption)

    def _described(self, file: ExportFile, samples: int) -> Tar:
        path = self.out / file.name
        with path.open("rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        sources = tuple(part.shard.name for part in file.parts)
        return Tar(file.name, samples, path.stat().st_size, sha256, sources)

    def _forget(self, file: ExportFile) -> None:
        (self.out / file.name).unlink(missing_ok=True)

    def _note(self, unit: str, identity: str, tars: Sequence[Tar | None], complete: bool) -> None:
        written = tuple(tar for tar in tars if tar is not None)
        self.note(ExportEntry(unit=unit, identity=identity, tars=written, complete=complete))


def named(label: str, problems: Sequence[str]) -> dict[str, str]:
    """What failed of a shard or file, in a line; {} where nothing did."""
    if not problems:
        return {}
    more = f" (and {counted(len(problems) - 1, 'more problems')})" if len(problems) > 1 else ""
    return {label: problems[0] + more}
