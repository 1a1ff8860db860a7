"""What is kept of any layout comes out, and a second pass over it gives the same numbers."""

from pathlib import Path

import polars as pl
import polars.selectors as cs
import pytest

from mmsieve.engine.run import RunOptions
from mmsieve.methods.mmssr.annotator import RatingOptions
from mmsieve.read import ReadOptions
from mmsieve.read.layouts import LAYOUTS
from mmsieve.verbs.export import ExportOptions, ExportReport, export
from mmsieve.verbs.filter import CutOptions, filter
from mmsieve.verbs.rate import rate
from mmsieve.verbs.score import score
from tests.helpers.layouts import BUILDERS, COUNT, DrawnLayout, forms


def annotate(verb: str, drawn: DrawnLayout, out: Path) -> pl.DataFrame:
    """Score or rate a source with a bundled model; the rows of the table."""
    run = RunOptions(workers=0, quiet=True)
    read = ReadOptions(images=drawn.images, **drawn.reads)
    if verb == "score":
        report = score(str(drawn.source), model="unifilter-tiny", out=out, read=read, run=run)
    else:
        rating = RatingOptions(styler="mmssr-tiny-styler", capabilities="ocr,attribute")
        report = rate(
            str(drawn.source), model="mmssr-tiny-scorer", out=out, rating=rating, read=read, run=run
        )
    assert report.failed == {}
    files = sorted(out.rglob("*.parquet"))
    rows = pl.concat([pl.read_parquet(file) for file in files])
    assert rows["status"].to_list() == ["ok"] * len(rows)
    return rows


def check_same(found: pl.DataFrame, wanted: pl.DataFrame, what: object) -> None:
    """What a model says of each row is the same, wherever it stands.

    The last digits of floats depend on what else is in a batch.
    """
    floats = [rows.select(pl.col(pl.Float32)).to_numpy() for rows in (found, wanted)]
    others = [
        rows.select(~cs.by_dtype(pl.Float32)).drop("key", "shard", "place").to_dicts()
        for rows in (found, wanted)
    ]
    assert others[0] == others[1], what
    assert floats[0] == pytest.approx(floats[1], abs=1e-5), what


def decide(verb: str, table: Path, out: Path) -> pl.DataFrame:
    cut = CutOptions(by="quality_score" if verb == "score" else "ocr", top_fraction=0.5)
    filter(str(table), out=out, cut=cut, quiet=True)
    rows = pl.concat([pl.read_parquet(file) for file in sorted(out.rglob("*.parquet"))])
    assert rows["keep"].sum() == COUNT // 2
    return rows


def write_back(drawn: DrawnLayout, keep: Path, out: Path, form: str | None) -> ExportReport:
    """Export what is kept; image files that items name with it."""
    is_default = form is None and drawn.source.stem in ("mix", "vqa", "blip", "dataset_info")
    names_files = (form == "source" or is_default) and has_files(drawn)
    return export(
        str(drawn.source),
        decisions=keep,
        out=out,
        read=ReadOptions(images=drawn.images, **drawn.reads),
        run=ExportOptions(format=form, with_images=names_files, quiet=True),  # type: ignore[arg-type]
    )


def has_files(drawn: DrawnLayout) -> bool:
    """Whether a source's items name image files."""
    beside = drawn.source.name in ("dataset_info.json", "pictures")
    return drawn.images is not None or beside


def written(drawn: DrawnLayout, out: Path, report: ExportReport) -> DrawnLayout:
    """What was written, as it is read again."""
    if report.form != "source" or not has_files(drawn):
        return DrawnLayout(out, {} if report.form == "parquet" else drawn.reads)
    is_list = drawn.source.name == "dataset_info.json"
    own = drawn.images is None
    return DrawnLayout(out / "dataset_info.json" if is_list else out, images=None if own else out)


def forms_of(layout: str, of: str) -> list[str | None]:
    """The forms in which a layout's samples come out; None is what nobody asks for."""
    kinds = LAYOUTS[layout].kinds
    in_source = [] if of == "img2dataset's files" else ["source"]
    if kinds == ("instruction",):
        return [None]
    is_paged = of.startswith("MINT-1T")
    is_turns = layout == "turn-captions"
    return [None, *([] if is_paged else ["parquet"]), *(["tar"] if is_turns else in_source)]


@pytest.mark.long
@pytest.mark.parametrize(("layout", "of"), forms())
def test_a_second_pass_over_what_is_kept_gives_the_same(layout, of, tmp_path):
    verb = LAYOUTS[layout].verb
    drawn = BUILDERS[layout, of](tmp_path)
    first = annotate(verb, drawn, tmp_path / "table")
    rows = decide(verb, tmp_path / "table", tmp_path / "keep")
    wanted = first.filter(rows["keep"])
    for form in forms_of(layout, of):
        out = tmp_path / f"out-{form}"
        report = write_back(drawn, tmp_path / "keep", out, form)
        assert (report.samples, report.failed) == (COUNT // 2, {}), form
        again = written(drawn, out, report)
        found = annotate(verb, again, tmp_path / f"table-{form}")
        check_same(found, wanted, form)
        if report.form == "source" and has_files(drawn):
            files = {f.stat().st_size for f in out.rglob("*.*") if f.suffix in (".jpg", ".png")}
            assert not (out / "unused.jpg").exists() and files
