"""Whether an audit tells the truth: intervals and chosen cuts against what was drawn.

    python -m benchmarks.audit_truth FOLDER [--count 6000] [--seeds 300]

Draws captions whose levels are known into FOLDER and scores them. A person who judges a sample
of them is played by the truth: a caption of level 3 is good. For each seed the rows get other
names, so that the form of `audit` takes other samples of the same population; its 200 labels are
read back as `audit --read` and `filter --min-precision` read them. Counted are the seeds whose 95%
interval holds the true precision and recall of a cut, and how precise the cut is that `filter`
chooses, or that it says that the labels don't show so much.

Four scores are audited: the model's own, which knows the truth nearly always; the same with noise,
as of a model that errs; that of the text alone, which knows nothing; and the one with noise rounded
to whole numbers, which ties most rows.
"""

import argparse
import json
import os
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import polars as pl

import mmsieve
from mmsieve import CutOptions, GenerateOptions, RequestError, RunOptions
from mmsieve.auditing.cut import cut_of_labels
from mmsieve.auditing.form import scores_of
from mmsieve.auditing.labels import find_rows, read_labels
from mmsieve.auditing.precision import CutEstimate, Precision
from mmsieve.generation.files import TRAIN, read_training_file
from mmsieve.labels import POSITIVE
from mmsieve.reporting.inputs import ReportTable, find_table
from mmsieve.tables import SCORE, open_tables
from tests.helpers.tables import rows_of, write_table

KEPT = (0.9, 0.75, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05)
"""Shares of the rows that the cuts keep."""
WANTED = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Precisions that `filter` is asked for."""
LABELS, SHORT, SEED = 200, 0.03, 20
NOISE = 0.8
_HELD, _PRECISE = 0.93, 0.9
"""What share of the seeds must be right."""


@dataclass
class Population:
    """All rows: their scores, and which are good."""

    scores: npt.NDArray[np.float32]
    good: npt.NDArray[np.bool_]
    held: dict[str, Counter[float]] = field(default_factory=dict)
    """precision, recall -> the share that a cut keeps -> seeds whose interval holds the truth."""
    precise: Counter[float] = field(default_factory=Counter)
    """Wanted precision -> seeds whose cut is at most 3 points less precise."""
    refused: Counter[float] = field(default_factory=Counter)
    """Wanted precision -> seeds in which `filter` said that the labels don't show so much."""
    kept: dict[float, list[float]] = field(default_factory=dict)
    """Wanted precision -> what the chosen cuts keep of the good rows."""

    def of(self, threshold: float) -> tuple[float, float]:
        """True precision and recall of a cut."""
        above = self.scores >= np.float32(threshold)
        hits = float((self.good & above).sum())
        return hits / max(1, int(above.sum())), hits / int(self.good.sum())


def main() -> None:
    """Draw, score, audit with every seed, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=6000)
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--out", type=Path, help="result file; by default results/ and the date")
    options = parser.parse_args()
    lines = []
    for name, population in populations(options.folder, options.count).items():
        for seed in range(options.seeds):
            audit(population, seed)
        lines += told(name, population, options.seeds)
    day = datetime.now(UTC).date().isoformat()
    out = options.out or Path(__file__).parent / "results" / f"audit_truth_{day}.md"
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    heading = [f"# Audits of {options.count:,} drawn captions, the truth as the rater", ""]
    heading += [f"{day}, {machine}; {options.seeds} seeds, {LABELS} labels each", ""]
    heading += ["`python -m benchmarks.audit_truth FOLDER`", ""]
    out.write_text("\n".join([*heading, *lines]) + "\n")
    print(out.read_text())


def populations(folder: Path, count: int) -> Mapping[str, Population]:
    """The scores to audit, by name."""
    drawn = folder / "captions"
    if not (folder / "scores.parquet").is_file():
        options = GenerateOptions(
            teacher="rendered", count=count, seed=SEED, texts_per_image=1, shards=True, quiet=True
        )
        mmsieve.generate_captions(out=drawn, options=options)
        found = {}
        for model in ("unifilter-tiny", "text-only:unifilter-tiny"):
            out = folder / model.replace(":", "-")
            mmsieve.score(str(drawn / "shards"), model=model, out=out, run=RunOptions(quiet=True))
            parts = map(pl.read_parquet, sorted(out.rglob("*.parquet")))
            found[model] = pl.concat(parts).select("key", pl.col(SCORE).alias(model))
        one, other = found.values()
        levels = {str(r.id): int(r.label) for r in read_training_file(drawn / TRAIN)[0]}
        joined = one.join(other, on="key")
        level = joined["key"].replace_strict(levels, return_dtype=pl.Int8).alias("level")
        joined.with_columns(level).write_parquet(folder / "scores.parquet")
    rows = pl.read_parquet(folder / "scores.parquet").drop_nulls()
    good = (rows["level"] == POSITIVE).to_numpy()
    own = rows["unifilter-tiny"].to_numpy()
    noisy = own + np.random.default_rng(SEED).normal(0, NOISE, len(own)).astype(np.float32)
    scores = {
        "unifilter-tiny": own,
        f"unifilter-tiny with noise of {NOISE}": noisy,
        "text-only:unifilter-tiny": rows["text-only:unifilter-tiny"].to_numpy(),
        "with noise, rounded": np.rint(noisy),
    }
    return {name: Population(score.astype(np.float32), good) for name, score in scores.items()}


def audit(population: Population, seed: int) -> None:
    """Judge the samples of a form, read the labels, and compare with the truth."""
    with TemporaryDirectory(prefix="mmsieve-audit-") as temporary:
        folder = Path(temporary)
        columns = rows_of("a", population.scores.tolist())
        columns["key"] = [f"{seed}-{row}" for row in range(len(population.scores))]
        columns["place"] = list(range(len(population.scores)))
        path = write_table(folder / "quality", {"a": columns})
        table = find_table(path)
        assert table is not None
        labels = folder / "labels.jsonl"
        labels.write_text("".join(judged(table, population)))
        read = find_rows(open_tables([path])[0], SCORE, read_labels([labels]))
        column = scores_of(table, SCORE, 1)
        cuts = Precision(column, read).all()
        check_intervals(population, cuts)
        chosen = {
            wanted: next((one for one in cuts if one.precision.low >= wanted), None)
            for wanted in WANTED
        }
        check_filter(path, labels, WANTED[seed % len(WANTED)], chosen)
    for wanted, cut in chosen.items():
        if cut is None:
            population.refused[wanted] += 1
            continue
        true, recall = population.of(cut.threshold)
        population.precise[wanted] += true >= wanted - SHORT
        population.kept.setdefault(wanted, []).append(recall)


def check_filter(
    table: Path, labels: Path, wanted: float, chosen: Mapping[float, CutEstimate | None]
) -> None:
    """Raise AssertionError where `filter` would cut elsewhere, or not say that it can't."""
    try:
        options = CutOptions(min_precision=wanted, labels=(labels,))
        assert cut_of_labels([str(table)], options) == chosen[wanted]
    except RequestError as error:
        assert chosen[wanted] is None
        assert "don't show so much" in str(error), error


def judged(table: ReportTable, population: Population) -> Iterator[str]:
    """The lines that the form would export, with the truth as the rater."""
    sample = scores_of(table, SCORE, LABELS).sample.filter(pl.col("status") == "ok")
    for row in sample.select("key", "shard", "place").iter_rows(named=True):
        yield json.dumps(row | {"label": int(population.good[row["place"]])}) + "\n"


def check_intervals(population: Population, cuts: Sequence[CutEstimate]) -> None:
    """Count which intervals hold the truth, at cuts that keep given shares."""
    kept = np.array([one.kept for one in cuts])
    for share in KEPT:
        one = cuts[int(np.abs(kept - share * kept[0]).argmin())]
        for name, true in zip(("precision", "recall"), population.of(one.threshold), strict=True):
            estimate = getattr(one, name)
            counted = population.held.setdefault(name, Counter())
            counted[share] += estimate.low - 1e-9 <= true <= estimate.high + 1e-9


def told(name: str, population: Population, seeds: int) -> list[str]:
    """The lines about one score."""
    worst = {
        n: min(counted[share] for share in KEPT) / seeds for n, counted in population.held.items()
    }
    lines = [f"## {name}", "", f"{population.good.mean():.1%} of the rows are good.", ""]
    lines += ["| the cut keeps | " + " | ".join(f"{share:.0%}" for share in KEPT) + " |"]
    lines += ["|---" * (len(KEPT) + 1) + "|"]
    for what, counted in population.held.items():
        shares = " | ".join(f"{counted[share] / seeds:.1%}" for share in KEPT)
        lines.append(f"| interval of the {what} holds the truth | {shares} |")
    lines += ["", f"The least: {', '.join(f'{n} {w:.1%}' for n, w in worst.items())}.", ""]
    lines += [
        "| wanted precision | true one at most 3 points less | says it can't | keeps of the good |"
    ]
    lines += ["|---" * 4 + "|"]
    for wanted in WANTED:
        chosen = seeds - population.refused[wanted]
        right = f"{population.precise[wanted] / chosen:.1%} of {chosen}" if chosen else "-"
        recall = f"{np.mean(population.kept[wanted]):.1%}" if chosen else "-"
        lines.append(
            f"| {wanted:.2f} | {right} | {population.refused[wanted]} of {seeds} | {recall} |"
        )
    failed = [n for n, w in worst.items() if w < _HELD]
    failed += [
        f"{wanted:.2f}"
        for wanted in WANTED
        if (chosen := seeds - population.refused[wanted])
        and population.precise[wanted] + population.refused[wanted] < _PRECISE * seeds
    ]
    lines += ["", f"Missed: {', '.join(failed) or 'nothing'}.", ""]
    return lines


if __name__ == "__main__":
    main()
