"""Selection: the kept samples of one source shard, as bytes ready for an output tar."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from mmsieve.errors import SampleError, ShardError
from mmsieve.pack.members import member_bytes, sample_members
from mmsieve.read import ReadOptions, open_shard, parse_record
from mmsieve.read.captions import parse_object
from mmsieve.read.records import Record
from mmsieve.read.tar import BLOCK, Group, index_tar
from mmsieve.sources import TAR, Shard, local_path


@dataclass(frozen=True, slots=True)
class Packed:
    """A sample as it stands in a tar."""

    key: str
    shard: str
    """The source shard."""
    sizes: tuple[tuple[str, int], ...]
    """Extension and size of each member."""
    data: bytes = field(repr=False)
    """Its members with their headers."""


class Selection:
    """Iterates over the kept samples of a shard, in the order of its samples.

    A tar's members are copied as they are, header and bytes. After the iteration `problems` says
    what could not be had; nothing is raised for it, so that the rest is exported.
    """

    def __init__(self, shard: Shard, keys: Sequence[str], read: ReadOptions) -> None:
        self.problems: list[str] = []
        self._shard = shard
        self._missing = dict.fromkeys(keys)
        self._read = read

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
                sizes = tuple((name, member.size) for name, member in group.members.items())
                yield Packed(group.key, self._shard.name, sizes, _members(file, group))
            if index.problem is not None:
                raise ShardError(index.problem)

    def _from_records(self) -> Iterator[Packed]:
        with open_shard(self._shard, self._read) as reader:
            for record in reader.records:
                if record.problem is not None or not self._take(record.key):
                    continue
                try:
                    sample = parse_record(reader.parse, record)
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


def _members(file: BinaryIO, group: Group) -> bytes:
    """The blocks of a sample's members, one after the other, as they stand in the archive."""
    copied = []
    for member in group.members.values():
        file.seek(member.start)
        data = file.read(member.stop - member.start)
        if len(data) < member.data - member.start + member.size:
            raise ShardError(f"ends inside {group.key!r}: it has changed")
        copied.append(data + bytes(-len(data) % BLOCK))  # the last one's padding may be cut off
    return b"".join(copied)


def _leaves_folder(key: str) -> bool:
    return key.startswith("/") or ".." in PurePosixPath(key).parts


def _more_metadata(record: Record) -> dict[str, Any]:
    """What a document of MMC4 says of its images: where they are from, how they are matched.

    Not as `image_info`: readers would take that for OBELICS' list of images.
    """
    if "line" not in record.fields:
        return {}
    return {"mmc4_image_info": parse_object(record.fields["line"]).get("image_info")}
