"""Groups of samples: interaction style x image source, as the published selection groups them.

A sample is in one group per style. What matters is the style's place among the sample's: in a
group, samples that name the style first come before those that name it second.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from mmsieve.subset.numbering import Bools, Numbers, Texts, narrowed

_MOST_TABLED = 1 << 24


class Groups:
    """Which groups each row is in, and each group's rows in order."""

    def __init__(self, names: Sequence[str], counts: Numbers, groups: Numbers) -> None:
        """`counts`: groups of each row; `groups`: numbers of all rows' groups, row after row.

        `names` are sorted, so that a group's number is its place in the order of names.
        """
        self.names = names
        self.styles: Sequence[str] = ()
        """The style of each group."""
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._starts = self._ends - counts
        if len(groups) < 1 << 31:  # half the memory
            self._ends, self._starts = self._ends.astype(np.int32), self._starts.astype(np.int32)
        self._groups = groups

    @property
    def rows(self) -> int:
        """Rows, those without a group too."""
        return len(self._ends)

    def has_any(self, start: int = 0, stop: int | None = None) -> Bools:
        """Whether each row is in a group."""
        return self._ends[start:stop] > self._starts[start:stop]

    def of(self, rows: Numbers) -> tuple[Numbers, Numbers]:
        """All groups of some rows: the place of the row among them, and the group's number."""
        sizes = self._ends[rows] - self._starts[rows]
        before = np.cumsum(sizes, dtype=np.int64) - sizes
        owners = np.repeat(np.arange(len(rows)), sizes)
        return owners, self._groups[(self._starts[rows] - before)[owners] + np.arange(len(owners))]

    def counts(self, rows: Numbers) -> Numbers:
        """How many of the rows each group has, int64 [groups]."""
        return np.bincount(self.of(rows)[1], minlength=len(self.names))

    def ordered(self, usable: Bools, order: Numbers | None) -> "Members":
        """Each group's usable rows, in the given order of rows or the rows' own."""
        places: list[tuple[Numbers, list[int]]] = []
        sizes = self._ends - self._starts
        wanted = usable & (sizes > 0)
        rows: Numbers = (
            np.flatnonzero(wanted).astype(np.int32) if order is None else order[wanted[order]]
        )
        while len(rows):
            groups = self._groups[self._starts[rows] + len(places)]
            by_group = np.argsort(groups, kind="stable")  # by radix up to 16 bits
            ends = np.cumsum(np.bincount(groups, minlength=len(self.names)))
            places.append((rows[by_group], [0, *ends.tolist()]))
            rows = rows[sizes[rows] > len(places)]
        return Members(places, len(self.names))


class Members:
    """Rows of groups: by the place of the group's style among a row's styles, then in order."""

    def __init__(self, places: Sequence[tuple[Numbers, list[int]]], groups: int) -> None:
        self._places = places
        self._groups = groups

    def of(self, group: int) -> Iterator[Numbers]:
        """The group's rows, one array for each place."""
        for rows, starts in self._places:
            yield rows[starts[group] : starts[group + 1]]

    def counts(self, holds: Bools) -> Numbers:
        """How many rows of each group something holds for, int64 [groups]."""
        counts = np.zeros(self._groups, np.int64)
        for rows, starts in self._places:
            some = np.flatnonzero(np.diff(starts))  # reduceat knows no empty ranges
            if len(some):
                counts[some] += np.add.reduceat(holds[rows], np.take(starts, some), dtype=np.int64)
        return counts


class Grouping:
    """Makes Groups from styles and sources that come in parts."""

    def __init__(self, styles: Texts, sources: Texts) -> None:
        self.styles = styles
        self.sources = sources
        self._numbers: dict[tuple[int, int], int] = {}
        """Numbers of style and source -> a number of its own, in the order in which they come."""
        self._counts: list[Numbers] = []
        self._groups: list[Numbers] = []

    def add(self, counts: Numbers, styles: Numbers, sources: Numbers) -> None:
        """Add rows: how many styles each has, all their numbers (-1: none), each row's source."""
        kept = _first_of_each(counts, styles)
        rows = np.repeat(np.arange(len(counts)), counts)[kept]
        width = len(self.sources.names) or 1
        pairs = styles[kept].astype(np.int64) * width + sources[rows]
        present, number = _numbered(pairs, width * max(1, len(self.styles.names)))
        keys = zip((present // width).tolist(), (present % width).tolist(), strict=True)
        own = [self._numbers.setdefault(key, len(self._numbers)) for key in keys]
        own_counts = np.bincount(rows, minlength=len(counts))
        self._counts.append(narrowed(own_counts, int(own_counts.max(initial=0))))
        self._groups.append(np.array(own, np.int32)[number])

    def finish(self) -> Groups:
        """The groups, numbered by their names; what has the same name is one group."""
        styles, sources = self.styles.names, self.sources.names
        named: dict[str, str] = {}
        names = []
        for style, source in self._numbers:
            names.append(f"{styles[style]}+{sources[source]}")
            named.setdefault(names[-1], styles[style])
        ordered = sorted(named)
        place = {name: number for number, name in enumerate(ordered)}
        last = narrowed(np.array([place[name] for name in names], np.int64), len(ordered))
        for number, part in enumerate(self._groups):
            self._groups[number] = last[part]
        made = Groups(ordered, _joined(self._counts), _joined(self._groups))
        made.styles = [named[name] for name in ordered]
        return made


def _first_of_each(counts: Numbers, styles: Numbers) -> Numbers:
    """The places of the styles that aren't -1 and don't repeat one of the same row."""
    starts = np.cumsum(counts) - counts
    place = np.arange(len(styles)) - np.repeat(starts, counts)
    keep = styles >= 0
    later = np.flatnonzero(place)
    for back in range(1, int(counts.max(initial=0))):
        later = later[place[later] >= back]
        keep[later] &= styles[later] != styles[later - back]
    return np.flatnonzero(keep)


def _numbered(values: Numbers, size: int) -> tuple[Numbers, Numbers]:
    """The distinct values, all below `size`, and of each value its place among them."""
    if size > _MOST_TABLED:
        return np.unique(values, return_inverse=True)
    present = np.flatnonzero(np.bincount(values, minlength=size))
    places = np.zeros(size, np.int32)
    places[present] = np.arange(len(present))
    return present, places[values]


def _joined(parts: Sequence[Numbers]) -> Numbers:
    return np.concatenate(parts) if parts else np.zeros(0, np.int32)
