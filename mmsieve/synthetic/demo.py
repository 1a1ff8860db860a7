"""The demo: the whole pipeline on drawn data, offline, one shown command after the other.

What the models never see is known here, so that the report can say how well they did.
"""

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
from mmsieve.locks import writing_to
from mmsieve.methods.folders import bundled_folder
from mmsieve.options import DryRun, Quiet, check_value, whole
from mmsieve.outputs import check_folder
from mmsieve.reports import Report, timed
from mmsieve.sanitize import write
from mmsieve.synthetic.instructions import WRONG_CAP
from mmsieve.tables import read_frames, table_files
from mmsieve.wording import counted

SEED = 20
"""Not the seed of the models' own training scenes."""
MODELS = ("unifilter-tiny", "aitqe-tiny", "mmssr-tiny-scorer", "mmssr-tiny-styler")
FILTERS = ("top", "floor", "where")
"""Folders of the decisions."""

STEPS = """
# Draw {captions:,} captions, each at a random one of four levels of quality
generate captions {drawn} --texts-per-image 1 --shards --count {captions} {seed} {out}pool/captions
# Draw {documents:,} documents, each at a random one of four levels of quality
generate documents {drawn} --texts-per-image 1 --shards --count {documents} {seed} \
    {out}pool/documents
# Score them: the model sees pixels and text, not the level
score {shards} --model unifilter-tiny {out}quality
# Keep the best quarter
filter {in}quality --top-fraction 0.25 {out}decisions/top
# Or keep what scores at least 2.5
filter {in}quality --min-score 2.5 {out}decisions/floor
# Or ask in SQL, over any column: good documents of several images
filter {in}quality --where 'quality_score >= 2.5 AND num_images > 1' {out}decisions/where
# Copy the best quarter, byte for byte
export {shards} --decisions {in}decisions/top {out}curated
# Or throw no image away: judge the captions, and rewrite the poor ones
enhance {in}pool/captions/shards --model aitqe-tiny {out}assessments
# Put the rewrites into the tars; the images stay as they are
export {in}pool/captions/shards --captions {in}assessments {out}enhanced
# Score the captions again
score {in}enhanced --model unifilter-tiny {out}quality-enhanced
# Draw {instructions:,} instruction samples, nearly half of them wrong
generate ratings {drawn} --count {instructions} {seed} {out}pool/instructions
# Rate what they teach, name their styles
rate {in}{items} --images {in}pool/instructions --model mmssr-tiny-scorer \
    --styler mmssr-tiny-styler {out}ratings
# Choose 30%: rich in every capability, diverse in style
select {in}ratings --budget 0.3 --above 1 {out}subset --data {in}{items} --subset {in}subset.json
# Look at it
report {in}quality {in}decisions/top {in}decisions/floor {in}decisions/where {in}assessments \
    {in}ratings {in}subset {shards} {in}{items} --images {in}pool/instructions {out}report.html
"""
"""The commands, each below a line on what it is for."""


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
            write("\n".join(self.shown()), sys.stdout)
        command = [sys.executable, "-m", "mmsieve", *self.words]
        done = subprocess.run(command, check=False, capture_output=quiet, text=True)  # noqa: S603 - ours
        if done.returncode:
            reason = f": {done.stderr.strip()}" if quiet else ""
            raise MmsieveError(f"the step `mmsieve {self.words[0]}` failed{reason}")


def demo_steps(out: Path, count: int) -> Iterator[Step]:
    """All commands, for so many captions and documents."""
    third, place = count // 3, "{place}/"
    text = STEPS.format_map(
        {
            "captions": count - third,
            "documents": third,
            "instructions": third,
            "drawn": "--teacher rendered",
            "seed": f"--seed {SEED}",
            "in": place,
            "out": f"--out {place}",
            "shards": f"{place}pool/captions/shards {place}pool/documents/shards",
            "items": "pool/instructions/qas.json",
        }
    )
    lines = text.replace("\\\n", " ").strip().splitlines()
    for title, command in zip(lines[::2], lines[1::2], strict=True):
        words = shlex.split(command)
        yield Step(title.removeprefix("# "), [word.format(place=out) for word in words])


@dataclass(frozen=True)
class Rewritten:
    """What became of the captions."""

    captions: int
    rewritten: int
    before: float
    """The classifier's mean score of the rewritten captions, as they were."""
    after: float
    """And of what they became."""


def levels_of_texts(pool: Path) -> dict[str, int]:
    """Key -> level of every caption and document, as the teacher wrote them down."""
    places = (pool / what / TRAIN for what in ("captions", "documents"))
    entries = (entry for place in places for entry in read_training_file(place)[0])
    return {str(entry.id): int(entry.label) for entry in entries}


def right_samples(pool: Path) -> dict[str, bool]:
    """Key -> whether the pictures confirm all answers of an instruction sample."""
    records = json.loads((pool / "instructions" / TRAIN).read_text("utf-8"))
    return {str(one["idx"]): max(one["ratings"].values()) > WRONG_CAP for one in records}


def kept_keys(decisions: Path) -> list[str]:
    """The keys that decisions keep."""
    rows = pl.concat(read_frames(decision_files(decisions).values(), ("key", "keep")))
    return [str(key) for key in rows.filter("keep")["key"]]


def blindly(truth: Iterable[str], count: int) -> list[str]:
    """As many keys as a choice has, drawn without looking."""
    return random.Random(SEED).sample(sorted(truth), count)  # noqa: S311 - no secret


def rewritten_captions(out: Path) -> Rewritten:
    """How many captions were rewritten, and what the classifier says of them."""
    table = _read(out / "assessments", "key", "rewritten")
    new = table.filter("rewritten")
    folders = (out / "quality", out / "quality-enhanced")
    scores = (_read(folder, "key", "quality_score").join(new, on="key") for folder in folders)
    means = (own.select(pl.col("quality_score").mean()).item() or 0.0 for own in scores)
    return Rewritten(table.height, new.height, *means)


def _read(folder: Path, *columns: str) -> pl.DataFrame:
    return pl.concat(read_frames(table_files(folder).values(), columns))


def read_back(curated: Path) -> int | None:
    """Samples that the webdataset package finds in tars; None where it isn't installed."""
    if find_spec("webdataset") is None:
        return None
    from webdataset.tariterators import group_by_keys, tar_file_expander

    count = 0
    for tar in sorted(curated.rglob("*.tar")):
        with tar.open("rb") as stream:  # its own opener leaves the file to the garbage collector
            members = tar_file_expander([{"url": str(tar), "stream": stream}])
            count += sum(1 for _ in group_by_keys(members))
    return count


Count: TypeAlias = Annotated[int, whole(gte=12)]
"""Of captions and documents: a few of each kind and level."""

_NAMES = ("0 unrelated", "1 several errors", "2 one error", "3 right")


@dataclass(frozen=True, kw_only=True)
class DemoReport(Report):
    """How the demo went."""

    pool: dict[int, int] = field(default_factory=dict)
    """Level -> captions and documents before any filtering."""
    kept: dict[str, dict[int, int]] = field(default_factory=dict)
    """Filtering -> level -> kept samples; `random`: as many as the first keeps, drawn blindly."""
    read_back: int | None = None
    """Samples that the webdataset package read from the exported tars; None: not installed."""
    captions: Rewritten | None = None
    """What became of the captions that were judged."""
    right: dict[str, float] = field(default_factory=dict)
    """`pool`, `random` (30%, drawn blindly), `subset` -> share of instruction samples whose
    answers the pictures confirm."""

    def summary(self) -> str:
        """What was done to the truth, the last line with counts, seconds and the page."""
        if self.captions is None:
            return super().summary()
        total = sum(self.pool.values())
        lines = [
            "",
            "What the models never saw: how each text was written.",
            "",
            *self._levels(),
            "",
            self._read_back_line(),
            f"{self.captions.rewritten:,} of {self.captions.captions:,} captions were rewritten: "
            f"their mean quality rose from {self.captions.before:.2f} to "
            f"{self.captions.after:.2f}, and no image was thrown away.",
            f"Instruction samples with right answers: {self.right['pool']:.1%} of the pool, "
            f"{self.right['random']:.1%} of a random 30%, {self.right['subset']:.1%} of the "
            "chosen 30%.",
            f"{total:,} texts, {len(FILTERS)} cuts, one rewriting, one subset in "
            f"{self.seconds:.1f} s; look at {self.out / 'report.html'}",
        ]
        return "\n".join(lines)

    def _read_back_line(self) -> str:
        if self.read_back is None:
            fix = "pip install 'mmsieve[demo]'"
            return f"The exported tars were not read back, for want of webdataset: {fix}"
        return f"webdataset read {counted(self.read_back, 'samples')} back from the exported tars."

    def _levels(self) -> list[str]:
        """A table of the shares of the levels before and after each filtering."""
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
    out = Path(out)
    check_folder(out)
    check_value("count", count, Count)
    if missing := [name for name in MODELS if bundled_folder(name) is None]:
        raise RequestError(f"{missing[0]} is missing from this installation: install mmsieve again")
    steps = list(demo_steps(out, count))
    if dry_run:
        shown = tuple(line for step in steps for line in step.shown())
        return DemoReport(out=out, dry_run=True, notes=shown)
    with writing_to(out, "demo"):
        for step in steps:
            step.run(quiet)
    return _report(out)


def _report(out: Path) -> DemoReport:
    levels, right = levels_of_texts(out / "pool"), right_samples(out / "pool")
    kept = {name: kept_keys(out / "decisions" / name) for name in FILTERS}
    kept = {"random": blindly(levels, len(kept["top"])), **kept}
    chosen = kept_keys(out / "subset")
    shown = {"pool": list(right), "random": blindly(right, len(chosen)), "subset": chosen}
    return DemoReport(
        out=out,
        pool=dict(Counter(levels.values())),
        kept={name: dict(Counter(levels[key] for key in keys)) for name, keys in kept.items()},
        read_back=read_back(out / "curated"),
        captions=rewritten_captions(out),
        right={
            name: sum(right[key] for key in keys) / max(1, len(keys))
            for name, keys in shown.items()
        },
    )
