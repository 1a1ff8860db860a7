"""Selections of the published code with its arbitrary choices pinned, recorded, against ours.

Pools of 200 samples are in tests/data/mmssr/select; the larger ones are checked where
MMSIEVE_REFERENCE names the folder that holds them.
"""

import hashlib
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mmsieve.labels import CAPABILITIES
from tests.helpers.paths import RECORDED_DATA
from tests.helpers.selections import choose, unpack, write_ratings
from tests.helpers.tables import read_decisions

pytestmark = pytest.mark.slow

DATA = RECORDED_DATA / "mmssr" / "select"
REFERENCE = os.environ.get("MMSIEVE_REFERENCE")
LARGE = Path(REFERENCE or "") / "reference" / "mmssr"
SMALL_POOLS = ("clean_200", "messy_200", "strict_200", "uniqscore_200")
LARGE_POOLS = ("clean_5000", "messy_5000", "strict_5000", "uniqscore_5000", "clean_100000")

needs_reference = pytest.mark.skipif(
    not REFERENCE, reason="MMSIEVE_REFERENCE does not name the folder of the larger recordings"
)


@cache
def recorded(pool: str) -> list[dict[str, Any]]:
    if pool in SMALL_POOLS:
        return json.loads((DATA / "runs.json").read_text())[pool]
    runs = json.loads((LARGE / "select" / f"{pool}.runs.json").read_text())["runs"]
    masks = np.load(LARGE / "select" / f"{pool}.sel.npz")
    return [
        {
            "capabilities": run["caps"],
            "ratio": run["ratio"],
            "above": run["thr"],
            "target": run["target"],
            "error": run["modes"]["canon"]["error"],
            "chosen": masks[f"canon_{run['run']}"].tobytes().hex(),
        }
        for run in runs
    ]


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("pools")

    @cache
    def unpacked(pool: str) -> Path:
        where = DATA if pool in SMALL_POOLS else LARGE / "select"
        (archive,) = where.glob(f"{pool}.pool.*[!6]")
        return unpack(archive, folder / pool)

    return unpacked


@pytest.mark.long
@pytest.mark.parametrize(
    "pool", [*SMALL_POOLS, *(pytest.param(p, marks=needs_reference) for p in LARGE_POOLS)]
)
def test_every_recorded_selection(pool: str, pools: Any, tmp_path: Path) -> None:
    ratings = pools(pool)
    assert len(recorded(pool)) >= 12
    for number, run in enumerate(recorded(pool)):
        check(ratings, run, tmp_path / str(number))


@needs_reference
def test_recorded_selections_of_a_generated_pool(tmp_path: Path) -> None:
    """Too large to be recorded whole: the pool is made again and known by its digest."""
    settings = [(tmp_path / "pool"), "--n", 100000, "--seed", 117000, "--kind", "tiefree"]
    command = [LARGE / "tools" / "gen_pool.py", *settings, "--sources", 5, "--nstyles", 4]
    subprocess.run([sys.executable, *map(str, command)], check=True)
    for line in (LARGE / "select" / "strict_100000.pool.sha256").read_text().splitlines():
        digest, name = line.split()
        made = hashlib.sha256((tmp_path / "pool" / name).read_bytes()).hexdigest()
        if made != digest:
            pytest.skip("this version of numpy makes another pool")
    items = json.loads((tmp_path / "pool" / "qas.json").read_text())
    columns: dict[str, Any] = {
        "key": [str(item["idx"]) for item in items],
        "status": ["ok"] * len(items),
        "image_source": [item["image_source"] for item in items],
    }
    for name in (*CAPABILITIES, "style"):
        lines = (tmp_path / "pool" / "res" / f"{name}.jsonl").read_text().splitlines()
        columns[name] = [json.loads(line)["pred_response"] for line in lines]
    columns["styles"] = [text.split(",") for text in columns.pop("style")]
    columns |= {name: [float(text) for text in columns[name]] for name in CAPABILITIES}
    ratings = write_ratings(tmp_path / "table", columns)
    for number, run in enumerate(recorded("strict_100000")):
        check(ratings, run, tmp_path / str(number))


def check(ratings: Path, run: dict[str, Any], out: Path) -> None:
    report = choose(
        ratings,
        out,
        budget=run["ratio"],
        capabilities=",".join(run["capabilities"]),
        above=run["above"],
        data=ratings.parent / "qas.json" if ratings.name == "res" else None,
    )
    decisions = read_decisions(out)
    ours = decisions["keep"].to_numpy()
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(run["chosen"]), np.uint8))
    theirs = bits[: len(ours)].astype(bool)
    assert report.kept == ours.sum() <= run["target"]
    if run["error"] is None and theirs.sum() <= run["target"]:
        assert (ours == theirs).all(), "equal, sample for sample"
    elif run["error"] is None:
        assert not (ours & ~theirs).any() and ours.sum() == run["target"], "the last pick dropped"
    else:
        assert not (theirs & ~ours).any(), "goes on where the published code fails"
        if ours.sum() < run["target"]:
            reasons = decisions["reason"].drop_nulls()
            assert not reasons.is_in(["not_selected"]).any(), "as far as possible"
            assert "can't be met" in report.summary()


def test_a_table_and_a_folder_of_results_give_the_same(pools: Any, tmp_path: Path) -> None:
    results = pools("clean_200")
    rows = pl.read_parquet(DATA / "clean_200.pool.parquet")
    columns = {name: rows[name].to_list() for name in CAPABILITIES}
    columns |= {"key": rows["idx"].cast(pl.String).to_list(), "status": ["ok"] * rows.height}
    columns["image_source"] = rows["image_source"].to_list()
    columns["styles"] = [text.split(",") for text in rows["style"]]
    table = write_ratings(tmp_path / "table", columns, cuts=[7, 150])
    for budget in (1, 0.2, 77, 1.0):
        choose(results, tmp_path / f"a{budget}", budget=budget, data=results.parent / "qas.json")
        choose(table, tmp_path / f"b{budget}", budget=budget)
        ours, theirs = (read_decisions(tmp_path / f"{each}{budget}") for each in "ab")
        assert ours.drop("shard", "place").equals(theirs.drop("shard", "place"))
