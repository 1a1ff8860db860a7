"""The published selection as its description has it, in pandas: what select is measured against.

Arguments: FOLDER (qas.json, res/*.jsonl), RATIO, OUT, `first` or `cached`. Needs pandas alone.
The first run reads the result files and keeps the joined table as FOLDER/parsed.csv, a cached one
starts from that. Sorts are stable and capabilities keep their order, so that the picks can be
compared with ours; both cost no more than what the published code does.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd


def main(folder: str, ratio: str, out: str, mode: str) -> None:
    """Choose, and write the chosen items."""
    items = json.loads(Path(folder, "qas.json").read_text())
    sources = {item["idx"]: item["image_source"] for item in items}
    cache = Path(folder, "parsed.csv")
    if mode == "first":
        table = parse(Path(folder, "res"), sources)
        table.to_csv(cache)
    table = pd.read_csv(cache, index_col="idx", low_memory=False)
    chosen = set(choose(table, int(len(items) * float(ratio))))
    kept = [item for item in items if item["idx"] in chosen]
    Path(out).write_text(json.dumps(kept, indent=4))
    print(len(kept))


def parse(results: Path, sources: dict[int, str]) -> pd.DataFrame:
    """One column per capability, and one per place of a style."""
    table = None
    for path in sorted(results.glob("*.jsonl")):
        with path.open() as file:
            column = pd.DataFrame([json.loads(line) for line in file]).set_index("idx")
        if path.stem == "style":
            styles = column["pred_response"]
            continue
        scores = column["pred_response"].map(to_score).rename(path.stem)
        if table is None:
            table = scores.to_frame()
            continue
        more = scores.index.difference(table.index, sort=False)
        table = table.reindex(table.index.append(more))
        table[path.stem] = scores
    named = [
        list(dict.fromkeys(f"{style.strip()}+{sources[idx]}" for style in text.split(",")))
        for idx, text in styles.items()
    ]
    most = max(map(len, named))
    padded = [each + [None] * (most - len(each)) for each in named]
    groups = pd.DataFrame(padded, index=styles.index)
    groups.columns = [f"sty_{number + 1}" for number in groups.columns]
    return table.join(groups, how="left")


def to_score(text: str) -> float:
    """The integer in a response, or NaN."""
    try:
        return int(text)
    except ValueError:
        return np.nan


def choose(table: pd.DataFrame, target: int) -> list[int]:
    """Rounds over the capabilities until the target is met."""
    places = [name for name in table.columns if name.startswith("sty_")]
    live = [name for name in ORDER if name in table.columns]
    chosen: list[int] = []
    while len(chosen) < target and live:
        quota = max((target - len(chosen)) // len(live), 1)
        gave = []
        for name in live:
            missing = target - len(chosen)
            if missing <= 0:
                break
            ranked = table.sort_values(name, ascending=False, kind="stable")
            ranked = ranked[ranked[name] > 0]
            picks = pick(ranked[places], min(quota, missing)) if len(ranked) else []
            chosen += picks[:missing]
            table = table.drop(index=picks)
            gave += [name] if picks else []
        live = gave
    return chosen


def pick(ranked: pd.DataFrame, quota: int) -> list[int]:
    """From each group of style and source, the smallest first, the same number."""
    rows = ranked.reset_index().melt(id_vars="idx", value_name="group").dropna(subset="group")
    groups = {name: ids.to_numpy() for name, ids in rows.groupby("group")["idx"]}
    share, debt = max(quota // len(groups), 1), 0
    taken: set[int] = set()
    picks: list[int] = []
    for name in sorted(groups, key=lambda name: (len(groups[name]), name)):
        if len(picks) >= quota:
            break
        left = [idx for idx in groups[name].tolist() if idx not in taken]
        picks += left[: share + debt]
        taken.update(left[: share + debt])
        debt = max(share + debt - len(left), 0)
    return picks


ORDER = [
    *("spatial", "attribute", "logical", "scene", "finegrained", "language", "incontext"),
    *("comparative", "activity", "causal", "humanities", "stem", "data", "ocr"),
]

if __name__ == "__main__":
    main(*sys.argv[1:])
