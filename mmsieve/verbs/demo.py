"""demo: the whole pipeline on rendered data, offline, one shown command after the other."""

import random
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import polars as pl

from mmsieve.decisions import decision_files
from mmsieve.errors import MmsieveError, RequestError
from mmsieve.generate.files import TRAIN, read_training_file
from mmsieve.levels import LEVELS
from mmsieve.models.catalog import bundled_folder
from mmsieve.table import check_folder

_MODEL = "unifilter-tiny"
_SEED = 20
"""Not the seed of the model's own training scenes."""
_CUTS = {
    "top": ("Keep the best quarter", ["--top-fraction", "0.25"]),
    "floor": ("Or keep what scores at least 2.5", ["--min-score", "2.5"]),
    "where": (
        "Or ask in SQL, over any column: good documents of several images",
        ["--where", "quality_score >= 2.5 AND num_images > 1"],
    ),
}
"""Name -> what a cut is for, and its options."""
_NAMES = ("0 unrelated", "1 several errors", "2 one error", "3 right")


@dataclass(frozen=True, kw_only=True)
class DemoReport:
    """How the demo went."""

    out: Path
    seconds: float
    pool: dict[int, int] = field(default_factory=dict)
    """Level -> samples before any cut."""
    kept: dict[str, dict[int, int]] = field(default_factory=dict)
    """Cut -> level -> kept samples; `random`: as many as the first cut, drawn blindly."""
    read_back: int = 0
    """Samples that the webdataset package read from the exported tars."""
    notes: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    """Always empty: a step that fails ends the demo."""

    def summary(self) -> str:
        """What the cuts did to the truth, the last line with counts, seconds and the page."""
        if not self.pool:
            return "\n".join([*self.notes, f"dry run: nothing was made in {self.out}"])
        columns = {"pool": self.pool, **self.kept}
        lines = [
            "",
            "What the model never saw: the level at which each text was written. Shares:",
            "",
            f"{'':<18}" + "".join(f"{name:>9}" for name in columns),
        ]
        for level in reversed(LEVELS):
            shares = (
                counts.get(level, 0) / max(1, sum(counts.values())) for counts in columns.values()
            )
            lines.append(f"{_NAMES[level]:<18}" + "".join(f"{share:>9.1%}" for share in shares))
        totals = "".join(f"{sum(counts.values()):>9,}" for counts in columns.values())
        lines += [
            f"{'samples':<18}{totals}",
            "",
            f"webdataset read {self.read_back:,} samples back from the exported tars.",
            f"{sum(self.pool.values()):,} samples, {len(_CUTS)} cuts in {self.seconds:.1f} s; "
            f"look at {self.out / 'report.html'}",
        ]
        return "\n".join(lines)


def demo(*, out: Path, count: int = 3000, dry_run: bool = False, quiet: bool = False) -> DemoReport:
    """Make a noisy pool with known truth, score it, filter it three ways, export, look at it.

    Parameters
    ----------
    out
        Folder of everything that is made.
    count
        Samples of the pool: two thirds captions, one third documents.
    dry_run
        Show the commands, and stop.
    quiet
        Only the last table: neither the commands nor what they say.
    """
    started = time.monotonic()
    out = Path(out)
    _check(out, count)
    documents = count // 3
    pools = {"captions": count - documents, "documents": documents}
    steps = _steps(out, pools)
    if dry_run:
        shown = tuple(line for step in steps for line in _shown(step))
        return DemoReport(out=out, seconds=time.monotonic() - started, notes=shown)
    for step in steps:
        _run(step, quiet)
    truth = _truth(out, pools)
    kept = {name: _kept(out / "decisions" / name) for name in _CUTS}
    blind = random.Random(_SEED).sample(sorted(truth), len(kept["top"]))  # noqa: S311 - no secret
    return DemoReport(
        out=out,
        seconds=time.monotonic() - started,
        pool=_levels(truth, truth),
        kept={name: _levels(keys, truth) for name, keys in {"random": blind, **kept}.items()},
        read_back=_read_back(out / "curated"),
    )


def _check(out: Path, count: int) -> None:
    check_folder(out)
    if count < 12:
        raise RequestError(f"--count {count}: must be at least 12")
    if find_spec("webdataset") is None:
        raise RequestError("the demo reads its tars back: pip install 'mmsieve[demo]'")
    if bundled_folder(_MODEL) is None:
        raise RequestError(f"{_MODEL} is missing from this installation: install mmsieve again")


def _steps(out: Path, pools: dict[str, int]) -> list[tuple[str, list[str]]]:
    """What is done, in words and as the words of a command."""
    shards = [str(out / "pool" / what / "shards") for what in pools]
    quality, page = str(out / "quality"), str(out / "report.html")
    decisions = {name: str(out / "decisions" / name) for name in _CUTS}
    steps = []
    for what, count in pools.items():
        options = ["--teacher", "rendered", "--texts-per-image", "1", "--shards"]
        size = ["--count", str(count), "--seed", str(_SEED), "--out", str(out / "pool" / what)]
        title = f"Draw {count:,} {what}, each at a random one of four levels of quality"
        steps.append((title, ["generate", what, *options, *size]))
    title = "Score them: the model sees pixels and text, not the level"
    steps.append((title, ["score", *shards, "--model", _MODEL, "--out", quality]))
    for name, (title, cut) in _CUTS.items():
        steps.append((title, ["filter", quality, *cut, "--out", decisions[name]]))
    title = "Copy the best quarter, byte for byte"
    chosen = ["--decisions", decisions["top"], "--out", str(out / "curated")]
    steps.append((title, ["export", *shards, *chosen]))
    title = "Look at it"
    steps.append((title, ["report", quality, *decisions.values(), *shards, "--out", page]))
    return steps


def _shown(step: tuple[str, list[str]]) -> list[str]:
    """A step as a user reads it."""
    title, words = step
    return ["", f"# {title}", f"$ {shlex.join(['mmsieve', *words])}"]


def _run(step: tuple[str, list[str]], quiet: bool) -> None:
    """Run a command as a user would, and show it."""
    _, words = step
    if not quiet:
        sys.stdout.write("\n".join(_shown(step)) + "\n")
        sys.stdout.flush()
    command = [sys.executable, "-m", "mmsieve", *words]
    done = subprocess.run(command, check=False, capture_output=quiet, text=True)  # noqa: S603 - ours
    if done.returncode:
        reason = f": {done.stderr.strip()}" if quiet else ""
        raise MmsieveError(f"the step `mmsieve {words[0]}` failed{reason}")


def _truth(out: Path, pools: dict[str, int]) -> dict[str, int]:
    """Key -> level of every sample, as the teacher wrote them down."""
    files = (out / "pool" / what / TRAIN for what in pools)
    entries = (entry for file in files for entry in read_training_file(file))
    return {str(entry.id): int(entry.label) for entry in entries}


def _kept(decisions: Path) -> list[str]:
    files = list(decision_files(decisions).values())
    keys = pl.scan_parquet(files).filter("keep").select("key").collect()["key"]
    return [str(key) for key in keys]


def _levels(keys: Iterable[str], truth: dict[str, int]) -> dict[int, int]:
    return dict(Counter(truth[key] for key in keys))


def _read_back(curated: Path) -> int:
    """Samples that the webdataset package finds in tars."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    count = 0
    for tar in sorted(curated.rglob("*.tar")):
        with tar.open("rb") as stream:  # its own opener leaves the file to the garbage collector
            members = tar_file_expander([{"url": str(tar), "stream": stream}])
            count += sum(1 for _ in group_by_keys(members))
    return count
