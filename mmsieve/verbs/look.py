"""look: what sources are recognised as, how many samples they have, and the first as text."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from mmsieve.errors import MmsieveError, SampleError
from mmsieve.images import ImageLimits, extension_of, read_size
from mmsieve.keywords import flat_options
from mmsieve.read import ReadOptions, Record, ShardReader, parse_record
from mmsieve.read.shards import open_shard, split_files
from mmsieve.reports import Printed
from mmsieve.sample import Image, Text, collect_notes
from mmsieve.sources import Shard, find_files
from mmsieve.wording import counted

_MOST_FILES = 20
_MOST_TEXT = 500


@dataclass(frozen=True, kw_only=True)
class LookReport(Printed):
    """What sources are recognised as."""

    files: list[str] = field(default_factory=list)
    """A line per file: its layout and counts, or why it can't be read."""
    sample: tuple[str, ...] = ()
    """The first sample, as lines."""
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """All of it."""
        return "\n".join([*self.notes, *self.files, *self.sample])


@flat_options
def look(*sources: str, read: ReadOptions | None = None) -> LookReport:
    """Say what sources are recognised as, how many samples they have, and show the first sample.

    Parameters
    ----------
    sources
        Paths, globs, brace patterns, folders or URLs of shards.
    """
    options = read or ReadOptions()
    found = find_files(sources)
    shards = split_files(found.files, options)
    by_file = [list(group) for _, group in groupby(shards, lambda shard: shard.url)]
    lines: list[str] = []
    sample: tuple[str, ...] = ()
    for group in by_file[:_MOST_FILES]:
        line, first = _look_into(group, options)
        lines.append(line)
        sample = sample or first
    if len(by_file) > _MOST_FILES:
        lines.append(f"and {counted(len(by_file) - _MOST_FILES, 'more files')}")
    lines.append(f"{counted(len(by_file), 'files')}, {counted(len(shards), 'shards')}")
    return LookReport(files=lines, sample=sample, notes=found.notes)


def _look_into(shards: Sequence[Shard], options: ReadOptions) -> tuple[str, tuple[str, ...]]:
    """A file's line, and its first sample."""
    try:
        with open_shard(shards[0], options) as reader:
            layout, count = reader.layout, reader.count
            record = next(reader.records, None)
            sample = () if record is None else tuple(_sample_lines(reader, record))
    except MmsieveError as error:
        return f"{shards[0].url}: {error}", ()
    count += sum((shard.stop or 0) - shard.start for shard in shards[1:])
    return f"{shards[0].url}: {layout}, {counted(count, 'samples')}", sample


def _sample_lines(reader: ShardReader, record: Record) -> Iterator[str]:
    """The first sample as text: its parts in order, its turns, its metadata."""
    yield f"first sample: {record.key}"
    try:
        with collect_notes() as notes:
            sample = parse_record(reader.parse, record)
    except SampleError as error:
        yield f"  {error.status.value}: {error}"
        return
    yield f"  kind: {sample.kind}"
    for part in sample.parts:
        yield f"  {_short(part.text)}" if isinstance(part, Text) else f"  [{_image(part)}]"
    yield from (f"  {turn.role}: {_short(turn.text)}" for turn in sample.turns)
    if sample.metadata:
        yield f"  metadata: {_short(json.dumps(sample.metadata, default=str))}"
    yield from (f"  note: {note}" for note in sorted(notes))


def _image(image: Image) -> str:
    page = f", page {image.frame}" if image.frame else ""
    try:
        width, height = read_size(image.data, ImageLimits(), image.frame)
        kind = extension_of(image.data)
    except SampleError as error:
        return f"image, {image.problem or f'{error.status.value}: {error}'}"
    return f"{kind} image, {width} x {height} pixels, {counted(len(image.data), 'bytes')}{page}"


def _short(text: str) -> str:
    plain = "".join(letter if letter.isprintable() else " " for letter in text)
    return plain if len(plain) <= _MOST_TEXT else f"{plain[:_MOST_TEXT]}... ({len(plain):,})"
