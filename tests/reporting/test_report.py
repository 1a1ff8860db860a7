"""report: one page that asks for nothing, escapes everything, and says what is missing."""

import html
import json
import re
from pathlib import Path

import pytest

import mmsieve
from mmsieve import CutOptions, GenerateOptions, ReportOptions, RequestError, RunOptions
from mmsieve.cli import main
from tests.helpers.browsing import foreign_scripts, look_at, needs_browser
from tests.helpers.shards import captions, image, write_tar
from tests.helpers.tables import rows_of, write_table

HOSTILE = [
    "<script>alert(1)</script>",
    "</article></section><img src=x onerror=alert(1)>",
    "'\"><svg onload=alert(1)>",
    "\u202eesrever \u2066isolated\u2069 \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "{{ 7 * 7 }} {% raw %} ${7*7}",
    "javascript:alert(1) <a href='https://example.org'>x</a> <style>*{display:none}</style>",
    "nul \x00 and \x1b[31m escapes",
    "<image> &amp; &#x3c;b&#x3e;",
]


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A page over captions that try everything, and a bad sample."""
    samples = [(f"k{i}.jpg", image(i)) for i in range(len(HOSTILE))]
    samples += [(f"k{i}.txt", text.encode()) for i, text in enumerate(HOSTILE)]
    samples += [("<b>.jpg", b"not an image"), ("<b>.txt", b"fine")]
    write_tar(tmp_path / "pool" / "00000.tar", samples)
    run_pipeline(tmp_path, tmp_path / "pool")
    return tmp_path / "page.html"


def run_pipeline(folder: Path, *sources: Path, **options) -> mmsieve.PageReport:
    """Score, keep half, and make the page."""
    given = [str(source) for source in sources]
    quality, keep = folder / "quality", folder / "keep"
    run = RunOptions(workers=0, quiet=True)
    mmsieve.score(*given, model="unifilter-tiny", out=quality, run=run)
    mmsieve.filter(str(quality), out=keep, cut=CutOptions(top_fraction=0.5), quiet=True)
    wanted = ReportOptions(**options)
    inputs = (str(quality), str(keep), *given)
    return mmsieve.report(*inputs, out=folder / "page.html", options=wanted)


def test_hostile_captions_stay_text(hostile):
    page = hostile.read_text("utf-8")
    assert foreign_scripts(page) == []
    assert page.count("<script>") == 1
    assert re.search(r"<img(?! src=\"data:image/(png|webp);base64,)", page) is None
    assert re.search(r"<(svg|a|style|b|image)\b[^>]*(on\w+=|https?:)", page) is None
    told = html.unescape(page)
    for text in HOSTILE[:6]:
        assert f"<bdi>{text}</bdi>" in told
    assert page.count("<style>") == 1
    assert "image_undecodable" in page


def test_the_page_holds_what_was_run_and_what_came_out(hostile):
    page = hostile.read_text("utf-8")
    assert "<b>4</b> of 9 samples kept" in page
    assert "<b>9</b> samples of 1 shards" in page
    for name in ("below_cut", "weights", "image path", mmsieve.__name__):
        assert name in page
    for title in ("Best", "Just kept", "Just dropped", "Worst", "Failed"):
        assert f"<h3>{title}</h3>" in page


def test_documents_read_in_order(tmp_path):
    options = GenerateOptions(teacher="rendered", count=8, seed=1, shards=True, quiet=True)
    mmsieve.generate_documents(out=tmp_path / "pool", options=options)
    run_pipeline(tmp_path, tmp_path / "pool" / "shards")
    page = (tmp_path / "page.html").read_text("utf-8")
    for entry in json.loads((tmp_path / "pool" / "train.json").read_text("utf-8")):
        pieces = re.split(r"(?:\n\n)?(<image>)(?:\n\n)?", entry["text"])
        pattern = r"\s*".join(
            '<img src="[^"]+" alt="">' if piece == "<image>" else _paragraph(piece)
            for piece in filter(None, pieces)
        )
        assert re.search(pattern, page), entry["id"]


def _paragraph(text: str) -> str:
    return f'<p dir="auto"><bdi>{re.escape(html.escape(text))}</bdi></p>'


def test_a_page_without_shards_says_so_and_shows_the_numbers(tmp_path):
    write_table(tmp_path / "quality", {"a": rows_of("a", [0.5, 1.5, None, float("nan")])})
    report = mmsieve.report(str(tmp_path / "quality"), out=tmp_path / "page.html")
    assert "no shards were given" in report.summary()
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "no shards were given" in page
    assert "<b>4</b> samples of 1 shards" in page
    assert page.count("<rect") == 2


def test_metrics_have_a_section(tmp_path):
    values = {"accuracy": 0.875, "f1": 0.5, "count": 8, "confusion": [[2, 0, 0, 0]] * 4}
    (tmp_path / "metrics.json").write_text(json.dumps(values))
    mmsieve.report(str(tmp_path / "metrics.json"), out=tmp_path / "page.html")
    assert "accuracy <b>0.875</b>" in (tmp_path / "page.html").read_text("utf-8")


def test_large_pictures_are_made_small(tmp_path):
    write_tar(tmp_path / "pool" / "00000.tar", captions(12))
    report = run_pipeline(tmp_path, tmp_path / "pool", gallery=3, cards=0)
    assert report.cards == 12
    assert report.bytes < 400_000


def test_the_page_is_replaced_and_anything_else_is_not(tmp_path):
    write_table(tmp_path / "quality", {"a": rows_of("a", [0.5, 1.5])})
    for _ in range(2):
        mmsieve.report(str(tmp_path / "quality"), out=tmp_path / "page.html")
    (tmp_path / "mine.html").write_text("<html>mine</html>")
    with pytest.raises(RequestError, match="not a report"):
        mmsieve.report(str(tmp_path / "quality"), out=tmp_path / "mine.html")
    assert (tmp_path / "mine.html").read_text() == "<html>mine</html>"


def test_shards_of_something_else_are_refused(tmp_path):
    write_table(tmp_path / "quality", {"a": rows_of("a", [0.5, 1.5])})
    write_tar(tmp_path / "pool" / "b.tar", captions(2))
    with pytest.raises(RequestError, match="give the same ones"):
        mmsieve.report(
            str(tmp_path / "quality"), str(tmp_path / "pool"), out=tmp_path / "page.html"
        )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("{0}/pool --out {0}/page.html", "nothing to report"),
        ("{0}/quality --out {0}/page", ".html"),
        ("{0}/quality --out {0}/page.html --gallery -1", "--gallery"),
        ("{0}/bad.json --out {0}/page.html", "metrics.json"),
    ],
)
def test_wrong_requests_are_one_line(tmp_path, capsys, words, says):
    write_table(tmp_path / "quality", {"a": rows_of("a", [0.5, 1.5])})
    write_tar(tmp_path / "pool" / "b.tar", captions(2))
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(SystemExit) as exit_:
        main(["report", *words.format(tmp_path).split()])
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert error.count("\n") == 1
    assert says in error


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_finds_nothing_wrong_and_asks_for_nothing(hostile, width):
    assert HOSTILE[0] in look_at(hostile, width)
