"""Tar archives: an index of samples with the byte range of every member.

The standard library reads the headers; the ranges are what lets an export copy bytes.
"""

import tarfile
from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from mmsieve.errors import SampleError, ShardError, Status
from mmsieve.images import IMAGE_EXTENSIONS
from mmsieve.read import MAX_BYTES, Record, duplicate
from mmsieve.stores.asking import one_line

BLOCK = tarfile.BLOCKSIZE
_READ = frozenset([*IMAGE_EXTENSIONS, "txt", "json"])
_TOO_LARGE = {"txt": Status.TEXT_UNDECODABLE, "json": Status.JSON_INVALID}
_CHUNK = 1 << 20


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
class TarGroup:
    """The members of one sample, in archive order."""

    key: str
    is_duplicate: bool
    name: str
    """Of its members, up to the dot: the key, but bytes that are no UTF-8 are lone surrogates."""
    members: dict[str, Member] = field(default_factory=dict)


class TarGroups:
    """Collects members into samples: by key wherever they stand, repeated ones into duplicates."""

    def __init__(self) -> None:
        self.ordered: list[TarGroup] = []
        self._by_key: dict[str, list[TarGroup]] = {}
        self._count: Counter[tuple[str, str]] = Counter()
        self._last = ""
        """Key of the last member."""

    def add(self, info: tarfile.TarInfo) -> None:
        """Take in a member, unless its name is no sample's."""
        split = split_name(info.name)
        if split is None:
            return
        self._last, extension = key, _ = named = _printable(split[0]), _printable(split[1])
        same = self._by_key.setdefault(key, [])
        if self._count[named] == len(same):
            same.append(TarGroup(key, bool(same), split[0]))
            self.ordered.append(same[-1])
        group = same[self._count[named]]
        self._count[named] += 1
        group.members[extension] = Member(extension, info.offset, info.offset_data, info.size)

    def begin(self, name: str) -> None:
        """Take note that a member of that name came next, but can't be read."""
        named = split_name(name)
        self._last = self._last if named is None else _printable(named[0])

    def drop_unfinished(self) -> None:
        """Of an archive that was cut: leave out its last sample unless it is known to be whole.

        It is if another had begun, or if it has all that the one before it has. A sample without
        its caption is no finding about the data, it is what the cut left.
        """
        if not self.ordered or self.ordered[-1].key != self._last:
            return
        before = self.ordered[-2].members.keys() if len(self.ordered) > 1 else {""}
        if not before <= self.ordered[-1].members.keys():
            self.ordered.pop()


def _printable(name: str) -> str:
    r"""A name that fits into a table: its bytes that are no UTF-8 as \xNN."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def split_name(name: str) -> tuple[str, str] | None:
    """Key and extension of a member as webdataset splits them; None where it is no sample's."""
    # Without a dot, or hidden: macOS puts `._a.jpg` beside `a.jpg`, and `__MACOSX` beside all
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    if not stem or not dot or "__MACOSX" in folder.split("/"):
        return None
    return folder + slash + stem, extension.lower()


@dataclass(frozen=True, slots=True)
class TarIndex:
    """The samples of an archive in order of their first member, and what cut the archive short."""

    groups: tuple[TarGroup, ...]
    problem: str | None


def index_tar(file: BinaryIO) -> TarIndex:
    """Read all headers of an archive; raises ShardError where not even the first can be read."""
    size = file.seek(0, 2)
    file.seek(0)
    if size == 0:
        raise ShardError("empty file (0 bytes)")
    archive = _open(file)
    groups = TarGroups()
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


def read_records(file: BinaryIO, index: TarIndex, also: Container[str] = ()) -> Iterator[Record]:
    """The records of an indexed archive; at the end raises ShardError if it was cut short.

    `also`: members that are read beside those whose extension is an image's, `txt` or `json`.
    """
    for group in index.groups:
        problem = duplicate(group.key) if group.is_duplicate else None
        fields = dict.fromkeys(group.members, b"")
        for extension, member in group.members.items():
            kind = extension.rpartition(".")[2]
            if (kind not in _READ and extension not in also) or problem is not None:
                continue
            if member.size > MAX_BYTES:
                message = f"member {extension} has {member.size:,} bytes, {MAX_BYTES:,} can be read"
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
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._read(size)


_BROKEN = (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError, OSError)
"""What tarfile raises for bytes that aren't a header, seen under fuzzing."""

_JOINED = "data after the end-of-archive marker"


def _open(file: BinaryIO) -> tarfile.TarFile:
    try:
        headers = cast(BinaryIO, _Headers(file))
        return tarfile.open(fileobj=headers, mode="r:", encoding="utf-8", errors="surrogateescape")
    except _BROKEN as error:
        raise ShardError(f"not a tar archive: {one_line(error)}") from error


def _check_end(file: BinaryIO, offset: int, size: int) -> str | None:
    """Why the archive doesn't end properly where its headers do; one empty block is end enough."""
    file.seek(offset)
    block = file.read(BLOCK)
    if len(block) < BLOCK:
        is_header = block.strip(b"\0")
        return "cut off inside a header" if is_header else "cut off: no end-of-archive marker"
    if block.strip(b"\0"):
        return f"unreadable from byte {offset} of {size}: no valid header there"
    while chunk := file.read(_CHUNK):
        if chunk.strip(b"\0"):
            return f"{_JOINED} at byte {offset}; joined archives have to be taken apart"
    return None
