"""Tar archives: an index of samples with the byte range of every member.

The standard library reads the headers; the ranges are what lets an export copy bytes.
"""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

from mmsieve.errors import SampleError, ShardError, Status
from mmsieve.listing import one_line
from mmsieve.read.members import BLOCK, Group, Groups, Member
from mmsieve.read.records import IMAGE_EXTENSIONS, MAX_BYTES, Record, duplicate

__all__ = ["BLOCK", "Group", "Member", "TarIndex", "index_tar", "read_records"]

_READ = frozenset([*IMAGE_EXTENSIONS, "txt", "json"])
_TOO_LARGE = {"txt": Status.TEXT_UNDECODABLE, "json": Status.JSON_INVALID}
_PACKED = {
    b"\x1f\x8b": "gzip (gunzip)",
    b"BZh": "bzip2 (bunzip2)",
    b"\xfd7zXZ": "xz (unxz)",
    b"\x28\xb5\x2f\xfd": "zstd (unzstd)",
}
_CHUNK = 1 << 20


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
    archive = _open(file)
    groups = Groups()
    problem = None
    position = 0
    try:
        while (info := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # tarfile would keep all it has seen
            # tarfile follows a negative size backwards, for ever
            if info.size < 0 or archive.offset <= info.offset:
                raise tarfile.ReadError(f"{info.name!r} has an impossible size")
            if not info.isreg() or info.issparse():  # a folder, a link, a file with holes
                continue
            if info.offset_data + info.size > size:
                groups.begin(info.name)
                problem = f"cut off inside {info.name!r}"
                break
            groups.add(info)
            position = archive.offset
    except _BROKEN as error:
        problem = f"unreadable from byte {position} on: {one_line(error)}"
    if problem is None:
        problem = _check_end(file, archive.offset, size)
    if problem is not None and not problem.startswith(_JOINED):
        groups.drop_unfinished()
    return TarIndex(tuple(groups.ordered), problem)


def read_records(file: BinaryIO, index: TarIndex) -> Iterator[Record]:
    """The records of an indexed archive; at the end raises ShardError if it was cut short."""
    for group in index.groups:
        problem = duplicate(group.key) if group.is_duplicate else None
        fields = dict.fromkeys(group.members, b"")
        for extension, member in group.members.items():
            kind = extension.rpartition(".")[2]
            if kind not in _READ or problem is not None:
                continue
            if member.size > MAX_BYTES:
                message = f"member {extension} has {member.size} bytes, {MAX_BYTES} can be read"
                problem = SampleError(_TOO_LARGE.get(kind, Status.IMAGE_TOO_LARGE), message)
                continue
            file.seek(member.data)
            fields[extension] = file.read(member.size)
            if len(fields[extension]) != member.size:
                raise ShardError(f"ends inside {group.key}.{extension}: the file has changed")
        yield Record(group.key, fields, problem)
    if index.problem is not None:
        raise ShardError(index.problem)


class _Headers:
    """The archive as tarfile sees it: headers only, so a header that claims gigabytes is broken."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek = file.seek
        self.tell = file.tell
        self._read = file.read

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _CHUNK:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._read(size)


_BROKEN = (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError, OSError)
"""What tarfile raises for bytes that aren't a header, seen under fuzzing."""

_JOINED = "data after the end-of-archive marker"


def _open(file: BinaryIO) -> tarfile.TarFile:
    head = file.read(BLOCK)
    file.seek(0)
    packed = next((name for magic, name in _PACKED.items() if head.startswith(magic)), None)
    if packed is not None:
        raise ShardError(f"compressed with {packed}: members can't be found in it; unpack it first")
    try:
        # Names that aren't UTF-8 keep their bytes as \xNN: a key has to fit into a table.
        headers = cast(BinaryIO, _Headers(file))
        return tarfile.open(fileobj=headers, mode="r:", encoding="utf-8", errors="backslashreplace")
    except _BROKEN as error:
        raise ShardError(f"not a tar archive: {one_line(error)}") from error


def _check_end(file: BinaryIO, offset: int, size: int) -> str | None:
    """Why the archive doesn't end properly where its headers do; tarfile stops there silently.

    One empty block is an end: some writers make only one, and no sample is missing.
    """
    file.seek(offset)
    block = file.read(BLOCK)
    if len(block) < BLOCK:
        return (
            "cut off inside a header" if block.strip(b"\0") else "cut off: no end-of-archive marker"
        )
    if block.strip(b"\0"):
        return f"unreadable from byte {offset} of {size}: no valid header there"
    while chunk := file.read(_CHUNK):
        if chunk.strip(b"\0"):
            return f"{_JOINED} at byte {offset}; joined archives have to be taken apart"
    return None
