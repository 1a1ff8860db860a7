"""The commands that are killed and doubled, each with the smallest input that shows all it does."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DRAWN = "--teacher rendered --seed 5 --quiet"
POOL = f"generate captions {DRAWN} --count 12 --shards --shard-size 4 --out in/pool"
SCORED = "score in/pool/shards --model rules --workers 0 --quiet --out in/table"
FILTERED = "filter in/table --min-score 4 --by num_words --quiet --out in/decisions"
RATINGS = f"generate ratings {DRAWN} --count 6 --out in/pool"
RATED = (
    "rate in/pool/qas.json --images in/pool --model mmssr-tiny-scorer --styler mmssr-tiny-styler"
    " --workers 0 --quiet --out in/ratings"
)
RECIPE = """
from mmsieve.training.recipe import Architecture, ClassifierStage, Recipe
RECIPE = Recipe(
    name="chaos",
    start=Architecture(hidden=16, layers=1, heads=2, intermediate=16, vocabulary=512),
    classifier=ClassifierStage(batch=2, learning_rate=1e-3, save_steps=2),
)
"""


@dataclass(frozen=True)
class Scenario:
    """A command, in a folder with its input in `in` and its output in `made`."""

    command: str
    before: tuple[str, ...] = ()
    """Commands that make its input."""
    other: str = ""
    """The command with another request, for the same output."""
    together: bool = False
    """Whether both may write at once, each a part of the same output."""
    teacher: bool = False
    """Whether it asks a teacher, whose address is {teacher}."""
    storage: bool = False
    """Whether it reads from a web server, whose address is {storage}, that may fail."""
    devices: bool = False
    """Whether it has processes of its own, one of which may be killed."""

    def write_files(self, folder: Path) -> None:
        """Write what no command makes."""
        (folder / "in").mkdir(parents=True)
        (folder / "in" / "recipe.py").write_text(RECIPE, "utf-8")


_SELECT = (
    "select in/ratings --data in/pool/qas.json --subset made/subset.json --quiet --out made/out"
)
_SCORE = "score in/pool/shards --model rules --workers 0 --quiet --out made/out"
_FILTER = "filter in/table --by num_words --quiet --out made/out"
_EXPORT = "export in/pool/shards --decisions in/decisions --quiet --out made/out"
_TRAIN = "train classifier in/recipe.py --data in/pool/train.json --quiet --out made/out"
_TEACHER = "--teacher openai:m --base-url {teacher} --max-retries 0 --price 1,5 --quiet"
_DRAW = f"generate captions {DRAWN} --out made/out"
_TABLE, _DECISIONS = (POOL, SCORED), (POOL, SCORED, FILTERED)

SCENARIOS = {
    "score": Scenario(_SCORE, (POOL,), other=f"{_SCORE} --keep-metadata"),
    "score-parts": Scenario(
        f"{_SCORE} --part 0/2", (POOL,), other=f"{_SCORE} --part 1/2", together=True
    ),
    "score-http": Scenario(
        "score {storage}/00000000.tar {storage}/00000001.tar --model rules --workers 0 --quiet"
        " --out made/out",
        (POOL,),
        storage=True,
    ),
    "score-devices": Scenario(f"{_SCORE} --device cpu --devices 2", (POOL,), devices=True),
    "filter": Scenario(f"{_FILTER} --top-fraction 0.5", _TABLE, other=f"{_FILTER} --top-count 2"),
    "filter-again": Scenario(
        f"{_FILTER} --top-fraction 0.5 --overwrite", (*_TABLE, f"{_FILTER} --top-count 2")
    ),
    "select": Scenario(
        f"{_SELECT} --budget 3", (RATINGS, RATED), other=f"{_SELECT} --budget 2 --strategy random"
    ),
    "export": Scenario(f"{_EXPORT} --workers 1", _DECISIONS, other=f"{_EXPORT} --shard-size 2"),
    "export-repacked": Scenario(f"{_EXPORT} --shard-size 5", _DECISIONS),
    "generate": Scenario(f"{_DRAW} --count 8", other=f"{_DRAW} --count 12"),
    "generate-shards": Scenario(f"{_DRAW} --count 8 --shards --shard-size 4"),
    "generate-teacher": Scenario(
        f"generate captions in/pool/shards {_TEACHER} --count 12 --out made/out",
        (POOL,),
        teacher=True,
    ),
    "enhance-endpoint": Scenario(
        "enhance in/pool/shards --model endpoint:{teacher}#aitqe --workers 0 --concurrency 2"
        " --quiet --out made/out",
        (POOL,),
        teacher=True,
    ),
    "train": Scenario(_TRAIN, (POOL,), other=f"{_TRAIN} --seed 2"),
    "convert": Scenario("convert mmssr-tiny-styler --out made/out"),
    "report": Scenario("report in/table in/pool/shards --quiet --out made/out/page.html", _TABLE),
    "audit": Scenario(
        "audit in/table in/pool/shards --samples 4 --quiet --out made/out/form.html", _TABLE
    ),
    "evaluate": Scenario("evaluate in/table in/table --quiet --out made/out", _TABLE),
    "evaluate-model": Scenario(
        "evaluate --model unifilter-tiny --data in/pool/train.json --resamples 10 --quiet --out"
        " made/out",
        (POOL,),
    ),
}

# (The loss is the mean of the steps that the last process made.)
_TIMES = (
    "train_loss",
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
    "eval_runtime",
)
_RATES = ("eval_samples_per_second", "eval_steps_per_second", "total_flos")


def normalise(name: str, data: bytes) -> Any:
    """What a file says apart from times: of journals each unit's last entry, in any order.

    The record of the runs is a history, different after kills, which may leave a line half written
    in the middle; its end is that of the last run, whole.
    """
    if ".run/" in name:
        return bool(json.loads(data if name.endswith(".json") else data.splitlines()[-1]))
    if name.endswith("training.json"):
        record = json.loads(data)
        for line in (line for lines in record["logs"].values() for line in lines):
            for key in (*_TIMES, *_RATES):
                line.pop(key, None)
        return record
    if name.endswith((".export.jsonl", "journal.jsonl")):
        entries = _entries(data)
        return {str(entry.get("unit") or entry.get("subject")): entry for entry in entries}
    return data


def _entries(data: bytes) -> Sequence[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines() if line.strip()]


def without_seconds(said: str) -> str:
    """What a command said, without the time it took."""
    return re.sub(r"[0-9.]+ s:", "N s:", said)
