"""The chosen items of an instruction file as a JSON list of their own."""

from pathlib import Path

import polars as pl

from mmsieve.errors import RequestError
from mmsieve.subset.choosing import Choice
from mmsieve.subset.items import key_in, write_part
from mmsieve.subset.rated import Rated
from mmsieve.subset.results import ResultFolder
from mmsieve.table import check_folder


def check_subset(data: Path | None, subset: Path | None, overwrite: bool) -> None:
    """Raise RequestError where the chosen items can't be written as asked."""
    if data is not None and not data.is_file():
        raise RequestError(f"--data {data}: no such file; give a JSON list, or JSONL")
    if subset is None:
        return
    if data is None:
        raise RequestError("--subset: say --data FILE too, the items that are chosen from")
    if subset.is_dir() or subset.suffix != ".json":
        raise RequestError(f"--subset {subset}: name a file that ends in .json")
    if subset.resolve() == data.resolve():
        raise RequestError(f"--subset {subset}: is the file of --data: choose another name")
    if subset.exists() and not overwrite:
        raise RequestError(f"--subset {subset}: exists: choose another name, or --overwrite")
    check_folder(subset.absolute().parent)


def write_subset(rated: Rated, choice: Choice, data: Path, subset: Path) -> list[str]:
    """Write the chosen items, in the file's order and to the byte; returns what to say of it."""
    if isinstance(rated, ResultFolder):
        chosen_in_order = iter(choice.chosen)
        write_part(data, subset, lambda number, raw: bool(next(chosen_in_order)))
        return []
    left = _chosen_keys(rated, choice)
    chosen = len(left)

    def is_chosen(number: int, raw: bytes) -> bool:
        key = key_in(data, number, raw)
        if key not in left:
            return False
        left.remove(key)
        return True

    write_part(data, subset, is_chosen)
    if left:
        return [f"--subset: {len(left)} of {chosen} chosen samples aren't in {data}"]
    return []


def _chosen_keys(rated: Rated, choice: Choice) -> set[str]:
    keys: set[str] = set()
    start = count = 0
    for _, named in rated.named():
        kept = named["key"].filter(pl.Series(choice.chosen[start : start + named.height]))
        keys.update(kept)
        count += len(kept)
        start += named.height
    if len(keys) < count:
        raise RequestError(
            "--subset: the table has chosen samples of the same key: select from one file's "
            "ratings at a time"
        )
    return keys
