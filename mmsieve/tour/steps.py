"""The demo's commands, in order, each with a line on what it is for."""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmsieve.errors import MmsieveError

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
