"""rules: DataComp's basic filter, on captions and documents, with and without a language."""

import io
import subprocess
import sys
from pathlib import Path

import PIL.Image
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmsieve
from mmsieve import RequestError, RunOptions, Sample, load_model
from mmsieve.cli import main
from mmsieve.images import ImageLimits
from mmsieve.methods import rules
from mmsieve.methods.load import load_annotator
from mmsieve.methods.rules import SCHEMA, RulesPreparer
from mmsieve.tables import read_header, table_files
from tests.helpers.shards import write_tar
from tests.helpers.tables import kept_keys


def photo(width: int, height: int, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    PIL.Image.new("RGB", (width, height)).save(out, kind)
    return out.getvalue()


GOOD = photo(320, 200)
ENGLISH = "Two dogs asleep on a red sofa."
CASES = {
    "words characters size aspect language": (ENGLISH, (320, 200), True),
    "three words": ("a bc de", (200, 200), True),
    "words": ("dog cushion", (200, 200), False),
    "characters": ("a b c", (200, 200), False),
    "six characters": ("a b cd", (200, 200), True),
    "no text": ("", (200, 200), False),
    "white space": (" \t\n the  red\u00a0car ", (200, 200), True),
    "size": (ENGLISH, (199, 300), False),
    "side": (ENGLISH, (300, 199), False),
    "aspect three": (ENGLISH, (600, 200), True),
    "aspect more": (ENGLISH, (601, 200), False),
    "aspect tall": (ENGLISH, (200, 601), False),
}


@pytest.mark.parametrize("name", CASES)
def test_bounds(name, monkeypatch):
    text, size, passes = CASES[name]
    monkeypatch.setattr(rules, "_installed", lambda: None)
    row = load_model("rules").score([Sample.caption(photo(*size), text)])[0]
    assert row["status"] == "ok"
    assert row["quality_score"] == float(passes)
    assert (row["num_words"], row["num_characters"]) == (len(text.split()), len(text))
    assert (row["width"], row["height"]) == size
    assert row["aspect_ratio"] == max(size) / min(size)
    assert row["language"] is row["passes_language"] is None


@given(st.text(max_size=12), st.integers(150, 250), st.integers(150, 700))
def test_the_score_is_every_rule(text, width, height):
    preparer = RulesPreparer(False, ImageLimits())
    row = preparer.prepare(Sample.caption(photo(width, height, "BMP"), text))
    shortest, longest = sorted((width, height))
    assert set(row) == set(SCHEMA.names)
    assert row["passes_words"] == (len(text.split()) > 2)
    assert row["passes_characters"] == (len(text) > 5)
    assert row["passes_size"] == (shortest >= 200)
    assert row["passes_aspect_ratio"] == (longest / shortest <= 3.0)
    named = ("words", "characters", "size", "aspect_ratio")
    assert row["quality_score"] == all(row[f"passes_{name}"] for name in named)


def test_language():
    pytest.importorskip("py3langid")
    texts = [ENGLISH, "Zwei Hunde schlafen auf einem roten Sofa.", "12345 67 89"]
    rows = load_model("rules").score([Sample.caption(GOOD, text) for text in texts])
    assert [row["language"] for row in rows] == ["en", "de", None]
    assert [row["passes_language"] for row in rows] == [True, False, False]
    assert [row["quality_score"] for row in rows] == [1.0, 0.0, 0.0]


def test_whether_a_language_was_looked_at_is_in_the_table(monkeypatch):
    monkeypatch.setattr(rules, "_installed", lambda: None)
    without = load_annotator("rules")
    monkeypatch.setattr(rules, "_installed", lambda: "py3langid 9")
    assert without.fingerprint["language"] == "not looked at"
    assert load_annotator("rules").fingerprint == without.fingerprint | {"language": "py3langid 9"}


def test_a_document_passes_with_all_of_its_images():
    wide, small = photo(900, 300), photo(250, 210)
    good = Sample.document(["Two dogs", GOOD, b"no image", "on a sofa", wide])
    bad = Sample.document([ENGLISH, small, photo(800, 201)])
    rows = load_model("rules").score([good, bad])
    assert (rows[0]["num_images"], rows[0]["num_skipped_images"]) == (2, 1)
    assert (rows[0]["width"], rows[0]["height"], rows[0]["aspect_ratio"]) == (320, 200, 3.0)
    assert (rows[0]["num_words"], rows[0]["num_characters"]) == (5, len("Two dogs\non a sofa"))
    assert rows[0]["passes_size"] and rows[0]["passes_aspect_ratio"]
    assert (rows[1]["width"], rows[1]["passes_aspect_ratio"]) == (800, False)


def test_what_can_not_be_judged_is_a_row_with_its_reason():
    samples = [
        Sample.caption(b"no image", ENGLISH),
        Sample("k", Sample.caption(GOOD, "").parts[:1], "caption"),
        Sample("k", Sample.caption(GOOD, ENGLISH).parts[1:], "caption"),
        Sample.document([ENGLISH, b"no image"]),
        Sample.document([GOOD]),
    ]
    rows = load_model("rules").score(samples)
    assert [row["status"] for row in rows] == [
        "image_undecodable",
        "text_missing",
        "image_missing",
        "no_usable_image",
        "text_missing",
    ]
    limits = ImageLimits(max_pixels=1000)
    row = load_model("rules", image_limits=limits).score([Sample.caption(GOOD, ENGLISH)])[0]
    assert row["status"] == "image_too_large"


def test_sizes_come_from_the_header_alone():
    """A file cut after its header has a size, and no decoder is asked for its pixels."""
    row = load_model("rules").score([Sample.caption(GOOD[:60], ENGLISH)])[0]
    assert (row["status"], row["width"]) == ("ok", 320)


def test_a_table_of_rules_is_filtered_by_any_of_them(tmp_path: Path):
    texts = {"a": ENGLISH, "b": "dog", "c": "The red car of a man", "d": "x"}
    members = [(f"{key}.txt", text.encode()) for key, text in texts.items()]
    members += [(f"{key}.png", GOOD if key != "c" else photo(100, 100)) for key in texts]
    source = str(write_tar(tmp_path / "in" / "a.tar", members))
    out = tmp_path / "out"
    run = RunOptions(workers=1, quiet=True)
    report = mmsieve.score(source, model="rules", out=out, run=run)
    assert report.statuses == {"ok": 4}
    table = pl.read_parquet(table_files(out)["a"])
    assert dict(table.select("key", "quality_score").iter_rows()) == {
        "a": 1.0,
        "b": 0.0,
        "c": 0.0,
        "d": 0.0,
    }
    assert "language" in read_header(next(iter(table_files(out).values()))).notes
    for number, (condition, kept) in enumerate(
        [("num_words > 2", {"a", "c"}), ("passes_size AND num_characters > 2", {"a", "b"})]
    ):
        place = tmp_path / f"keep{number}"
        main_ok(["filter", str(out), "--where", condition, "--out", str(place)])
        assert kept_keys(place) == kept
    assert mmsieve.score(source, model="rules", out=out, run=run).shards == 0


def main_ok(words: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 0


def test_wrong_requests():
    with pytest.raises(RequestError, match="takes no model"):
        load_model("rules:folder")
    for option in ({"image_fit": "pad"}, {"max_text_tokens": 9}, {"fast_images": True}):
        with pytest.raises(RequestError, match="means nothing for --model rules"):
            load_model("rules", **option)


def test_no_torch_is_needed():
    code = (
        "import sys\nfrom mmsieve.methods.load import load_annotator\n"
        "rules = load_annotator('rules')\nrules.preparer()\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
