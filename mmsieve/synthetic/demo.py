"""The demo's commands, in order, and what is known of its pools beforehand."""

import json
import random
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, TypeAlias

import polars as pl

from mmsieve.decisions import decision_files
from mmsieve.errors import MmsieveError, RequestError
from mmsieve.generation.files import TRAIN, read_training_file
from mmsieve.labels import LEVELS
from mmsieve.methods.catalog import bundled_folder
from mmsieve.options import DryRun, Quiet, check_value, whole
from mmsieve.outputs import check_folder
from mmsieve.reports import Report, timed
from mmsieve.synthetic.instructions import WRONG_CAP
from mmsieve.tables import scan_files, table_files

# The demo's commands, in order, each with a line on what it is for

CLASSIFIER, ENHANCER = "unifilter-tiny", "aitqe-tiny"
SCORER, STYLER = "mmssr-tiny-scorer", "mmssr-tiny-styler"
SEED = 20
"""Not the seed of the models' own training scenes."""
CUTS = {
    "top": ("Keep the best quarter", ["--top-fraction", "0.25"]),
    "floor": ("Or keep what scores at least 2.5", ["--min-score", "2.5"]),
    "where": (
        "Or ask in SQL, over any column: good documents of several images",
        ["--where", "quality_score >= 2.5 AND num_images > 1"],
    ),
}
"""Name -> what a cut is for, and its options."""


@dataclass(frozen=True)
class Step:
    """One command: what it is for, and its words."""

    title: str
    words: list[str]

    def shown(self) -> list[str]:
        """The step as a user reads it."""
        return ["", f"# {self.title}", f"$ {shlex.join(['mmsieve', *self.words])}"]

    def run(self, quiet: bool) -> None:
        """Run the command as a user would, and show it; raises MmsieveError where it fails."""
        if not quiet:
            sys.stdout.write("\n".join(self.shown()) + "\n")
            sys.stdout.flush()
        command = [sys.executable, "-m", "mmsieve", *self.words]
        done = subprocess.run(command, check=False, capture_output=quiet, text=True)  # noqa: S603 - ours
        if done.returncode:
            reason = f": {done.stderr.strip()}" if quiet else ""
            raise MmsieveError(f"the step `mmsieve {self.words[0]}` failed{reason}")


@dataclass(frozen=True)
class Tour:
    """Where everything is made, and how much of it."""

    out: Path
    captions: int
    documents: int
    instructions: int

    @property
    def pools(self) -> dict[str, int]:
        """Kind of text -> samples of its pool."""
        return {"captions": self.captions, "documents": self.documents}

    def at(self, *parts: str) -> str:
        """A place below the demo's folder, for a command."""
        return str(self.out.joinpath(*parts))

    def steps(self) -> list[Step]:
        """All commands."""
        return [*self._filter(), *self._enhance(), *self._select(), self._report()]

    def _filter(self) -> Iterator[Step]:
        """Score captions and documents, cut, copy."""
        for what, count in self.pools.items():
            words = ["generate", what, "--teacher", "rendered", "--texts-per-image", "1"]
            words += ["--shards", *self._size(count), "--out", self.at("pool", what)]
            title = f"Draw {count:,} {what}, each at a random one of four levels of quality"
            yield Step(title, words)
        shards = self._shards()
        quality = self.at("quality")
        yield Step(
            "Score them: the model sees pixels and text, not the level",
            ["score", *shards, "--model", CLASSIFIER, "--out", quality],
        )
        for name, (title, cut) in CUTS.items():
            yield Step(title, ["filter", quality, *cut, "--out", self.at("decisions", name)])
        chosen = ["--decisions", self.at("decisions", "top"), "--out", self.at("curated")]
        yield Step("Copy the best quarter, byte for byte", ["export", *shards, *chosen])

    def _enhance(self) -> Iterator[Step]:
        """Rewrite poor captions, and see what the classifier says of them now."""
        shards, table = self.at("pool", "captions", "shards"), self.at("assessments")
        enhanced = self.at("enhanced")
        yield Step(
            "Or throw no image away: judge the captions, and rewrite the poor ones",
            ["enhance", shards, "--model", ENHANCER, "--out", table],
        )
        yield Step(
            "Put the rewrites into the tars; the images stay as they are",
            ["export", shards, "--captions", table, "--out", enhanced],
        )
        yield Step(
            "Score the captions again",
            ["score", enhanced, "--model", CLASSIFIER, "--out", self.at("quality-enhanced")],
        )

    def _select(self) -> Iterator[Step]:
        """Rate instruction samples, choose a subset."""
        pool, ratings = self.at("pool", "instructions"), self.at("ratings")
        words = ["generate", "ratings", "--teacher", "rendered", *self._size(self.instructions)]
        title = f"Draw {self.instructions:,} instruction samples, nearly half of them wrong"
        yield Step(title, [*words, "--out", pool])
        words = ["rate", self._items, "--images", pool, "--model", SCORER, "--styler", STYLER]
        yield Step("Rate what they teach, name their styles", [*words, "--out", ratings])
        words = ["select", ratings, "--budget", "0.3", "--above", "1", "--out", self.at("subset")]
        words += ["--data", self._items, "--subset", self.at("subset.json")]
        yield Step("Choose 30%: rich in every capability, diverse in style", words)

    def _report(self) -> Step:
        decisions = [self.at("decisions", name) for name in CUTS]
        words = ["report", self.at("quality"), *decisions, self.at("assessments")]
        words += [self.at("ratings"), self.at("subset"), *self._shards(), self._items]
        words += ["--images", self.at("pool", "instructions")]
        return Step("Look at it", [*words, "--out", self.at("report.html")])

    @property
    def _items(self) -> str:
        """The file of instruction samples."""
        return self.at("pool", "instructions", "qas.json")

    def _shards(self) -> list[str]:
        return [self.at("pool", what, "shards") for what in self.pools]

    def _size(self, count: int) -> list[str]:
        return ["--count", str(count), "--seed", str(SEED)]


# What is known of the demo's pools beforehand, and what was made of it


@dataclass(frozen=True)
class Rewritten:
    """What became of the captions."""

    captions: int
    rewritten: int
    before: float
    """The classifier's mean score of the rewritten captions, as they were."""
    after: float
    """And of what they became."""


def levels_of_texts(tour: Tour) -> dict[str, int]:
    """Key -> level of every caption and document, as the teacher wrote them down."""
    places = (tour.out / "pool" / what / TRAIN for what in tour.pools)
    entries = (entry for place in places for entry in read_training_file(place))
    return {str(entry.id): int(entry.label) for entry in entries}


def right_samples(tour: Tour) -> dict[str, bool]:
    """Key -> whether the pictures confirm all answers of an instruction sample."""
    records = json.loads((tour.out / "pool" / "instructions" / TRAIN).read_text("utf-8"))
    return {str(one["idx"]): max(one["ratings"].values()) > WRONG_CAP for one in records}


def kept_keys(decisions: Path) -> list[str]:
    """The keys that decisions keep."""
    found = list(decision_files(decisions).values())
    keys = scan_files(found).filter("keep").select("key").collect()["key"]
    return [str(key) for key in keys]


def count_levels(keys: Iterable[str], truth: dict[str, int]) -> dict[int, int]:
    """Level -> how many of the keys have it."""
    return dict(Counter(truth[key] for key in keys))


def blindly(truth: Iterable[str], count: int) -> list[str]:
    """As many keys as a choice has, drawn without looking."""
    return random.Random(SEED).sample(sorted(truth), count)  # noqa: S311 - no secret


def rewritten_captions(tour: Tour) -> Rewritten:
    """How many captions were rewritten, and what the classifier says of them."""
    table = _read(tour.out / "assessments", "key", "rewritten")
    new = table.filter("rewritten")
    before = _read(tour.out / "quality", "key", "quality_score").join(new, on="key")
    after = _read(tour.out / "quality-enhanced", "key", "quality_score").join(new, on="key")
    means = (_mean(scores["quality_score"]) for scores in (before, after))
    return Rewritten(table.height, new.height, *means)


def _read(folder: Path, *columns: str) -> pl.DataFrame:
    return scan_files(table_files(folder).values()).select(columns).collect()


def _mean(scores: pl.Series) -> float:
    return float(scores.mean() or 0.0)  # type: ignore[arg-type]


def read_back(curated: Path) -> int:
    """Samples that the webdataset package finds in tars."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    count = 0
    for tar in sorted(curated.rglob("*.tar")):
        with tar.open("rb") as stream:  # its own opener leaves the file to the garbage collector
            members = tar_file_expander([{"url": str(tar), "stream": stream}])
            count += sum(1 for _ in group_by_keys(members))
    return count


# demo: the whole pipeline on rendered data, offline, one shown command after the other

Count: TypeAlias = Annotated[int, whole(gte=12)]
"""Of captions and documents: a few of each kind and level."""

_NAMES = ("0 unrelated", "1 several errors", "2 one error", "3 right")


@dataclass(frozen=True, kw_only=True)
class DemoReport(Report):
    """How the demo went."""

    pool: dict[int, int] = field(default_factory=dict)
    """Level -> captions and documents before any cut."""
    kept: dict[str, dict[int, int]] = field(default_factory=dict)
    """Cut -> level -> kept samples; `random`: as many as the first cut, drawn blindly."""
    read_back: int = 0
    """Samples that the webdataset package read from the exported tars."""
    captions: Rewritten | None = None
    """What became of the captions that were judged."""
    right: dict[str, float] = field(default_factory=dict)
    """`pool`, `random` (30%, drawn blindly), `subset` -> share of instruction samples whose
    answers the pictures confirm."""

    def summary(self) -> str:
        """What was done to the truth, the last line with counts, seconds and the page."""
        if self.captions is None:
            return "\n".join([*self.notes, f"dry run: nothing was made in {self.out}"])
        total = sum(self.pool.values())
        lines = [
            "",
            "What the models never saw: how each text was written.",
            "",
            *self._levels(),
            "",
            f"webdataset read {self.read_back:,} samples back from the exported tars.",
            f"{self.captions.rewritten:,} of {self.captions.captions:,} captions were rewritten: "
            f"their mean quality rose from {self.captions.before:.2f} to "
            f"{self.captions.after:.2f}, and no image was thrown away.",
            f"Instruction samples with right answers: {self.right['pool']:.1%} of the pool, "
            f"{self.right['random']:.1%} of a random 30%, {self.right['subset']:.1%} of the "
            "chosen 30%.",
            f"{total:,} texts, {len(CUTS)} cuts, one rewriting, one subset in "
            f"{self.seconds:.1f} s; look at {self.out / 'report.html'}",
        ]
        return "\n".join(lines)

    def _levels(self) -> list[str]:
        """A table of the shares of the levels before and after each cut."""
        columns = {"pool": self.pool, **self.kept}
        lines = [f"{'Shares:':<18}" + "".join(f"{name:>9}" for name in columns)]
        for level in reversed(LEVELS):
            shares = (
                counts.get(level, 0) / max(1, sum(counts.values())) for counts in columns.values()
            )
            lines.append(f"{_NAMES[level]:<18}" + "".join(f"{share:>9.1%}" for share in shares))
        totals = "".join(f"{sum(counts.values()):>9,}" for counts in columns.values())
        return [*lines, f"{'samples':<18}{totals}"]


@timed
def demo(
    *, out: Path, count: Count = 3000, dry_run: DryRun = False, quiet: Quiet = False
) -> DemoReport:
    """Make noisy pools with known truth; score, filter, rewrite, rate, select, export, look.

    Parameters
    ----------
    out
        Folder of everything that is made.
    count
        Captions (two thirds) and documents of the pool; a third as many instruction samples.
    """
    _check(Path(out), count)
    third = count // 3
    tour = Tour(Path(out), captions=count - third, documents=third, instructions=third)
    steps = tour.steps()
    if dry_run:
        shown = tuple(line for step in steps for line in step.shown())
        return DemoReport(out=tour.out, notes=shown)
    for step in steps:
        step.run(quiet)
    return _report(tour)


def _report(tour: Tour) -> DemoReport:
    """What is known now."""
    levels = levels_of_texts(tour)
    kept = {name: kept_keys(tour.out / "decisions" / name) for name in CUTS}
    kept = {"random": blindly(levels, len(kept["top"])), **kept}
    right = right_samples(tour)
    chosen = kept_keys(tour.out / "subset")
    shown = {"pool": list(right), "random": blindly(right, len(chosen)), "subset": chosen}
    return DemoReport(
        out=tour.out,
        pool=count_levels(levels, levels),
        kept={name: count_levels(keys, levels) for name, keys in kept.items()},
        read_back=read_back(tour.out / "curated"),
        captions=rewritten_captions(tour),
        right={
            name: sum(right[key] for key in keys) / max(1, len(keys))
            for name, keys in shown.items()
        },
    )


def _check(out: Path, count: int) -> None:
    check_folder(out)
    check_value("count", count, Count)
    if find_spec("webdataset") is None:
        raise RequestError("the demo reads its tars back: pip install 'mmsieve[demo]'")
    for name in (CLASSIFIER, ENHANCER, SCORER, STYLER):
        if bundled_folder(name) is None:
            raise RequestError(f"{name} is missing from this installation: install mmsieve again")
