"""demo: the whole pipeline on rendered data, offline, one shown command after the other."""

import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from mmsieve.errors import RequestError
from mmsieve.levels import LEVELS
from mmsieve.models.catalog import bundled_folder
from mmsieve.table import check_folder
from mmsieve.tour import truth
from mmsieve.tour.steps import CLASSIFIER, CUTS, ENHANCER, SCORER, STYLER, Tour
from mmsieve.tour.truth import Rewritten

_NAMES = ("0 unrelated", "1 several errors", "2 one error", "3 right")


@dataclass(frozen=True, kw_only=True)
class DemoReport:
    """How the demo went."""

    out: Path
    seconds: float
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
    notes: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    """Always empty: a step that fails ends the demo."""

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


def demo(*, out: Path, count: int = 3000, dry_run: bool = False, quiet: bool = False) -> DemoReport:
    """Make noisy pools with known truth; score, filter, rewrite, rate, select, export, look.

    Parameters
    ----------
    out
        Folder of everything that is made.
    count
        Captions (two thirds) and documents of the pool; a third as many instruction samples.
    dry_run
        Show the commands, and stop.
    quiet
        Only the last table: neither the commands nor what they say.
    """
    started = time.monotonic()
    _check(Path(out), count)
    third = count // 3
    tour = Tour(Path(out), captions=count - third, documents=third, instructions=third)
    steps = tour.steps()
    if dry_run:
        shown = tuple(line for step in steps for line in step.shown())
        return DemoReport(out=tour.out, seconds=time.monotonic() - started, notes=shown)
    for step in steps:
        step.run(quiet)
    return _report(tour, started)


def _report(tour: Tour, started: float) -> DemoReport:
    """What is known now."""
    levels = truth.levels_of_texts(tour)
    kept = {name: truth.kept_keys(tour.out / "decisions" / name) for name in CUTS}
    kept = {"random": truth.blindly(levels, len(kept["top"])), **kept}
    right = truth.right_samples(tour)
    chosen = truth.kept_keys(tour.out / "subset")
    shown = {"pool": list(right), "random": truth.blindly(right, len(chosen)), "subset": chosen}
    return DemoReport(
        out=tour.out,
        seconds=time.monotonic() - started,
        pool=truth.count_levels(levels, levels),
        kept={name: truth.count_levels(keys, levels) for name, keys in kept.items()},
        read_back=truth.read_back(tour.out / "curated"),
        captions=truth.rewritten_captions(tour),
        right={
            name: sum(right[key] for key in keys) / max(1, len(keys))
            for name, keys in shown.items()
        },
    )


def _check(out: Path, count: int) -> None:
    check_folder(out)
    if count < 12:
        raise RequestError(f"--count {count}: must be at least 12")
    if find_spec("webdataset") is None:
        raise RequestError("the demo reads its tars back: pip install 'mmsieve[demo]'")
    for name in (CLASSIFIER, ENHANCER, SCORER, STYLER):
        if bundled_folder(name) is None:
            raise RequestError(f"{name} is missing from this installation: install mmsieve again")
