"""What holds of every selection, on random tables and on real files."""

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmsieve.errors import RequestError
from mmsieve.selection.choosing import Rounds, SampleBudget
from mmsieve.selection.options import SelectOptions
from mmsieve.selection.pool import RatingTable
from mmsieve.tables import open_tables
from tests.helpers.select_oracle import expected
from tests.helpers.selections import choose, ratings_of, write_ratings
from tests.helpers.tables import read_decisions

NAMES = ("ocr", "data", "scene")
files = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
WIDE = {
    "int8": (pa.int8(), st.integers(-2, 6)),
    "int64": (pa.int64(), st.sampled_from([-(2**62), 0, 1, 2**53, 2**53 + 1, 2**62])),
    "float64": (pa.float64(), st.sampled_from([0.1, 0.1 + 2**-56, 1.0, 2.5, -1.0, 1e300])),
    "float32": (pa.float32(), st.sampled_from([0.5, 1.0, 1.5, 2.0, -1.0])),
}


def row(ratings: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    fields = {name: st.none() | ratings for name in NAMES}
    return st.fixed_dictionaries(
        {
            "styles": st.none() | st.lists(st.sampled_from([*"abcde", " a", ""]), max_size=4),
            "image_source": st.sampled_from(["x", "y", "z"]),
            "status": st.sampled_from(["ok"] * 9 + ["image_missing"]),
            "num_tokens": st.integers(1, 9),
            **fields,
        }
    )


@st.composite
def tables(draw: st.DrawFn, kinds: tuple[str, ...] = tuple(WIDE)) -> tuple[list[Any], Any]:
    kind, ratings = WIDE[draw(st.sampled_from(kinds))]
    rows = draw(st.lists(row(ratings), min_size=1, max_size=60))
    return [{"key": number} | each for number, each in enumerate(rows)], kind


def write(path: Path, table: tuple[list[Any], Any], cuts: list[int] | None = None) -> Path:
    rows, kind = table
    columns = ratings_of(rows, **dict.fromkeys(NAMES, kind), num_tokens=pa.int32())
    return write_ratings(path, columns, sorted(c for c in cuts or [] if c < len(rows)))


def chosen(path: Path, out: Path, **options: Any) -> list[int]:
    """The numbers of the chosen rows; a request that nothing can fulfil is refused."""
    options = {"capabilities": ",".join(NAMES)} | options
    try:
        choose(path, out, overwrite=True, **options)
    except RequestError as error:
        assert "no ratings above" in str(error)
        return []
    decisions = read_decisions(out)
    assert decisions["key"].to_list() == [str(n) for n in range(decisions.height)]
    assert (decisions["keep"] == decisions["reason"].is_null()).all()
    return np.flatnonzero(decisions["keep"].to_numpy()).tolist()


@given(tables(), st.integers(1, 60), st.sampled_from([0, 1, 0.5, -2, 4]))
@files
def test_equals_the_plain_description(
    tmp_path_factory: pytest.TempPathFactory, table: Any, budget: int, above: float
) -> None:
    folder = tmp_path_factory.mktemp("t")
    ours = chosen(write(folder / "t", table), folder / "keep", budget=budget, above=above)
    theirs = expected(table[0], NAMES, budget, above)
    assert ours == sorted(theirs)
    assert len(set(theirs)) == len(theirs) <= budget


@given(tables(("int8",)), st.integers(1, 60), st.integers(1, 5), st.integers(1, 5))
@files
def test_weights_share_what_is_missing(
    tmp_path_factory: pytest.TempPathFactory, table: Any, budget: int, one: int, two: int
) -> None:
    folder = tmp_path_factory.mktemp("t")
    weights = f"ocr={one},scene={two}"
    ours = chosen(write(folder / "t", table), folder / "keep", budget=budget, weights=weights)
    assert ours == sorted(expected(table[0], NAMES, budget, 0, {"ocr": one, "scene": two}))


@given(tables(), st.lists(st.integers(0, 60), max_size=4), st.sampled_from(
    ["mmssr", "random", "top-mean", "per-source"]
))  # fmt: skip
@files
def test_files_are_cut_anywhere(
    tmp_path_factory: pytest.TempPathFactory, table: Any, cuts: list[int], strategy: str
) -> None:
    folder = tmp_path_factory.mktemp("t")
    whole, parts = write(folder / "whole", table), write(folder / "parts", table, cuts)
    options = {"budget": 0.4, "strategy": strategy, "seed": 3} if len(table[0]) > 2 else {
        "budget": 1, "strategy": strategy
    }  # fmt: skip
    assert chosen(whole, folder / "a", **options) == chosen(parts, folder / "b", **options)


@given(tables(("int8",)), st.integers(1, 60), st.integers(0, 4), st.sampled_from(
    ["mmssr", "random", "top-mean", "per-source"]
))  # fmt: skip
@files
def test_never_over_budget_nor_over_a_sources_quota(
    tmp_path_factory: pytest.TempPathFactory, table: Any, budget: int, quota: int, strategy: str
) -> None:
    folder = tmp_path_factory.mktemp("t")
    path, rows = write(folder / "t", table), table[0]
    options: dict[str, Any] = {"strategy": strategy}
    if any(each["image_source"] == "x" for each in rows):
        options["source_quota"] = (f"x={quota}",)
    kept = chosen(path, folder / "a", budget=budget, **options)
    assert len(kept) <= budget
    assert all(rows[n].get("status") == "ok" for n in kept)
    tokens = chosen(path, folder / "b", budget_tokens=budget, **options)
    assert sum(rows[n]["num_tokens"] for n in tokens) <= budget
    for numbers in (kept, tokens) if "source_quota" in options else ():
        assert sum(rows[n]["image_source"] == "x" for n in numbers) <= quota


@given(tables(("int8",)), st.integers(1, 60))
@files
def test_tokens_of_one_each_are_a_number_of_samples(
    tmp_path_factory: pytest.TempPathFactory, table: Any, budget: int
) -> None:
    folder = tmp_path_factory.mktemp("t")
    rows = [each | {"num_tokens": 1} for each in table[0]]
    path = write(folder / "t", (rows, table[1]))
    assert chosen(path, folder / "a", budget=budget) == chosen(
        path, folder / "b", budget_tokens=budget
    )


@given(tables(("int8",)), st.integers(1, 59))
@files
def test_a_larger_budget_never_gives_fewer(
    tmp_path_factory: pytest.TempPathFactory, table: Any, budget: int
) -> None:
    """Subsets of one order are nested; the published rounds promise only that there are more."""
    folder = tmp_path_factory.mktemp("t")
    path = write(folder / "t", table)
    for strategy in ("mmssr", "random", "top-mean", "per-source"):
        less, more = (
            chosen(path, folder / f"{number}", budget=number, strategy=strategy)
            for number in (budget, budget + 1)
        )
        assert len(less) <= len(more) <= len(less) + 1
        if strategy in ("random", "top-mean"):
            assert set(less) <= set(more)
    rows = [each | {"styles": ["a"], "image_source": "x"} for each in table[0]]
    one = write(folder / "one", (rows, table[1]))
    less, more = (
        chosen(one, folder / "one keep", budget=number, capabilities="ocr")
        for number in (budget, budget + 1)
    )
    assert set(less) <= set(more), "one group and one capability: the highest ratings"


@given(tables(("int8", "float64")), st.integers(1, 60))
@files
def test_no_capability_and_no_group_takes_more_than_its_share(
    tmp_path_factory: pytest.TempPathFactory, table: Any, quota: int
) -> None:
    folder = tmp_path_factory.mktemp("t")
    (opened,) = open_tables([write(folder / "t", table)])
    pool = RatingTable(opened, SelectOptions(budget=1, capabilities="ocr")).pool
    budget = _Watched(len(table[0]), pool.is_ok)
    rounds = Rounds(pool, pool.is_ok, budget, 0)
    rows = [each for each in table[0] if each["status"] == "ok" and (each["ocr"] or 0) > 0]
    groups = {
        (style.strip(), each["image_source"]) for each in rows for style in each["styles"] or ()
    }
    took = rounds.choose(0, quota)
    assert took <= max(quota, len(rows)) and (took <= quota or quota < len(groups))
    share = max(Fraction(quota, max(1, len(groups))) // 1, 1)
    for number in range(len(budget.spent)):
        assert sum(budget.spent[: number + 1]) <= share * (number + 1), "no group beyond its share"


class _Watched(SampleBudget):
    def __init__(self, total: int, usable: Any) -> None:
        super().__init__(total, usable)
        self.spent: list[int] = []

    def spend(self, rows: Any) -> int:
        self.spent.append(len(rows))
        return super().spend(rows)


def test_the_hash_seed_changes_nothing(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = [
        {
            "key": number,
            "styles": [f"style {s}" for s in random.integers(0, 9, 3)],
            "image_source": f"source {random.integers(0, 5)}",
            **{name: int(random.integers(0, 6)) for name in NAMES},
        }
        for number in range(300)
    ]
    table = write_ratings(tmp_path / "t", ratings_of(rows, **dict.fromkeys(NAMES, pa.int8())))
    made = []
    for seed in ("0", "1"):
        out = tmp_path / f"keep{seed}.parquet"
        command = [sys.executable, "-m", "mmsieve", "select", table, "--budget", "0.3", "--out"]
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([*command, out], check=True, env=environment, stdout=subprocess.DEVNULL)
        made.append(read_decisions(out))
    assert made[0].equals(made[1])
    assert made[0]["keep"].sum() == 90
