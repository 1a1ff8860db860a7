"""Members of a tar -> samples: which member belongs to which key, and which come twice."""

import tarfile
from collections import Counter
from dataclasses import dataclass, field

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


class Groups:
    """Collects members into samples: by key wherever they stand, repeated ones into duplicates."""

    def __init__(self) -> None:
        self.ordered: list[Group] = []
        self._by_key: dict[str, list[Group]] = {}
        self._count: Counter[tuple[str, str]] = Counter()
        self._last = ""
        """Key of the last member."""

    def add(self, info: tarfile.TarInfo) -> None:
        """Take in a member, unless its name is no sample's."""
        named = split_name(info.name)
        if named is None:
            return
        self._last, extension = key, _ = named
        same = self._by_key.setdefault(key, [])
        if self._count[named] == len(same):
            same.append(Group(key, is_duplicate=bool(same)))
            self.ordered.append(same[-1])
        group = same[self._count[named]]
        self._count[named] += 1
        group.members[extension] = Member(extension, info.offset, info.offset_data, info.size)

    def begin(self, name: str) -> None:
        """Take note that a member of that name came next, but can't be read."""
        named = split_name(name)
        self._last = self._last if named is None else named[0]

    def drop_unfinished(self) -> None:
        """Of an archive that was cut: leave out its last sample unless it is known to be whole.

        It is if another sample had begun, or if it has all that the sample before it has.
        A sample without its caption is no finding about the data, it is what the cut left.
        """
        if not self.ordered or self.ordered[-1].key != self._last:
            return
        before = self.ordered[-2].members.keys() if len(self.ordered) > 1 else {""}
        if not before <= self.ordered[-1].members.keys():
            self.ordered.pop()


def split_name(name: str) -> tuple[str, str] | None:
    """Key and extension of a member as webdataset splits them; None where it is no sample's.

    That is a name without a dot, and a hidden one: macOS puts `._a.jpg` beside `a.jpg`, and a
    folder `__MACOSX` beside all.
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    if not stem or not dot or "__MACOSX" in folder.split("/"):
        return None
    return folder + slash + stem, extension.lower()
