"""Where a table's samples are among the SOURCEs of a report.

A shard is named after its file's path below the common parent of all that a verb was given. A
report is given sources of several tables at once, so the common parent, and the names, may be
others: a table's shard is the file whose whole path ends in its name, and which has its size.
"""

from collections.abc import Sequence

from mmsieve.listing import path_of
from mmsieve.read import ReadOptions
from mmsieve.read.ranges import split_files
from mmsieve.sources import Shard, find_files


class Places:
    """The shards of sources, to be found by a table's names."""

    def __init__(self, sources: Sequence[str], read: ReadOptions) -> None:
        """Raises RequestError for sources that aren't there, or not read."""
        self._shards: dict[str, list[tuple[str, Shard]]] = {}
        """Last part of the name -> whole path without suffix, and shard."""
        for shard in split_files(find_files(sources).files, read):
            last = shard.name.rpartition("/")[2]
            folder = path_of(shard.url).rpartition("/")[0]
            self._shards.setdefault(last, []).append((f"/{folder}/{last}", shard))

    def find(self, name: str, size: int) -> tuple[Shard | None, str]:
        """The shard of a table's name and file size (0: not known), or why there is none."""
        named = self._shards.get(name.rpartition("/")[2], [])
        found = [shard for path, shard in named if path.endswith(f"/{name}")]
        found = [shard for shard in found if shard.size == size] or found
        found = [shard for shard in found if shard.name == name] or found
        if not found:
            return None, f"shard {name!r} of a table is not among the SOURCEs"
        if len(found) > 1:
            return None, f"shard {name!r} of a table may be {found[0].url} or {found[1].url}"
        return found[0], ""
