"""The forms in which an export writes, the names of images, and what lies around items."""

import io
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmsieve.cli import main
from tests.helpers.exports import decide, members
from tests.helpers.layouts import BUILDERS
from tests.helpers.shards import caption, captions, image, read, write_tar


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([*map(str, words), "--quiet"])
    return int(end.value.code or 0)


@pytest.fixture
def mixed(tmp_path) -> Path:
    """A tar of pairs, some of PNG."""
    found = []
    for number, (name, data) in enumerate(captions(6)):
        is_png = name.endswith("jpg") and number % 2
        found.append(
            (name.replace(".jpg", ".png"), image(number, "PNG")) if is_png else (name, data)
        )
    return write_tar(tmp_path / "in" / "a.tar", found)


def scored(source: Path, tmp_path: Path, fraction: float = 1.0) -> Path:
    """Decisions about a source that a model has scored: they say where its rows are."""
    table = tmp_path / "scores"
    words = ("--model", "unifilter-tiny", "--workers", 0)
    assert run("score", source, *words, "--out", table) == 0
    out = tmp_path / "keep"
    assert run("filter", table, "--top-fraction", fraction, "--out", out) == 0
    return out


def kept(source: Path, tmp_path: Path, **reads: Any) -> Path:
    return decide(source, out=tmp_path / "keep", fraction=1.0, **reads)


def test_images_get_one_name_and_keep_their_bytes(mixed, tmp_path):
    keep = kept(mixed, tmp_path)
    words = ("export", mixed, "--decisions", keep, "--image-names", "jpg")
    assert run(*words, "--out", tmp_path / "out") == 0
    made = members(tmp_path / "out/a.tar")
    assert [(name.replace(".png", ".jpg"), data) for name, data in members(mixed)] == made
    assert run(*words, "--reencode", "--out", tmp_path / "anew") == 0
    anew = members(tmp_path / "anew/a.tar")
    for (name, before), (_, after) in zip(made, anew, strict=True):
        if not name.endswith(".jpg"):
            assert after == before
            continue
        was, now = Image.open(io.BytesIO(before)), Image.open(io.BytesIO(after))
        assert now.format == "JPEG" and now.size == was.size
        assert (after == before) == (was.format == "JPEG")
    assert run(*words, "--reencode", "--out", tmp_path / "out") == 2  # another request


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--image-names", "gift"], "--image-names gift: not one of jpg, png"),
        (
            ["--image-names", "gif", "--reencode"],
            "--reencode: writes jpg, jpeg, png, webp, not gif",
        ),
        (["--reencode"], "--reencode: say --image-names too"),
        (["--format", "parquet", "--shard-size", "3"], "--shard-size: is for tars"),
        (["--with-images"], "--with-images: is for items that name files"),
    ],
)
def test_wrong_requests_stop_in_one_line(mixed, tmp_path, capsys, words, message):
    keep = kept(mixed, tmp_path)
    capsys.readouterr()
    assert run("export", mixed, "--decisions", keep, "--out", tmp_path / "out", *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and not (tmp_path / "out").exists()


def test_documents_name_their_images_and_keep_the_names(tmp_path, capsys):
    drawn = BUILDERS["documents", "MINT-1T; images may be members, too"](tmp_path)
    keep = kept(drawn.source, tmp_path)
    words = ("export", drawn.source, "--decisions", keep, "--out", tmp_path / "out")
    assert run(*words, "--image-names", "jpg") == 2
    assert "documents and instructions name their images" in capsys.readouterr().err


def test_a_second_image_of_a_pair_keeps_its_name(tmp_path, capsys):
    two = [("a.png", image(1, "PNG")), ("a.webp", image(2, "WEBP")), ("a.txt", b"A square.")]
    source = write_tar(tmp_path / "in" / "a.tar", [*two, *caption("b")])
    keep = kept(source, tmp_path)
    words = ("export", source, "--decisions", keep)
    assert run(*words, "--image-names", "webp", "--out", tmp_path / "out") == 1
    assert "it has another image under the name webp" in capsys.readouterr().err
    assert [name for name, _ in members(tmp_path / "out/a.tar")] == ["b.webp", "b.txt", "b.json"]


def test_a_tar_as_parquet_has_its_metadata_and_its_images(mixed, tmp_path):
    keep = kept(mixed, tmp_path)
    words = ("export", mixed, "--decisions", keep, "--format", "parquet", "--out", tmp_path / "out")
    assert run(*words) == 0
    rows = pq.read_table(tmp_path / "out/a.parquet").to_pylist()
    before = read(mixed).samples
    assert [row["image"]["bytes"] for row in rows] == [one.images[0].data for one in before]
    assert [row["image"]["path"] for row in rows][:2] == ["0000.jpg", "0001.png"]
    again = read(tmp_path / "out/a.parquet").samples
    assert [(s.key, s.parts, s.uid) for s in again] == [(s.key, s.parts, s.uid) for s in before]
    assert [s.metadata for s in again] == [s.metadata | {"key": s.key} for s in before]
    there = (tmp_path / "out/a.parquet").stat().st_mtime_ns
    assert run(*words) == 0  # a resume
    assert (tmp_path / "out/a.parquet").stat().st_mtime_ns == there


def test_parquet_comes_out_to_the_row(tmp_path):
    of = "the Hugging Face hub; also bytes, paths, lists of captions"
    source = BUILDERS["image-parquet", of](tmp_path).source
    keep = scored(source, tmp_path, 0.5)
    for form in ("source", "parquet"):
        words = ("export", source, "--decisions", keep, "--format", form)
        assert run(*words, "--out", tmp_path / form) == 0
        made, there = pq.ParquetFile(tmp_path / form / "data.parquet"), pq.ParquetFile(source)
        assert made.schema_arrow.equals(there.schema_arrow, check_metadata=True)
        places = pl.read_parquet(keep / "*.parquet").filter("keep")["place"].to_list()
        assert made.read().equals(there.read().take(places))
        assert made.metadata.row_group(0).column(0).compression == "ZSTD"
        assert made.metadata.num_row_groups == 1


def test_rows_with_a_column_of_nothing_in_lists_of_images_come_out(tmp_path):
    rows = [
        {"images": [None, {"bytes": image(n), "path": None}], "texts": [f"a {n}", None]}
        for n in range(4)
    ]
    source, there = tmp_path / "docs.parquet", pa.Table.from_pylist(rows)
    pq.write_table(there, source)
    keep = scored(source, tmp_path, 0.5)
    words = ("export", source, "--decisions", keep, "--format", "source", "--out", tmp_path / "out")
    assert run(*words) == 0
    places = pl.read_parquet(keep / "*.parquet").filter("keep")["place"].to_list()
    assert pq.read_table(tmp_path / "out/docs.parquet").to_pylist() == [rows[n] for n in places]


def test_items_without_a_place_are_asked_for_it(tmp_path, capsys):
    of = "the Hugging Face hub; also bytes, paths, lists of captions"
    source = BUILDERS["image-parquet", of](tmp_path).source
    rows = pl.read_parquet(decide(source, out=tmp_path / "keep") / "*.parquet")
    (tmp_path / "mine").mkdir()
    mine = rows.drop("place").filter(pl.col("keep"))
    mine.write_parquet(tmp_path / "mine" / "data-000000.parquet")
    words = ("export", source, "--decisions", tmp_path / "mine", "--format", "source")
    assert run(*words, "--out", tmp_path / "out") == 1
    assert "don't say where its rows are" in capsys.readouterr().err


def test_datasets_folders_come_out_as_arrow(tmp_path):
    source = BUILDERS["image-parquet", "`save_to_disk` of datasets"](tmp_path).source
    keep = scored(source, tmp_path)
    assert (
        run("export", source, "--decisions", keep, "--format", "source", "--out", tmp_path / "o")
        == 0
    )
    for name in ("data-00000-of-00002.arrow", "data-00001-of-00002.arrow"):
        with (
            pa.memory_map(str(source / name)) as there,
            pa.memory_map(str(tmp_path / "o" / name)) as made,
        ):
            assert pa.ipc.open_stream(made).read_all().equals(pa.ipc.open_stream(there).read_all())
