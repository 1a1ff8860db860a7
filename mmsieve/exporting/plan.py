"""Exporting: which kept samples each source shard has, and which files they go into."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, TypeAlias

from mmsieve.decisions import Decisions, Kept
from mmsieve.errors import RequestError
from mmsieve.exporting.captions import FinalCaptions
from mmsieve.exporting.tars import digest
from mmsieve.identity import SourceShards
from mmsieve.read.layouts import TABLES
from mmsieve.sources import TAR, Shard
from mmsieve.wording import counted

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


Form: TypeAlias = Literal["tar", "parquet", "source"]
Way: TypeAlias = Literal["tar", "samples", "items"]
"""How a file is made: a tar of members, rows of parsed samples, or items as they came."""


@dataclass(frozen=True)
class ExportFile:
    """A file to write, the unit of work and of resume."""

    unit: str
    """What journals call it."""
    name: str
    """Its path below the folder of the export."""
    way: Way
    parts: tuple[ExportPart, ...]
    """The shards whose samples it holds."""

    @property
    def count(self) -> int:
        """Kept samples."""
        return sum(part.count for part in self.parts)

    @property
    def size(self) -> int:
        """Bytes of the shards that are read for it."""
        return sum(part.shard.size for part in self.parts)

    @property
    def label(self) -> str:
        """What it is called where it is said what failed: a shard, or the file."""
        return self.parts[0].shard.name if self.way != "items" else self.name


@dataclass(frozen=True)
class ExportPlan:
    """What is exported."""

    parts: tuple[ExportPart, ...]
    failed: dict[str, str]
    """Shards with kept samples that can't be exported, and why."""
    form: Form = "tar"
    settings: tuple[str, ...] = ()
    """What else the output depends on, as words."""

    @property
    def kept(self) -> int:
        """Kept samples of all shards."""
        return sum(part.count for part in self.parts)

    @cached_property
    def files(self) -> list[ExportFile]:
        """The files to write where each has the name of a source: a shard's, or a whole file's."""
        found: dict[str, ExportFile] = {}
        for part in self.parts:
            shard = part.shard
            if self.form == "tar" or (self.form == "source" and shard.suffix in TAR):
                found[shard.name] = ExportFile(shard.name, f"{shard.name}.tar", "tar", (part,))
            elif self.form == "parquet" and shard.suffix not in TABLES:
                name = f"{shard.name}.parquet"
                found[name] = ExportFile(name, name, "samples", (part,))
            else:
                name = file_name(shard, self.form)
                before = found[name].parts if name in found else ()
                found[name] = ExportFile(name, name, "items", (*before, part))
        return list(found.values())

    def identities(self, shard_size: int | None) -> dict[str, str]:
        """Unit of work -> digest of what its output depends on."""
        if shard_size is not None:
            words = [part.identity for part in self.parts]
            return {REPACKED: digest([str(shard_size), *words, *self.settings])}
        return {file.unit: self._identity(file) for file in self.files}

    def _identity(self, file: ExportFile) -> str:
        words = [*(part.identity for part in file.parts), *self.settings]
        return words[0] if file.way == "tar" and len(words) == 1 else digest(words)


def file_name(shard: Shard, form: Form) -> str:
    """The name of the file that items of a source file are written into."""
    name = shard.name.removesuffix(f"-{shard.name[-6:]}")
    return name + (".parquet" if form == "parquet" else shard.suffix)


KeptSamples: TypeAlias = Decisions | FinalCaptions
"""Which samples are exported: those of decisions, or all that a table has captions of."""


def make_plan(
    shards: Sequence[Shard],
    decisions: KeptSamples,
    limit: int | None,
    captions: FinalCaptions | None = None,
    form: Form = "tar",
    settings: Sequence[str] = (),
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
            failed[name] = f"{counted(count, 'kept samples')} of it, and it isn't among the SOURCEs"
    without = [shard.name for shard in shards if shard not in named]
    if without:
        raise RequestError(
            f"{decisions.label}: none for {len(without):,} of {len(shards):,} shards, the "
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
    return ExportPlan(tuple(parts), failed, form, tuple(settings))


def _words(kept: Sequence[Kept]) -> Iterator[str]:
    """What says which samples are kept: keys, as journals have had, and the place of a repeat."""
    seen: set[str] = set()
    for one in kept:
        yield f"{one.key}\0{one.place}" if one.key in seen else one.key
        seen.add(one.key)
