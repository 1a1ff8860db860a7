"""The decisions of a request, row after row, and what is counted on the way."""

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeAlias

import polars as pl

from mmsieve.cut.inputs import CHUNK, TableFile
from mmsieve.cut.ranking import Counts, Cut, find_cut, numbers
from mmsieve.cut.request import Plan
from mmsieve.cut.verdicts import Picks, Verdicts, break_ties
from mmsieve.decisions import KIND
from mmsieve.table import Header, product_version

Advance: TypeAlias = Callable[[int, float], None]


def judge(plan: Plan, folder: Path, advance: Advance) -> Verdicts:
    """The verdicts of all rows, in one pass over the joined tables."""
    verdicts = Verdicts(plan.rules, folder)
    for _, frame in plan.joined.scan(plan.rules.columns, folder):
        verdicts.judge(frame)
        advance(0, frame.height)
    return verdicts


class Decided:
    """The cut between judged rows, and each row's decision."""

    def __init__(self, plan: Plan, verdicts: Verdicts, folder: Path, advance: Advance) -> None:
        self._plan = plan
        self._advance = advance
        self.kept = 0
        self.reasons: Counter[str] = Counter()
        self.threshold: float | None = None
        self.groups: dict[str, tuple[int, int]] = {}
        """With --per: group -> kept and scored rows."""
        self.notes: list[str] = []
        self._found: dict[str, str] = {}
        cut = ties = None
        if plan.rules.ranked:
            cut = self._find(verdicts)
            ties = break_ties(verdicts, cut, self._pieces(), folder)
        self._picks = Picks(verdicts, cut, ties)

    def rows(self) -> Iterator[tuple[TableFile, pl.DataFrame]]:
        """Once: each row's name and decision, with the file of the first table it is from."""
        for file in self._plan.first.files:
            for named in self._named(file):
                decided = self._picks.take(named.height)
                self.reasons.update(dict(decided["reason"].drop_nulls().value_counts().iter_rows()))
                self.kept += int(decided["keep"].sum())
                self._advance(named.height, named.height)
                yield file, named.hstack(decided)

    def header(self, source: TableFile | None, name: str, rows: int, kept: int) -> Header:
        """The header of a decision file: that of one shard, or of all (None)."""
        files = self._plan.first.files if source is None else [source]
        return Header(
            kind=KIND,
            version=product_version(),
            shard=name,
            size=0 if source is None else source.size,
            rows=rows,
            complete=all(file.complete for file in files),
            fingerprint=self._plan.fingerprint,
            notes=self._found | {"kept": str(kept)},
        )

    def _find(self, verdicts: Verdicts) -> Cut:
        """Find the cut between the ranked rows."""
        options, rules = self._plan.options, self._plan.rules
        assert rules.score is not None, "ranked rows have a score"
        counts = verdicts.counts()
        wanted = options.wanted(counts)
        cut = find_cut(verdicts.ranked.blocks, wanted)
        self._found = {"scored": str(counts.sum()), "wanted": str(wanted.sum())}
        if rules.per is None and wanted.sum():
            lowest = numbers(cut.at, self._plan.joined.dtype(rules.score)).to_numpy()[0]
            self.threshold, self._found["lowest"] = float(lowest), str(lowest)
        if rules.per is not None:
            pairs = zip(wanted.tolist(), counts.tolist(), strict=True)
            self.groups = dict(zip(verdicts.groups.names, pairs, strict=True))
        self._say_if_few(counts)
        return cut

    def _say_if_few(self, counts: Counts) -> None:
        count = self._plan.options.top_count
        few = 0 if count is None else int((counts < count).sum())
        if few:
            who = "there are" if self._plan.rules.per is None else f"{few} groups have"
            self.notes.append(f"{who} fewer than {count} scored rows: all of them are kept")

    def _pieces(self) -> Iterator[tuple[int, Callable[[], pl.DataFrame]]]:
        """The rows' names, of most files read only where they are asked for."""
        for file in self._plan.first.files:
            if file.rows <= CHUNK:
                yield file.rows, partial(next, self._named(file))
            else:
                for named in self._named(file):
                    yield named.height, partial(_same, named)

    def _named(self, file: TableFile) -> Iterator[pl.DataFrame]:
        identity = self._plan.identity
        for frame in self._plan.first.read(file, identity.columns, whole=False):
            yield identity.of(file, frame)


def _same(frame: pl.DataFrame) -> pl.DataFrame:
    return frame
