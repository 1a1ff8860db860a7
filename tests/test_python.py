"""The verbs as functions: options flat, sources as lists, tables as frames, scripts, notebooks."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import PIL.Image
import polars as pl
import pyarrow as pa
import pytest

import mmsieve
from mmsieve import CutOptions, RequestError, RunOptions
from tests.helpers.shards import captions, write_tar
from tests.helpers.tables import rows_of, write_table


@pytest.fixture
def scores(tmp_path) -> Path:
    shards = {"a": rows_of("a", [1.0, 2.0, 3.0]), "b": rows_of("b", [4.0])}
    return write_table(tmp_path / "scores", shards)


# Options and sources


def test_options_are_keywords_too(tmp_path, scores):
    flat = mmsieve.filter(scores, top_fraction=0.5, out=tmp_path / "flat", quiet=True)
    cut = CutOptions(top_fraction=0.5)
    grouped = mmsieve.filter(str(scores), cut=cut, out=tmp_path / "grouped", quiet=True)
    assert flat.kept == grouped.kept == 2
    names = ["a.parquet", "b.parquet"]
    kept = [[(tmp_path / made / n).read_bytes() for n in names] for made in ("flat", "grouped")]
    assert kept[0] == kept[1]


def test_a_keyword_wins_over_its_group(tmp_path, scores):
    cut = CutOptions(top_fraction=0.9, where="quality_score > 0")
    report = mmsieve.filter(scores, cut=cut, top_fraction=0.25, out=tmp_path / "out", quiet=True)
    assert report.kept == 1


def test_sources_are_paths_strings_and_lists_of_them(tmp_path):
    first = write_tar(tmp_path / "a.tar", captions(1))
    second = write_tar(tmp_path / "b.tar", captions(1))
    looked = mmsieve.look([str(first), second])
    assert looked.files == mmsieve.look(first, str(second)).files
    assert len(looked.files) == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"top_fracton": 0.3}, "filter: no option top_fracton; did you mean top_fraction?"),
        ({"banana": 1}, "filter: no option banana: `mmsieve help filter` lists all"),
        ({"top_fraction": 3}, "--top-fraction 3: must be above 0 and at most 1"),
        ({"on": "name"}, "--on name: is not one of key, uid"),
    ],
)
def test_a_wrong_option_is_named(tmp_path, scores, given, said):
    with pytest.raises(RequestError, match=said):
        mmsieve.filter(scores, out=tmp_path / "out", **given)


def test_what_is_no_path_is_no_source(tmp_path):
    with pytest.raises(RequestError, match="a dict is no source: give paths or URLs"):
        mmsieve.score({"image": "a.jpg"}, model="rules", out=tmp_path / "out")


def test_what_callers_alone_set_is_no_option(tmp_path):
    with pytest.raises(RequestError, match="no option images_only"):
        mmsieve.look("x", images_only=True)


def test_options_within_options_are_keywords_too(tmp_path):
    tar = write_tar(tmp_path / "a.tar", captions(2))
    wanted = {"model": "rules", "quiet": True, "workers": 0}
    report = mmsieve.score([tar], **wanted, max_text_chars=1, out=tmp_path / "out")
    assert report.statuses == {"text_too_long": 2}
    run = RunOptions(quiet=True, workers=0)
    report = mmsieve.score([tar], model="rules", run=run, max_pixels=1, out=tmp_path / "small")
    assert report.rows == 2


# Samples in memory


def test_pictures_and_dicts_are_samples():
    picture = PIL.Image.new("CMYK", (30, 20))
    sample = mmsieve.Sample.of({"image": picture, "text": "Nothing.", "key": "k"})
    assert sample.key == "k"
    assert sample.images[0].data.startswith(b"\x89PNG")
    document = mmsieve.Sample.of({"parts": ["One.", PIL.Image.new("L", (4, 4)), "Two."]})
    assert [type(part).__name__ for part in document.parts] == ["Text", "Image", "Text"]
    talk = [{"role": "user", "content": "<image>What?"}, {"role": "assistant", "content": "A"}]
    assert len(mmsieve.Sample.of({"images": [picture], "messages": talk}).turns) == 2
    assert mmsieve.Sample.of(sample) is sample


@pytest.mark.parametrize("value", [{}, {"img": 1}, 3, None, {"image": 3, "text": "A"}])
def test_what_is_no_sample_says_what_is_one(value):
    with pytest.raises(RequestError, match=r"a sample is a Sample or a dict of|an image is bytes"):
        mmsieve.Sample.of(value)


def test_a_wrong_option_of_a_model_is_named():
    with pytest.raises(RequestError, match=r"load_model: no option devce; did you mean device\?"):
        mmsieve.load_model("rules", devce="cpu")


# Tables


@pytest.mark.parametrize(
    ("to", "kind"), [("polars", pl.DataFrame), ("pandas", pd.DataFrame), ("arrow", pa.Table)]
)
def test_a_table_is_one_frame(scores, to, kind):
    frame = mmsieve.read_table(scores, ["key", "quality_score"], to=to)
    assert isinstance(frame, kind)
    assert frame.shape == (4, 2)
    assert pl.DataFrame(frame)["quality_score"].to_list() == [1.0, 2.0, 3.0, 4.0]


def test_a_report_stands_for_its_table(tmp_path, scores):
    report = mmsieve.filter(scores, top_count=1, out=tmp_path / "kept", quiet=True)
    assert mmsieve.read_table(report).filter("keep").height == report.kept == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"columns": ["score"]}, "no column score: scores has key"),
        ({"to": "numpy"}, "is not one of polars, pandas, arrow"),
    ],
)
def test_what_a_table_has_not(scores, given, said):
    with pytest.raises(RequestError, match=said):
        mmsieve.read_table(scores, **given)


# Scripts and notebooks

SCRIPT = """
import mmsieve
print("begins")
report = mmsieve.score("{tar}", model="rules", out="{out}", quiet=True, workers=2)
print(report.rows)
"""


def test_a_script_without_a_guard_runs_once(tmp_path):
    tar = write_tar(tmp_path / "a.tar", captions(3))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tar=tar, out=tmp_path / "out"))
    command = [sys.executable, script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["begins", "3"]
    assert done.stderr == ""


def test_a_notebook_shows_samples_with_their_rows(tmp_path):
    tar = write_tar(tmp_path / "a.tar", captions(7))
    wanted = {"model": "rules", "quiet": True, "workers": 0}
    report = mmsieve.score(tar, **wanted, out=tmp_path / "out")
    shown = report.html()
    assert shown.startswith("<pre>7 rows")
    assert shown.count("<img ") == 5
    again = mmsieve.score(tar, **wanted, out=tmp_path / "out")  # nothing to do, the same to show
    assert again.html().count("<img ") == 5
    tar.unlink()
    assert "<img " not in again.html()
    assert "<pre>" in mmsieve.list_models().html()
