"""The verbs as functions: options flat, sources as lists, tables as frames, scripts, notebooks."""

import io
import subprocess
import sys
from datetime import timedelta
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
        ({"by": 3}, "--by 3: must be a text"),
        ({"top_count": True}, "--top-count True: must be a whole number, at least 1"),
        ({"labels": 3}, "--labels 3: must be a path or a list of them"),
        ({"format": "csv"}, "--format csv: is not one of parquet, datacomp"),
        ({"quiet": "yes"}, "--quiet yes: must be True or False"),
        ({"cut": 3}, "--cut 3: must be CutOptions"),
        ({"tables": "scores"}, "filter: no option tables"),
    ],
)
def test_a_wrong_option_is_named(tmp_path, scores, given, said):
    with pytest.raises(RequestError, match=said):
        mmsieve.filter(scores, out=tmp_path / "out", **given)


SAID = {
    "patience": (30, "--patience 30: must be a time above 0, such as 90s, 30m or 2h"),
    "layout": ("foo", "--layout foo: is not one of captions, documents"),
    "device": (0, "--device 0: must be a text, as on the command line"),
    "images": (5, "--images 5: must be a path"),
    "workers": ("2", r"--workers 2: must be a whole number, at least 0$"),
}


@pytest.mark.parametrize("name", SAID)
def test_a_value_of_another_type_is_named(tmp_path, name):
    value, said = SAID[name]
    with pytest.raises(RequestError, match=said):
        mmsieve.score(tmp_path, model="rules", out=tmp_path / "out", **{name: value})


def test_every_way_to_give_an_option_checks_it(tmp_path):
    for call in (
        lambda: mmsieve.look(tmp_path, layout="foo"),
        lambda: mmsieve.look(tmp_path, read=mmsieve.ReadOptions(layout="foo")),
        lambda: mmsieve.export(tmp_path, out=tmp_path / "out", layout="foo"),
    ):
        with pytest.raises(RequestError, match="--layout foo: is not one of captions"):
            call()
    for given in ({"weights": {"ocr": 3}}, {"capabilities": ["ocr"]}):
        with pytest.raises(RequestError, match=r"must be a text, as on the command line"):
            mmsieve.select(tmp_path, out=tmp_path / "out", budget=1, **given)
    with pytest.raises(RequestError, match="--table 5: must be a path"):
        mmsieve.select(5, out=tmp_path / "out", budget=1)
    with pytest.raises(RequestError, match="--capabilities"):
        mmsieve.rate(tmp_path, model="mmssr-tiny-scorer", out=tmp_path, capabilities=["ocr"])
    with pytest.raises(RequestError, match="--device 0: must be a text"):
        mmsieve.load_model("rules", device=0)


def test_texts_stand_for_times_and_paths_and_one_for_several():
    assert RunOptions(patience="30m") == RunOptions(patience=timedelta(minutes=30))
    assert CutOptions(labels="a.jsonl").labels == (Path("a.jsonl"),)
    assert mmsieve.ReadOptions(images="pics").images == Path("pics")
    assert mmsieve.SelectOptions(source_quota=["a=1"]).source_quota == ("a=1",)
    assert isinstance(mmsieve.SelectOptions(budget=3).budget, int)


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


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"image": b"", "text": None}, "'text' of a sample: Input should be a valid string"),
        ({"image": b"", "text": 5}, "'text' of a sample: Input should be a valid string"),
        ({"parts": "A."}, "'parts' of a sample: Input should be a valid list"),
        ({"images": "a.jpg", "messages": []}, "'images' of a sample: Input should be a valid list"),
        ({"images": [], "messages": "Hi"}, "'messages' of a sample: Input should be a valid list"),
        ({"images": [], "messages": [{"content": "Hi"}]}, "'messages' of a sample: 0.role: Field"),
        (
            {"images": [], "messages": [{"role": "bot", "content": "Hi"}]},
            "0.role: Input should be 'system', 'user' or 'assistant'",
        ),
    ],
)
def test_a_part_of_a_sample_of_another_type_is_named(given, said):
    with pytest.raises(RequestError, match=said):
        mmsieve.load_model("rules").score([given])


def test_an_image_that_is_not_there_is_a_row_with_a_status(tmp_path):
    noise = io.BytesIO()
    PIL.Image.effect_noise((64, 64), 50).save(noise, "JPEG")
    damaged = PIL.Image.open(io.BytesIO(noise.getvalue()[:900]))
    lost = str(tmp_path / "lost.jpg")
    given = [lost, "http://x/a.jpg", tmp_path, damaged, PIL.Image.new("RGB", (300, 300))]
    rows = mmsieve.load_model("unifilter-tiny").score(
        [{"image": image, "text": "A dog on a sofa."} for image in given]
        + [mmsieve.Sample.caption(lost, "A dog on a sofa.")]
    )
    missing = "image_missing"
    assert [row["status"] for row in rows] == [missing] * 3 + ["image_undecodable", "ok", missing]
    assert rows[0]["error"] == f"{lost!r}: no such file"
    assert "never fetched: give bytes, or the path of a file" in rows[1]["error"]


def test_a_caption_is_kept_where_its_image_is_not_there():
    (row,) = mmsieve.load_enhancer("aitqe-tiny").enhance([{"image": "lost.jpg", "text": "A dog."}])
    assert (row["status"], row["final_caption"]) == ("image_missing", "A dog.")


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


def test_one_column_may_be_given_by_its_name(scores):
    assert mmsieve.read_table(scores, "key").columns == ["key"]


def test_a_report_stands_for_its_table(tmp_path, scores):
    report = mmsieve.filter(scores, top_count=1, out=tmp_path / "kept", quiet=True)
    assert mmsieve.read_table(report).filter("keep").height == report.kept == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"columns": "score"}, "no column score: scores has key"),
        ({"columns": 3}, "columns=3: must be a text or a list of them"),
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
