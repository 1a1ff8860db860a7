"""Assessment tables: overall scores, what was rewritten or refused, and how captions changed.

Both for a report and for the last lines of `enhance`, which are about the whole table: a resumed
run tells of what was done before, too.
"""

import math
from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import accumulate
from pathlib import Path
from typing import Any

import polars as pl

from mmsieve import tables
from mmsieve.errors import Status
from mmsieve.methods.aitqe.answers import DETAILS, EXPLANATIONS, words
from mmsieve.reporting import sections
from mmsieve.reporting.inputs import ReportTable
from mmsieve.reporting.rewrites import WordChange, WordChanges, shown_rewrite
from mmsieve.reporting.texts import clipped
from mmsieve.wording import counted

_CAPTIONS = ("caption", "recaption", "final_caption")
_TEXTS = ("key", "shard", "status", "error", *_CAPTIONS, "rewrite_refused")
_TYPES: sections.Types = {
    **dict.fromkeys(_TEXTS, pl.String),
    "overall_score": pl.Float32,
    "rewritten": pl.Boolean,
}
_QUALITIES = ("caption_quality", "recaption_quality")
"""What a classifier said of the captions that were to be rewritten, where one was asked."""
_JUDGED: sections.Types = dict.fromkeys(_QUALITIES, pl.Float32)
_SHOWN: sections.Types = {
    **_JUDGED,
    **dict.fromkeys((f"{name}_score" for name in DETAILS), pl.Float32),
    **dict.fromkeys(EXPLANATIONS.names, pl.String),
}
"""Columns that a table may lack."""
_HIGHEST = 10
_LENGTH_BINS = 12
_QUALITY_BINS = 12
_WORDS_SHOWN = 12
_AS_IT_WAS = "left as it was"
_WHAT = (
    pl.when(pl.col("status") != Status.OK)
    .then("status")
    .when("rewritten")
    .then(pl.lit("rewritten"))
    .when(pl.col("rewrite_refused").is_not_null())
    .then(pl.lit("refused: ") + pl.col("rewrite_refused"))
    .otherwise(pl.lit(_AS_IT_WAS))
    .alias("what")
)
"""What became of a caption."""
_GROUPS = {
    "Rewritten": sections.GalleryGroup(pl.col("what") == "rewritten"),
    "Rewrite refused": sections.GalleryGroup(pl.col("what").str.starts_with("refused")),
    "Left as it was": sections.GalleryGroup(pl.col("what") == _AS_IT_WAS),
    sections.FAILED: sections.GalleryGroup(pl.col("status") != Status.OK),
}


@dataclass
class _Tally:
    scores: Counter[tuple[int, bool]] = field(default_factory=Counter)
    """Overall score, rounded, and whether the caption was rewritten -> captions."""
    words: tuple[Counter[int], Counter[int]] = field(default_factory=lambda: (Counter(), Counter()))
    """Words of a rewritten caption, before and after -> captions."""
    qualities: tuple[Counter[float], Counter[float]] = field(
        default_factory=lambda: (Counter(), Counter())
    )
    """The classifier's score of a rewritten caption, to tenths, before and after -> captions."""
    vocabularies: "tuple[Vocabulary, Vocabulary]" = field(
        default_factory=lambda: (Vocabulary(), Vocabulary())
    )
    """Words of all captions, before and after."""
    changed: WordChanges = field(default_factory=WordChanges)
    """Words of the rewritten captions."""
    details: int = 0
    """Captions that have more scores than the overall one."""
    sums: dict[str, tuple[int, float, float]] = field(default_factory=dict)
    """What may change -> captions, and its sums over them before and after."""

    def add(self, rows: pl.DataFrame) -> None:
        for row in rows.filter(pl.col("status") == Status.OK).iter_rows(named=True):
            score = min(max(round(row["overall_score"]), 0), _HIGHEST)
            self.scores[score, row["rewritten"]] += 1
            self.details += row[f"{DETAILS[0]}_score"] is not None
            for vocabulary, name in zip(
                self.vocabularies, ("caption", "final_caption"), strict=True
            ):
                vocabulary.add([row[name]])
            lengths = len(words(row["caption"])), len(words(row["final_caption"]))
            self._change("words, all captions", *lengths)
            if row["rewritten"]:
                self._change("words, rewritten captions", *lengths)
                for found, length in zip(self.words, lengths, strict=True):
                    found[length] += 1
                self.changed.add(row["caption"], row["final_caption"])
                qualities = [row[name] for name in _QUALITIES]
                self._change("classifier's score, rewritten captions", *qualities)
                if None not in qualities:
                    for counts, quality in zip(self.qualities, qualities, strict=True):
                        counts[round(quality, 1)] += 1

    def _change(self, name: str, before: float | None, after: float | None) -> None:
        if before is not None and after is not None:
            count, *sums = self.sums.get(name, (0, 0.0, 0.0))
            self.sums[name] = count + 1, sums[0] + before, sums[1] + after


@dataclass(frozen=True)
class AssessmentNumbers:
    """What is said of an assessment table."""

    rows: int
    rewritten: int
    counts: dict[str, int]
    """What became of a caption, or its status -> captions."""
    score: float | None
    """The mean overall score."""
    bins: list[sections.Bin]
    changes: dict[str, tuple[float, float]]
    """What changed -> its mean before and after."""
    lengths: sections.Shares | None
    """Of the rewritten captions."""
    qualities: sections.Shares | None
    """The classifier's scores of the rewritten captions, where one was asked."""
    distinct: tuple[int, int]
    """Different words of all captions, before and after, about."""
    more: list[WordChange]
    """Words that the rewritten captions have more often than before, the most so first."""
    less: list[WordChange]
    missed: int
    """How much too low the counts of words may be."""
    has_details: bool
    """Whether there are more scores than the overall one."""
    groups: sections.Groups
    template: str = "assessments.html.j2"


def count(table: ReportTable, request: sections.SectionRequest) -> AssessmentNumbers:
    """The numbers of an assessment table."""
    tally, gallery = _Tally(), sections.Gallery(_GROUPS, request.gallery)
    counts = sections.count_rows(_rows(table.files, _SHOWN), gallery, tally.add)
    scores, judged, rewritten = tally.scores, tally.scores.total(), tally.words[0].total()
    total = sum(score * n for (score, _), n in scores.items())
    below = table.headers[0].fingerprint.get("rewrite_below")
    more, less = tally.changed.most(_WORDS_SHOWN)
    return AssessmentNumbers(
        rows=sum(counts.values()),
        rewritten=rewritten,
        counts=counts,
        score=total / judged if judged else None,
        bins=[
            sections.Bin(score - 0.5, score + 0.5, scores[score, True], scores[score, False])
            for score in range(_HIGHEST + 1 if judged else 0)
        ],
        changes={name: (one / n, other / n) for name, (n, one, other) in tally.sums.items()},
        lengths=_lengths(tally.words, rewritten) if rewritten else None,
        qualities=_quality_shares(tally.qualities),
        distinct=(tally.vocabularies[0].size, tally.vocabularies[1].size),
        more=more,
        less=less,
        missed=tally.changed.missed,
        has_details=tally.details > 0,
        groups=gallery.groups(lambda _, row: _shown(row, below)),
    )


def _rows(files: Sequence[Path], optional: sections.Types) -> Iterator[pl.DataFrame]:
    """The rows of a table's files, some at a time, with `what` became of each caption.

    What isn't there of the `optional` columns is null.
    """
    for file in files:
        with tables.open_file(file) as opened:
            there = opened.schema_arrow.names
        types = {**_TYPES, **{name: kind for name, kind in optional.items() if name in there}}
        missing = [pl.lit(None, kind).alias(n) for n, kind in optional.items() if n not in there]
        for rows in sections.read_rows([file], sections.typed(types)):
            yield rows.with_columns(_WHAT, *missing)


def _lengths(found: tuple[Counter[int], Counter[int]], count: int) -> sections.Shares:
    shortest, longest = min(map(min, found)), max(map(max, found))
    width = (longest - shortest) // _LENGTH_BINS + 1
    starts = range(shortest, longest + 1, width)
    return sections.Shares(
        title="Words of a rewritten caption",
        labels=[str(start) for start in starts],
        names=["before", "after"],
        counts=[[sum(one[s + i] for i in range(width)) for s in starts] for one in found],
        totals=[count, count],
    )


def _quality_shares(found: tuple[Counter[float], Counter[float]]) -> sections.Shares | None:
    """The classifier's scores before and after, in bins as wide as they must be."""
    count = found[0].total()
    if not count:
        return None
    lowest, highest = min(map(min, found)), max(map(max, found))
    width = max(0.1, math.ceil((highest - lowest) / _QUALITY_BINS * 10) / 10)
    places = [Counter[int](), Counter[int]()]
    for place, counts in zip(places, found, strict=True):
        for quality, captions in counts.items():
            place[int((quality - lowest) / width + 1e-6)] += captions
    bins = range(max(map(max, places)) + 1)
    return sections.Shares(
        title="The classifier's score of a rewritten caption",
        labels=[f"{lowest + number * width:.1f}" for number in bins],
        names=["before", "after"],
        counts=[[place[number] for number in bins] for place in places],
        totals=[count, count],
    )


def _shown(row: dict[str, Any], rewrite_below: str | None) -> sections.GallerySample:
    is_judged = row["overall_score"] is not None
    texts = () if is_judged or not row["caption"] else (("caption", row["caption"]),)
    return sections.GallerySample(
        key=row["key"],
        shard=row["shard"],
        place=row["place"],
        score=row["overall_score"],
        keep=True if row["rewritten"] else None,
        reason=row["what"],
        error=row["error"],
        texts=tuple((label, clipped(text)) for label, text in texts),
        rewrite=shown_rewrite(row, rewrite_below) if is_judged else None,
    )


# What enhance says at its end


class Vocabulary:
    """Counts words, and distinct ones in bounded memory: exactly up to `most`, then closely.

    Adaptive sampling (Flajolet, On adaptive sampling, 1990): of the words' hashes only those that
    are multiples of a power of two are kept, and that power grows as they get too many.
    """

    def __init__(self, most: int = 1 << 18) -> None:
        self.words = 0
        self._most = most
        self._kept: set[int] = set()
        self._step = 1

    def add(self, texts: Iterable[str]) -> None:
        """Add the words of texts."""
        for found in (words(text.lower()) for text in texts):
            self.words += len(found)
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
class RewriteSummary:
    """What became of all captions of a table."""

    rewritten: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    scores: Counter[int] = field(default_factory=Counter)
    """Overall scores, rounded."""
    before: Vocabulary = field(default_factory=Vocabulary)
    after: Vocabulary = field(default_factory=Vocabulary)
    quality_before: Counter[float] = field(default_factory=Counter)
    """What a classifier said of captions that were rewritten, rounded to hundredths."""
    quality_after: Counter[float] = field(default_factory=Counter)

    def add(self, rows: pl.DataFrame) -> None:
        """Add rows whose status is `ok`."""
        self.scores.update(map(round, rows["overall_score"]))
        self.refused.update(rows["rewrite_refused"].drop_nulls())
        self.before.add(rows["caption"])
        self.after.add(rows["final_caption"])
        rewritten = rows.filter("rewritten")
        self.rewritten += rewritten.height
        judged = rewritten.drop_nulls("recaption_quality")
        self.quality_after.update(round(q, 2) for q in judged["recaption_quality"])
        self.quality_before.update(round(q, 2) for q in judged["caption_quality"].drop_nulls())

    def lines(self) -> Iterator[str]:
        """What a user should know."""
        judged = self.scores.total()
        share = 100 * self.rewritten / max(1, judged)
        yield f"{self.rewritten:,} of {counted(judged, 'captions')} rewritten ({share:.1f} %)"
        if self.refused:
            counts = sections.most_first(self.refused)
            reasons = ", ".join(f"{count:,} {name}" for name, count in counts.items())
            yield f"{counted(self.refused.total(), 'rewrites')} refused ({reasons})"
        scores = ", ".join(f"{score}: {self.scores[score]}" for score in sorted(self.scores))
        yield f"captions by overall score: {scores or 'none'}"
        if self.quality_after:
            before, after = map(_quartiles, (self.quality_before, self.quality_after))
            yield f"quality of the rewritten, quartiles: {before} before, {after} after"
        texts = {"before": self.before, "after": self.after}
        means = ", ".join(f"{t.words / max(1, judged):.1f} {n}" for n, t in texts.items())
        sizes = ", ".join(f"{t.size} {n}" for n, t in texts.items())
        yield f"words of a caption: {means}; distinct words: {sizes}"


def summarise(folder: Path) -> RewriteSummary:
    """What became of the captions of an assessment table."""
    found = RewriteSummary()
    for rows in _rows(list(tables.table_files(folder).values()), _JUDGED):
        found.add(rows.filter(pl.col("status") == Status.OK))
    return found


def _quartiles(counts: Counter[float]) -> str:
    ordered = sorted(counts)
    ends = list(accumulate(counts[value] for value in ordered))
    places = (bisect(ends, share * (counts.total() - 1)) for share in (0.25, 0.5, 0.75))
    return " ".join(f"{ordered[place]:.2f}" for place in places) if ordered else "none"
