"""Whatever is `ok` in a table can be filtered, selected, exported, and read back by everybody.

By `webdataset`, by `datasets` where it is installed, and by the reader that it came from: with the
same scores. A few cases of all there are by default, MMSIEVE_ROUND_TRIPS=300 for as many.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from mmsieve.cli import main
from mmsieve.images import IMAGE_EXTENSIONS
from tests.helpers.exports import read_wds
from tests.helpers.oddities import WRITERS, Samples

MORE = int(os.environ.get("MMSIEVE_ROUND_TRIPS", "0"))
a_few = settings(
    max_examples=MORE or 6,
    derandomize=not MORE,
    phases=[phase for phase in Phase if MORE or phase not in (Phase.shrink, Phase.explain)],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
NUMBERS = ("quality_score", "num_words", "num_characters", "width", "height", "num_images")


def run(*words: Any) -> int:
    """Run a command line; its exit code."""
    with pytest.raises(SystemExit) as end:
        main([*map(str, words), "--quiet"])
    return int(end.value.code or 0)


def read_rows(folder: Path) -> pl.DataFrame:
    """The rows of a table or of decisions, in the order of its files."""
    return pl.concat(map(pl.read_parquet, sorted(folder.rglob("*.parquet"))))


def score(sources: Sequence[Path], out: Path, *flags: Any) -> pl.DataFrame:
    """The rows that are ok, in the order of files and places; none where no run can be."""
    code = run("score", *sources, "--model", "rules", "--workers", 0, "--out", out, *flags)
    assert code in (0, 1, 2)  # 1: not one row is ok; 2: all fail alike
    return read_rows(out).filter(status="ok") if code == 0 else pl.DataFrame()


def choose(table: Path, out: Path, verb: str, count: int) -> pl.DataFrame:
    """What is kept of so many rows."""
    words = {
        "filter": ("filter", table, "--by", "num_characters", "--top-count", count),
        "select": ("select", table, "--capabilities", "num_words", "--budget", count),
    }
    assert run(*words[verb], "--out", out) == 0
    return read_rows(out).filter("keep")


@given(
    sources=st.dictionaries(
        st.tuples(st.sampled_from(["a", "b/c"]), st.sampled_from(sorted(WRITERS))),
        Samples,
        min_size=1,
        max_size=4,
    ),
    verb=st.sampled_from(["filter", "select"]),
    leave=st.integers(0, 2),
)
@a_few
def test_captions_come_out_and_are_read_again(tmp_path_factory, sources, verb, leave):
    folder = tmp_path_factory.mktemp("trip")
    paths = []
    for (name, suffix), samples in sources.items():
        paths.append(folder / "in" / name / f"00000{'' if suffix == 'tar' else suffix}.{suffix}")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        WRITERS[suffix](paths[-1], samples)
    rows = score(paths, folder / "t")
    count = len(rows) - leave
    assume(count > 0)
    kept = choose(folder / "t", folder / "d", verb, count)
    wanted = rows.join(kept, ["shard", "place"], "semi", maintain_order="left")
    assert len(kept) == len(wanted) > 0
    if verb == "filter" or leave == 0:
        assert len(wanted) == count
    out = folder / "e"
    assert run("export", *paths, "--decisions", folder / "d", "--out", out) == 0
    again = score([out], folder / "again")
    assert again.select(NUMBERS).equals(wanted.select(NUMBERS))
    found = [sample for path in sorted(out.rglob("*.tar")) for sample in read_wds(path)]
    assert len(found) == len(wanted)
    assert all("txt" in sample for sample in found)
    own = [next(iter(sample.keys() & IMAGE_EXTENSIONS)) for sample in found]
    assert len(own) == len(found)
