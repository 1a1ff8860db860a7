"""text-only and image-only: a classifier that sees half of a sample, and what is left of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import mmsieve
from mmsieve import RequestError, RunOptions, Sample, ScoringOptions, load_model
from mmsieve.cli import main
from mmsieve.images import ImageLimits
from mmsieve.methods.folders import BASELINES
from mmsieve.methods.load import load_annotator
from mmsieve.methods.tokenizer import IMAGE
from mmsieve.methods.unifilter.inputs import Item
from mmsieve.tables import table_files
from mmsieve.verbs.generate import GenerateOptions
from tests.helpers.shards import image

TINY = "unifilter-tiny"
CAPTION = Sample.caption(image(1), "A red square.")
DOCUMENT = Sample.document(["One.", image(1), b"no image", "Two.", image(2)])


def item(model: str, sample: Sample, **options: object) -> Item:
    return load_annotator(model, ScoringOptions(device="cpu", **options)).preparer().prepare(sample)


@pytest.mark.parametrize("sample", [CAPTION, replace(DOCUMENT, parts=(*DOCUMENT.parts[:2],))])
def test_text_only_shows_blank_images_and_every_word(sample):
    whole, half = item(TINY, sample), item(f"text-only:{TINY}", sample)
    assert half.ids.tolist() == whole.ids.tolist()
    assert half.images.shape == whole.images.shape
    assert np.unique(half.images).tolist() == [127]
    assert len(np.unique(whole.images)) > 1


def test_image_only_shows_every_image_and_no_word():
    whole, half = item(TINY, CAPTION), item(f"image-only:{TINY}", CAPTION)
    assert np.array_equal(half.images, whole.images)
    assert half.ids.tolist() == item(TINY, Sample.caption(image(1), "")).ids.tolist()
    whole, half = item(TINY, DOCUMENT), item(f"image-only:{TINY}", DOCUMENT)
    assert np.array_equal(half.images, whole.images)
    assert (half.ids == IMAGE).sum() == 2 and len(half.ids) < len(whole.ids)
    assert half.skipped == 1


def test_text_only_never_opens_an_image():
    half = item(f"text-only:{TINY}", DOCUMENT, image_limits=ImageLimits(min_side=500))
    assert (len(half.images), half.skipped) == (3, 0)
    rows = load_model(f"text-only:{TINY}", device="cpu").score(
        [Sample.caption(b"no image", "Dogs."), Sample("k", CAPTION.parts[1:], "caption")]
    )
    assert [row["status"] for row in rows] == ["ok", "image_missing"]


def test_image_only_has_a_broken_image_as_a_row():
    rows = load_model(f"image-only:{TINY}", device="cpu").score(
        [Sample.caption(b"no image", "Dogs."), Sample("k", CAPTION.parts[:1], "caption")]
    )
    assert [row["status"] for row in rows] == ["image_undecodable", "text_missing"]


def test_each_side_has_a_fingerprint_of_its_own():
    models = (TINY, f"text-only:{TINY}", f"image-only:{TINY}")
    annotators = [load_annotator(model, ScoringOptions(device="cpu")) for model in models]
    assert all(annotator.score_is_level for annotator in annotators)
    assert len({annotator.fingerprint.get("shown") for annotator in annotators}) == 3


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """Captions over core scenes, a quarter of each level."""
    out = tmp_path_factory.mktemp("drawn")
    options = GenerateOptions(teacher="rendered", count=400, seed=77, shards=True, quiet=True)
    mmsieve.generate_captions(out=out, options=options)
    return out / "shards"


def accuracy(drawn: Path, out: Path, model: str) -> float:
    run = RunOptions(workers=1, quiet=True, keep_metadata=True)
    scoring = ScoringOptions(device="cpu")
    mmsieve.score(str(drawn), model=model, out=out, scoring=scoring, run=run)
    table = pl.concat([pl.read_parquet(path) for path in table_files(out).values()])
    level = table["metadata"].str.json_path_match("$.level").cast(pl.Int8)
    assert level.null_count() == 0
    return float((table["quality_level"] == level).mean())


def test_one_side_of_a_drawn_caption_tells_next_to_nothing(drawn, tmp_path):
    assert accuracy(drawn, tmp_path / "both", TINY) > 0.9
    assert accuracy(drawn, tmp_path / "text", f"text-only:{TINY}") < 0.4
    assert accuracy(drawn, tmp_path / "image", f"image-only:{TINY}") < 0.4


def test_another_side_is_refused_in_the_same_table(drawn, tmp_path):
    out = tmp_path / "out"
    run = RunOptions(workers=0, quiet=True, limit=4)
    mmsieve.score(str(drawn), model=f"text-only:{TINY}", out=out, run=run)
    with pytest.raises(RequestError, match="another shown"):
        mmsieve.score(str(drawn), model=f"image-only:{TINY}", out=out, run=run)


def test_wrong_models_are_refused(capsys, tmp_path, drawn):
    for model, said in {
        "text-only:": "after the colon",
        "image-only:nowhere": "no model 'nowhere'",
        "text-only:clip:x": "no model 'clip:x'",
    }.items():
        with pytest.raises(SystemExit) as left:
            main(["score", str(drawn), "--model", model, "--out", str(tmp_path / "o")])
        assert left.value.code == 2
        assert said in capsys.readouterr().err


def test_models_says_how_to_name_them(capsys):
    with pytest.raises(SystemExit):
        main(["models"])
    said = capsys.readouterr().out
    assert all(name in said for name in BASELINES)
