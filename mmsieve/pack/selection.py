"""Selection: the kept samples of one source shard, as bytes ready for an output tar."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeAlias

from mmsieve.errors import SampleError, ShardError
from mmsieve.pack.captions import Change
from mmsieve.pack.members import member_bytes, sample_members
from mmsieve.read import ReadOptions, open_shard, parse_record
from mmsieve.read.captions import parse_object
from mmsieve.read.records import Record
from mmsieve.read.tar import BLOCK, Group, Member, index_tar
from mmsieve.sample import Image, Sample, Text
from mmsieve.sources import TAR, Shard, local_path

Sizes: TypeAlias = tuple[tuple[str, int], ...]
"""Extension and size of each member."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A sample as it stands in a tar."""

    key: str
    shard: str
    """The source shard."""
    sizes: Sizes
    data: bytes = field(repr=False)
    """Its members with their headers."""


class Selection:
    """Iterates over the kept samples of a shard, in the order of its samples.

    A tar's members are copied as they are, header and bytes, but for a caption that `changes`.
    After the iteration `problems` says what could not be had; nothing is raised for it, so that
    the rest is exported.
    """

    def __init__(
        self,
        shard: Shard,
        keys: Sequence[str],
        read: ReadOptions,
        changes: Mapping[str, Change] | None = None,
    ) -> None:
        self.problems: list[str] = []
        self._shard = shard
        self._missing = dict.fromkeys(keys)
        self._read = read
        self._changes = changes or {}

    def __iter__(self) -> Iterator[Packed]:
        copy = self._from_tar if self._shard.suffix in TAR else self._from_records
        try:
            yield from copy()
        except (ShardError, OSError) as error:
            self.problems.append(str(error))
        if self._missing:
            count, first = len(self._missing), next(iter(self._missing))
            self.problems.append(f"{count} kept samples aren't in it, the first is {first!r}")

    def _from_tar(self) -> Iterator[Packed]:
        with local_path(self._shard) as path, Path(path).open("rb") as file:
            index = index_tar(file)
            for group in index.groups:
                if group.is_duplicate or not self._take(group.key):
                    continue
                if _leaves_folder(group.key):
                    self.problems.append(f"{group.key!r} is no name to write: left out")
                    continue
                sizes, data = _members(file, group)
                change = self._changes.get(group.key)
                if change is not None:
                    try:
                        sizes, data = _changed(file, group, change)
                    except SampleError as error:
                        self.problems.append(f"{group.key!r} keeps its caption: {error}")
                yield Packed(group.key, self._shard.name, sizes, data)
            if index.problem is not None:
                raise ShardError(index.problem)

    def _from_records(self) -> Iterator[Packed]:
        with open_shard(self._shard, self._read) as reader:
            for record in reader.records:
                if record.problem is not None or not self._take(record.key):
                    continue
                try:
                    sample = _retold(
                        parse_record(reader.parse, record), self._changes.get(record.key)
                    )
                    sample.metadata.update(_more_metadata(record))
                    members = list(sample_members(sample))
                except SampleError as error:
                    self.problems.append(f"{record.key!r} left out: {error}")
                    continue
                key = members[0][0].partition(".")[0]
                sizes = tuple((n.removeprefix(key + "."), len(data)) for n, data in members)
                data = b"".join(member_bytes(name, data) for name, data in members)
                yield Packed(key, self._shard.name, sizes, data)

    def _take(self, key: str) -> bool:
        """Whether a sample is kept; each key once."""
        if key not in self._missing:
            return False
        del self._missing[key]
        return True


def _members(file: BinaryIO, group: Group) -> tuple[Sizes, bytes]:
    """The blocks of a sample's members, one after the other, as they stand in the archive."""
    sizes = tuple((name, member.size) for name, member in group.members.items())
    return sizes, b"".join(_blocks(file, group, member) for member in group.members.values())


def _blocks(file: BinaryIO, group: Group, member: Member) -> bytes:
    file.seek(member.start)
    data = file.read(member.stop - member.start)
    if len(data) < member.data - member.start + member.size:
        raise ShardError(f"ends inside {group.key!r}: it has changed")
    return data + bytes(-len(data) % BLOCK)  # the last one's padding may be cut off


def _changed(file: BinaryIO, group: Group, change: Change) -> tuple[Sizes, bytes]:
    """The members with another caption; the json member that tells of it may be a new, last one."""
    own = group.members.get("json")
    told = change.json_member(None if own is None else _content(file, own))
    new = {"txt": change.text.encode(), "json": told}
    sizes: list[tuple[str, int]] = []
    blocks: list[bytes] = []
    for name in [*group.members, *(new.keys() - group.members.keys())]:
        if name in new:
            blocks.append(member_bytes(f"{group.key}.{name}", new[name]))
            sizes.append((name, len(new[name])))
        else:
            blocks.append(_blocks(file, group, group.members[name]))
            sizes.append((name, group.members[name].size))
    return tuple(sizes), b"".join(blocks)


def _content(file: BinaryIO, member: Member) -> bytes:
    file.seek(member.data)
    return file.read(member.size)


def _retold(sample: Sample, change: Change | None) -> Sample:
    if change is None:
        return sample
    images = tuple(part for part in sample.parts if isinstance(part, Image))
    metadata = change.told(sample.metadata)
    return replace(sample, parts=(*images, Text(change.text)), metadata=metadata)


def _leaves_folder(key: str) -> bool:
    return key.startswith("/") or ".." in PurePosixPath(key).parts


def _more_metadata(record: Record) -> dict[str, Any]:
    """What a document of MMC4 says of its images: where they are from, how they are matched.

    Not as `image_info`: readers would take that for OBELICS' list of images.
    """
    if "line" not in record.fields:
        return {}
    return {"mmc4_image_info": parse_object(record.fields["line"]).get("image_info")}
