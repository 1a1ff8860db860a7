"""score --also-published-layout: the files that the published scorers leave beside the tars."""

import json
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers import tiny
from tests.helpers.command_line import Ended, run_line
from tests.helpers.paths import RECORDED_DATA
from tests.helpers.shards import caption, write_tar

RECORDED = RECORDED_DATA / "unifilter"
EXPECTED = json.loads((RECORDED / "expected.json").read_text())
FLAG = "--also-published-layout"


def score(*words: object) -> Ended:
    return run_line("score", *words, "--device", "cpu", "--workers", 0, "--quiet", FLAG)


def place(folder: Path, name: str, tar: str) -> Path:
    """A recorded tar in a folder of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(RECORDED / "inputs" / name / "00000000.tar", folder / tar))


def recorded_scores(run: str) -> dict[str, float]:
    return {key: sample["logits"][0] for key, sample in EXPECTED[run].items()}


def test_captions_and_documents_have_the_published_columns_and_numbers(tmp_path, checkpoint):
    place(tmp_path / "in", "captions", "00000003.tar")
    place(tmp_path / "in", "obelics/main", "shard_12.tar")
    done = score(tmp_path / "in", "--model", checkpoint, "--out", tmp_path / "t")
    assert done.code == 0 and "2 *_quality_score.parquet written beside the tars" in done.out
    captions = pl.read_parquet(tmp_path / "in" / "00000003_quality_score.parquet")
    assert captions.columns == ["key", "uid", "caption_len", "quality_score"]  # as recorded
    wanted = recorded_scores("caption_bs1")
    found = dict(captions.select("key", "quality_score").iter_rows())
    assert len(found) == len(wanted) - 2  # blank captions have no score here
    gaps = {key: abs(value - wanted[key]) for key, value in found.items()}
    assert {key for key, gap in gaps.items() if gap > 1e-4} <= {"c010"}  # three pixels high
    assert captions.schema["quality_score"] == pl.Float32
    documents = pl.read_parquet(tmp_path / "in" / "00000012_quality_score.parquet")
    assert documents.columns == ["key", "quality_score"]
    known = recorded_scores("interleaved_bs1")
    for key, value in documents.iter_rows():
        assert value == pytest.approx(known[key], abs=1e-4)


def test_several_labels_have_a_class(tmp_path):
    model = tiny.make_checkpoint(tmp_path / "model", tiny.Recipe(labels=3))
    tar = write_tar(tmp_path / "7.tar", [*caption("a", sha="x", n=1), *caption("b", sha="y")])
    assert score(tar, "--model", model, "--out", tmp_path / "t").code == 0
    found = pl.read_parquet(tmp_path / "00000007_quality_score.parquet")
    assert found.columns == ["uid", "sha", "n", "quality_score", "quality_class"]
    table = pl.read_parquet(tmp_path / "t" / "7.parquet")
    assert found["quality_class"].to_list() == table["quality_level"].to_list()
    assert found["quality_score"].to_list() == table["quality_score"].to_list()
    assert found["n"].to_list() == [1, None]


def test_a_resume_makes_what_is_missing_and_nothing_else(tmp_path, checkpoint):
    tars = [place(tmp_path / "in", "captions", f"{n:08d}.tar") for n in range(2)]
    words = (tmp_path / "in", "--model", checkpoint, "--out", tmp_path / "t")
    assert score(*words).code == 0
    first, second = (t.with_name(f"{t.stem}_quality_score.parquet") for t in tars)
    whole, made = first.read_bytes(), second.stat().st_mtime_ns
    first.unlink()
    again = score(*words)
    assert again.code == 0 and "1 *_quality_score.parquet written" in again.out
    assert first.read_bytes() == whole and second.stat().st_mtime_ns == made


WRONG = {
    "another model": ("scores of another model or other options", {}),
    "the published scorer's": ("not made by mmsieve", {}),
    "a trial": ("leave --limit out", {"--limit": 1}),
}


@pytest.mark.parametrize("case", WRONG)
def test_nothing_of_another_run_is_replaced_unasked(case, tmp_path, checkpoint):
    message, more = WRONG[case]
    tar = place(tmp_path / "in", "captions", "00000000.tar")
    beside = tar.with_name("00000000_quality_score.parquet")
    if case == "another model":
        assert score(tar, "--model", checkpoint, "--out", tmp_path / "a").code == 0
        more = {"--image-fit": "pad"}
    else:
        pq.write_table(pa.table({"quality_score": [1.0]}), beside)
    before = beside.read_bytes()
    flags = [word for pair in more.items() for word in pair]
    words = (tar, "--model", checkpoint, "--out", tmp_path / "b", *flags)
    got = score(*words)
    assert got.code == 2 and message in got.err and got.err.count("\n") == 1, got.err
    assert beside.read_bytes() == before and not (tmp_path / "b" / "00000000.parquet").exists()
    if case != "a trial":
        assert score(*words, "--overwrite").code == 0
        assert beside.read_bytes() != before


def test_only_tars_on_a_disk_have_a_beside(tmp_path, checkpoint):
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [{"bytes": b"", "path": "a"}], "text": ["b"]}), file)
    got = score(file, "--model", checkpoint, "--out", tmp_path / "t")
    assert got.code == 2 and "is no tar on a local disk" in got.err


VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4)
)


@given(
    rows=st.lists(
        st.dictionaries(st.sampled_from(["a", "b", "quality_score"]), VALUES | st.lists(VALUES)),
        min_size=1,
        max_size=5,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
def test_fields_of_any_type_become_columns(rows: list[dict[str, Any]], tmp_path_factory):
    """Of one type as they are, of several as JSON; a field of the score's name gives way to it."""
    folder = tmp_path_factory.mktemp("any")
    members = [m for n, row in enumerate(rows) for m in caption(f"{n}", **row)]
    tar = write_tar(folder / "1.tar", members)
    assert score(tar, "--model", "rules", "--out", folder / "t").code == 0
    found = pl.read_parquet(folder / "00000001_quality_score.parquet")
    assert found.height == len(rows) and found.schema["quality_score"] == pl.Float32
    assert set(found.columns) == {"uid", "quality_score"}.union(*rows)
