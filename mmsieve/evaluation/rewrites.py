"""What `enhance` did to a data set, from its table alone, a file at a time.

Of all of the table: so a resumed run tells of what was done before, too.
"""

from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mmsieve import tables
from mmsieve.errors import Status
from mmsieve.methods.aitqe.answers import words

_COLUMNS = (
    "status",
    "overall_score",
    "caption",
    "final_caption",
    "rewritten",
    "rewrite_refused",
    "caption_quality",
    "recaption_quality",
)
_ROWS = 4096


class Vocabulary:
    """Counts distinct words in bounded memory: exactly up to `most` of them, then closely.

    Adaptive sampling (Flajolet, On adaptive sampling, 1990): of the words' hashes only those that
    are multiples of a power of two are kept, and that power grows as they get too many.
    """

    def __init__(self, most: int = 1 << 18) -> None:
        self._most = most
        self._kept: set[int] = set()
        self._step = 1

    def add(self, found: Iterable[str]) -> None:
        """Add words."""
        for word in found:
            digest = int.from_bytes(blake2b(word.encode("utf-8"), digest_size=8).digest())
            if digest % self._step == 0:
                self._kept.add(digest)
        while len(self._kept) > self._most:
            self._step *= 2
            self._kept = {digest for digest in self._kept if digest % self._step == 0}

    @property
    def size(self) -> int:
        """How many distinct words were added, about."""
        return len(self._kept) * self._step


@dataclass
class Texts:
    """Length and vocabulary of many captions."""

    captions: int = 0
    words: int = 0
    vocabulary: Vocabulary = field(default_factory=Vocabulary)

    def add(self, text: str) -> None:
        """Add a caption."""
        found = words(text.lower())
        self.captions += 1
        self.words += len(found)
        self.vocabulary.add(found)

    @property
    def mean(self) -> float:
        """Words of a caption, on average."""
        return self.words / self.captions if self.captions else 0.0


@dataclass
class Rewritten:
    """What became of all captions of a table."""

    judged: int = 0
    rewritten: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    scores: Counter[int] = field(default_factory=Counter)
    """Overall scores, rounded."""
    before: Texts = field(default_factory=Texts)
    after: Texts = field(default_factory=Texts)
    quality_before: Counter[float] = field(default_factory=Counter)
    """What a classifier said of captions that were rewritten, rounded to hundredths."""
    quality_after: Counter[float] = field(default_factory=Counter)

    def add(self, row: dict[str, Any]) -> None:
        """Add a row whose status is `ok`."""
        self.judged += 1
        self.scores[round(row["overall_score"])] += 1
        if row["rewrite_refused"] is not None:
            self.refused[row["rewrite_refused"]] += 1
        self.before.add(row["caption"])
        self.after.add(row["final_caption"])
        if not row["rewritten"]:
            return
        self.rewritten += 1
        if row.get("recaption_quality") is not None:
            self.quality_after[round(row["recaption_quality"], 2)] += 1
            if row["caption_quality"] is not None:
                self.quality_before[round(row["caption_quality"], 2)] += 1

    def lines(self) -> Iterator[str]:
        """What a user should know."""
        share = 100 * self.rewritten / max(1, self.judged)
        yield f"{self.rewritten} of {self.judged} captions rewritten ({share:.1f} %)"
        if self.refused:
            counts = sorted(self.refused.items(), key=lambda pair: (-pair[1], pair[0]))
            reasons = ", ".join(f"{count} {name}" for name, count in counts)
            yield f"{self.refused.total()} rewrites refused ({reasons})"
        scores = ", ".join(f"{score}: {self.scores[score]}" for score in sorted(self.scores))
        yield f"captions by overall score: {scores or 'none'}"
        if self.quality_after:
            before, after = map(_quartiles, (self.quality_before, self.quality_after))
            yield f"quality of the rewritten, quartiles: {before} before, {after} after"
        yield (
            f"words of a caption: {self.before.mean:.1f} before, {self.after.mean:.1f} after; "
            f"distinct words: {self.before.vocabulary.size} before, "
            f"{self.after.vocabulary.size} after"
        )


def measure(folder: Path) -> Rewritten:
    """What became of the captions of an assessment table."""
    found = Rewritten()
    for path in tables.table_files(folder).values():
        for row in _rows(path):
            found.add(row)
    return found


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        there = [name for name in _COLUMNS if name in file.schema_arrow.names]
        for batch in file.iter_batches(_ROWS, columns=there):
            yield from (row for row in batch.to_pylist() if row["status"] == Status.OK)


def _quartiles(counts: Counter[float]) -> str:
    ordered = sorted(counts)
    ends = list(accumulate(counts[value] for value in ordered))
    places = (bisect(ends, share * (counts.total() - 1)) for share in (0.25, 0.5, 0.75))
    return " ".join(f"{ordered[place]:.2f}" for place in places) if ordered else "none"
