"""Tar archives: an index of samples with the byte range of every member.

The standard library reads the headers; the ranges are what lets an export copy bytes.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from mmsieve.errors import ShardError
from mmsieve.read.records import Record, duplicate

BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True)
class Member:
    """One file in the archive; its header begins at `start`, its bytes at `data`."""

    extension: str
    """What follows the first dot of the file's name, in lower case (webdataset's rule)."""
    start: int
    data: int
    size: int

    @property
    def stop(self) -> int:
        """One past the member's last block."""
        return self.data + -(-self.size // BLOCK) * BLOCK


@dataclass(slots=True)
class Group:
    """The members of one sample, in archive order."""

    key: str
    is_duplicate: bool
    members: dict[str, Member] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TarIndex:
    """The samples of an archive in order of their first member, and what cut the archive short."""

    groups: tuple[Group, ...]
    problem: str | None


def index_tar(file: BinaryIO) -> TarIndex:
    """Read all headers of an archive; raises ShardError where not even the first can be read."""
    size = file.seek(0, 2)
    file.seek(0)
    if size == 0:
        raise ShardError("empty file (0 bytes)")
    try:
        archive = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115
    except tarfile.TarError as error:
        raise ShardError(f"not a tar archive: {error}") from error
    groups = _Groups()
    problem = None
    try:
        for info in archive:
            member = _member(info)
            if member.data + member.size > size:
                problem = f"cut off inside {info.name!r}"
                break
            if info.isreg():
                groups.add(info.name, member)
            archive.members = []  # tarfile would keep all it has seen
    except tarfile.TarError as error:
        problem = f"unreadable from byte {archive.offset}: {error}"
    if problem is None:
        problem = _check_end(file, archive.offset, size)
    return TarIndex(tuple(groups.ordered), problem)


def read_records(file: BinaryIO, index: TarIndex) -> Iterator[Record]:
    """The records of an indexed archive; at the end raises ShardError if it was cut short."""
    for group in index.groups:
        fields = {}
        for extension, member in group.members.items():
            file.seek(member.data)
            fields[extension] = file.read(member.size)
        yield Record(group.key, fields, duplicate(group.key) if group.is_duplicate else None)
    if index.problem is not None:
        raise ShardError(index.problem)


class _Groups:
    """Collects members into samples: by key wherever they stand, repeated ones into duplicates."""

    def __init__(self) -> None:
        self.ordered: list[Group] = []
        self._by_key: dict[str, list[Group]] = {}

    def add(self, name: str, member: Member) -> None:
        folder, slash, base = name.rpartition("/")
        stem, _, _ = base.partition(".")
        key = folder + slash + stem
        same = self._by_key.setdefault(key, [])
        for group in same:
            if member.extension not in group.members:
                break
        else:
            group = Group(key, is_duplicate=bool(same))
            same.append(group)
            self.ordered.append(group)
        group.members[member.extension] = member


def _member(info: tarfile.TarInfo) -> Member:
    extension = info.name.rpartition("/")[2].partition(".")[2].lower()
    return Member(extension, info.offset, info.offset_data, info.size)


def _check_end(file: BinaryIO, offset: int, size: int) -> str | None:
    """Why the archive doesn't end properly where its headers do; tarfile stops there silently."""
    file.seek(offset)
    block = file.read(BLOCK)
    if not block.strip(b"\0"):
        if len(block) < BLOCK:
            return "cut off: no end-of-archive marker"
        if file.read(1 << 20).strip(b"\0"):
            return f"data after the end-of-archive marker at byte {offset} (archives joined?)"
        return None
    return f"unreadable from byte {offset} of {size}: no valid header there"
