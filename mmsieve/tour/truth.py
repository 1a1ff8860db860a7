"""What is known of the demo's pools beforehand, and what was made of it."""

import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from mmsieve.decisions import decision_files
from mmsieve.generate.files import TRAIN, read_training_file
from mmsieve.rendered.task_ratings import WRONG_CAP
from mmsieve.table import files
from mmsieve.tour.steps import SEED, Tour


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
    keys = pl.scan_parquet(found).filter("keep").select("key").collect()["key"]
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
    return pl.scan_parquet(list(files(folder).values())).select(columns).collect()


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
