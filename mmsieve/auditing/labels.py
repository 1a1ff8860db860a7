"""The labels that a rater gave: a line of JSON per sample, as the form of `audit` exports them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from mmsieve.errors import RequestError, Status
from mmsieve.tables import Table
from mmsieve.wording import counted

_MOST_BYTES = 1 << 28


class LabelLine(BaseModel):
    """A line of a labels file."""

    model_config = ConfigDict(extra="ignore", strict=True)

    key: str
    shard: str
    place: int | None = None
    label: Literal[0, 1] | None
    """1 good, 0 bad; null: the rater couldn't say."""
    rater: str = ""


@dataclass(frozen=True)
class LabelledRows:
    """The rows of a table that raters judged."""

    scores: npt.NDArray[np.float64]
    """Of each row [rows]."""
    good: npt.NDArray[np.float64]
    """Share of its raters who called it good [rows]."""
    judgements: npt.NDArray[np.float64]
    """What each rater said, not-a-number where nothing [raters, rows]."""
    raters: tuple[str, ...]
    unsure: int
    """Samples that no rater could judge."""
    missing: int
    """Labels of samples that the table has not, or has no score of."""


def read_labels(paths: Sequence[Path]) -> list[tuple[str, LabelLine]]:
    """Rater and line of all labels; of a sample that a rater judged twice, the last.

    Raises RequestError for a file that holds none, or a line that is none.
    """
    found: dict[tuple[str, str, str, int | None], tuple[str, LabelLine]] = {}
    for path in paths:
        lines = _read_lines(path)
        if not lines:
            raise RequestError(f"{path}: holds no label: export it from the form of `audit`")
        for line in lines:
            rater = line.rater or path.name
            found[rater, line.shard, line.key, line.place] = rater, line
    return list(found.values())


def _read_lines(path: Path) -> list[LabelLine]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise RequestError(f"{path}: too large for labels")
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise RequestError(f"{path}: can't be read as labels: {error.strerror}") from error
    parsed = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            parsed.append(LabelLine.model_validate_json(line))
        except ValidationError as error:
            wrong = error.errors()[0]
            place = ".".join(map(str, wrong["loc"]))
            raise RequestError(
                f"{path}, line {number}: no label ({place + ': ' if place else ''}{wrong['msg']}); "
                'each line is {"key": ..., "shard": ..., "label": 1, 0 or null}'
            ) from error
    return parsed


def find_rows(table: Table, by: str, labels: Iterable[tuple[str, LabelLine]]) -> LabelledRows:
    """The rows that labels are about, with their scores; raises RequestError where there is none.

    A row is known by its place in its shard, or by its key where a label or the table has no place.
    """
    labels = list(labels)
    scores = _find_scores(table, by, {line.key for _, line in labels})
    raters = tuple(dict.fromkeys(rater for rater, _ in labels))
    said: dict[tuple[str, str, int | None], dict[str, int | None]] = {}
    missing = 0
    for rater, line in labels:
        name = (line.shard, line.key, line.place)
        if name not in scores:
            name = (line.shard, line.key, None)
        if name in scores:
            said.setdefault(name, {})[rater] = line.label
        else:
            missing += 1
    judged = {
        name: some for name, some in said.items() if any(one is not None for one in some.values())
    }
    if not judged:
        raise RequestError(
            f"no judgement among {counted(len(labels), 'labels')} is on a row of {table.name} "
            "that has a score: give the table that the form was made of"
        )
    rows = [[_number(some.get(rater)) for some in judged.values()] for rater in raters]
    judgements = np.array(rows)
    return LabelledRows(
        scores=np.array([scores[name] for name in judged]),
        good=np.nanmean(judgements, axis=0),
        judgements=judgements,
        raters=raters,
        unsure=len(said) - len(judged),
        missing=missing,
    )


def _number(label: int | None) -> float:
    return float("nan") if label is None else float(label)


def _find_scores(table: Table, by: str, keys: set[str]) -> dict[tuple[str, str, int | None], float]:
    """Shard, key and place -> score of rows of these keys; without place, a key that comes once."""
    names = [name for name in ("key", "shard", "status", "place") if name in table.types]
    wanted = pl.Series("key", sorted(keys))
    found: dict[tuple[str, str, int | None], float] = {}
    times: Counter[tuple[str, str]] = Counter()
    for _, frame in table.batches([*names, by]):
        some = frame.filter(pl.col("key").cast(pl.String).is_in(wanted.implode()))
        if "status" in names:
            some = some.filter(pl.col("status") == Status.OK.value)
        some = some.filter(pl.col(by).cast(pl.Float64).is_finite())
        for row in some.iter_rows(named=True):
            name = (row["shard"], row["key"])
            times[name] += 1
            found[(*name, row.get("place"))] = found[(*name, None)] = float(row[by])
    for (shard, key), count in times.items():
        if count > 1:
            found.pop((shard, key, None), None)
    return found


def agreement_of(judgements: npt.NDArray[np.float64]) -> float | None:
    """Krippendorff's alpha of the raters' judgements [raters, rows]: 1 they agree, 0 by chance.

    By the package of that name (K. Krippendorff, Content Analysis); None with one rater, or where
    no sample was judged by two. Raises RequestError where the package is missing.
    """
    if len(judgements) < 2 or not ((~np.isnan(judgements)).sum(axis=0) > 1).any():
        return None
    if find_spec("krippendorff") is None:
        raise RequestError("several raters need krippendorff: pip install 'mmsieve[evaluate]'")
    import krippendorff

    if len(np.unique(judgements[~np.isnan(judgements)])) < 2:
        return 1.0  # all say the same of all: the package finds no domain
    return float(krippendorff.alpha(judgements, level_of_measurement="nominal"))
