"""What lies around exported items: image files, manifests, final captions in their fields."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from mmsieve.cli import main
from mmsieve.read import ReadOptions
from mmsieve.read.shards import split_files
from mmsieve.sources import find_files
from tests.helpers.layouts import BUILDERS, COUNT, DrawnLayout, forms
from tests.helpers.shards import image, read, write_jsonl, write_parquet


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([*map(str, words), "--quiet"])
    return int(end.value.code or 0)


def drawn(layout: str, whose: str, folder: Path) -> DrawnLayout:
    (form,) = [form for form in forms() if form[0] == layout and form[1].startswith(whose)]
    return BUILDERS[form](folder)


def rated(source: Path, folder: Path, *words: object) -> Path:
    """The ratings of a source by a bundled model."""
    styler = ("--styler", "mmssr-tiny-styler")
    model = ("--model", "mmssr-tiny-scorer", *styler, "--capabilities", "ocr", "--workers", 0)
    assert run("rate", source, *model, *words, "--out", folder / "table") == 0
    return folder / "table"


def chosen(table: Path, out: Path, count: int) -> Path:
    assert run("filter", table, "--by", "ocr", "--top-count", count, "--out", out) == 0
    return out


def files_in(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)) for path in found if not path.name.startswith(".")}


def test_used_images_come_with_their_items_once_each(tmp_path, capsys):
    pictures = tmp_path / "pictures"
    names = ["a/1.jpg", "a/1.jpg", "b/2.png", "a/../c.jpg", str(pictures / "d.jpg")]
    for name in ("a/1.jpg", "b/2.png", "c.jpg", "d.jpg", "unused.jpg"):
        (pictures / name).parent.mkdir(parents=True, exist_ok=True)
        (pictures / name).write_bytes(image(len(name)))
    said = [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "A square."}]
    items = [{"id": "same", "image": name, "conversations": said} for name in names]
    source = write_jsonl(tmp_path / "mix.jsonl", items)
    table = rated(source, tmp_path, "--images", pictures)
    keep = chosen(table, tmp_path / "keep", 5)
    words = ("export", source, "--decisions", keep, "--out", tmp_path / "out")
    assert run(*words, "--with-images") == 2  # nobody said where they are
    assert "--images DIR" in capsys.readouterr().err
    assert run(*words, "--images", pictures, "--with-images") == 0
    found = capsys.readouterr().out
    assert "beside them: 2 image files" in found and "left where they are: 2 images" in found
    assert files_in(tmp_path / "out") == {"mix.jsonl", "manifest.json", "a/1.jpg", "b/2.png"}
    assert (tmp_path / "out/mix.jsonl").read_bytes() == source.read_bytes()
    assert run(*words) == 2  # another request: its images are left where they are
    assert "--out" in capsys.readouterr().err


def test_a_missing_image_is_named_and_a_link_never_followed_out(tmp_path, capsys):
    of = drawn("instructions", "LLaVA", tmp_path)
    assert of.images is not None
    table = rated(of.source, tmp_path, "--images", of.images)
    keep = chosen(table, tmp_path / "keep", COUNT)
    (of.images / "coco/2.jpg").unlink()
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "away").mkdir()
    (out / "gqa").symlink_to(tmp_path / "away")
    words = ("export", of.source, "--decisions", keep, "--images", of.images, "--with-images")
    assert run(*words, "--out", out) == 1
    said = capsys.readouterr().err
    assert "mix.json" in said and "more problems" in said
    assert not list((tmp_path / "away").iterdir())
    assert len(json.loads((out / "mix.json").read_text())) == COUNT


def test_subsets_bring_their_images(tmp_path, capsys):
    of = drawn("instructions", "LLaVA", tmp_path)
    assert of.images is not None
    table = rated(of.source, tmp_path, "--images", of.images)
    words = ["select", table, "--budget", 2, "--strategy", "random", "--above", -1]
    words += ["--data", of.source, "--out", tmp_path / "keep"]
    assert run(*words, "--with-images") == 2
    assert "say --subset DIR too" in capsys.readouterr().err
    assert run(*words, "--subset", tmp_path / "s.json", "--with-images") == 2
    assert run(*words, "--subset", tmp_path / "s", "--with-images") == 2
    assert "--images DIR" in capsys.readouterr().err
    assert run(*words, "--subset", tmp_path / "s", "--images", of.images, "--with-images") == 0
    items = json.loads((tmp_path / "s/mix.json").read_text())
    assert files_in(tmp_path / "s") == {"mix.json", *(item["image"] for item in items)}
    assert len(items) == 2


def samples_of(source: Path, **options: Any) -> list[Any]:
    return read(source, **options).samples


def test_columns_and_tags_of_llama_factory_are_read_and_kept(tmp_path, capsys):
    of = drawn("instructions", "LLaMA-Factory", tmp_path)
    first = samples_of(of.source)
    assert [turn.role for turn in first[0].turns] == ["user", "assistant"]
    assert first[0].turns[0].text == "<image>What is it?" and len(first[0].images) == 1
    keep = chosen(rated(of.source, tmp_path), tmp_path / "keep", COUNT)
    words = ("export", of.source, "--decisions", keep)
    assert run(*words, "--out", tmp_path / "out", "--with-images") == 0
    assert "dataset_info.json lists the files" in capsys.readouterr().out
    info = json.loads((tmp_path / "out/dataset_info.json").read_text())
    assert info == json.loads(of.source.read_text())  # the file has the name that it had
    assert samples_of(tmp_path / "out/dataset_info.json") == first
    # by its folder, the manifest beside it is none of the data
    assert (
        run(
            "select",
            tmp_path / "table",
            "--budget",
            2,
            "--above",
            -1,
            "--data",
            of.source,
            "--strategy",
            "random",
            "--out",
            tmp_path / "k",
            "--subset",
            tmp_path / "s",
            "--with-images",
        )
        == 0
    )
    assert len(samples_of(tmp_path / "s/dataset_info.json")) == 2


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_fields_that_columns_do_not_name_are_not_read(tmp_path, suffix):
    """As LLaMA-Factory reads: `input` is a field of its own here, and `ask` the question."""
    rows = [{"ask": "What?", "reply": "A cat.", "input": "no", "id": str(n)} for n in range(2)]
    path = tmp_path / f"data{suffix}"
    if suffix == ".parquet":
        write_parquet(path, {name: [row[name] for row in rows] for name in rows[0]})
    elif suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        write_jsonl(path, rows)
    entry = {"file_name": path.name, "columns": {"prompt": "ask", "response": "reply"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"x": entry}))
    for sample in samples_of(tmp_path / "dataset_info.json"):
        assert [turn.text for turn in sample.turns] == ["What?", "A cat."]


def test_preferences_by_another_name_are_no_conversation(tmp_path):
    write_jsonl(tmp_path / "d.jsonl", [{"p": "?", "good": "a", "bad": "b", "output": "x"}])
    columns = {"prompt": "p", "chosen": "good", "rejected": "bad"}
    entry = {"file_name": "d.jsonl", "ranking": True, "columns": columns}
    (tmp_path / "dataset_info.json").write_text(json.dumps({"x": entry}))
    assert read(tmp_path / "dataset_info.json", layout="instructions").statuses == [
        "no_conversation"
    ]


def test_two_roots_get_a_folder_each(tmp_path):
    meta = {}
    for name in ("one", "two"):
        root = tmp_path / "roots" / name / "images"
        root.mkdir(parents=True)
        (root / "1.jpg").write_bytes(image(len(meta)))
        said = [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "A square."}]
        write_jsonl(tmp_path / f"{name}.jsonl", [{"image": "1.jpg", "conversations": said}])
        meta[name] = {"annotation": f"{name}.jsonl", "root": str(root), "repeat_time": 1}
    source = tmp_path / "meta.json"
    source.write_text(json.dumps(meta))
    keep = chosen(rated(source, tmp_path), tmp_path / "keep", 2)
    words = ("export", source, "--decisions", keep)
    assert run(*words, "--with-images", "--out", tmp_path / "out") == 0
    written = json.loads((tmp_path / "out/meta.json").read_text())
    assert [entry["root"] for entry in written.values()] == ["images", "images-2"]
    again = samples_of(tmp_path / "out/meta.json")
    assert [one.images[0].data for one in again] == [image(0), image(1)]
    assert run(*words, "--out", tmp_path / "left") == 0
    assert [s.images for s in samples_of(tmp_path / "left/meta.json")] == [s.images for s in again]


REWRITTEN = [
    ("image-parquet", "the Hugging", "data.parquet"),
    ("image-parquet", "`save_to", "data-00000-of-00002.arrow"),
    ("captions", "open_clip", "pairs.csv"),
    ("captions", "JSON lists", "pairs.jsonl"),
    ("turn-captions", "LLaVA-Pretrain", "blip.json"),
]


@pytest.mark.parametrize(("layout", "whose", "name"), REWRITTEN)
def test_final_captions_take_the_place_of_theirs(layout, whose, name, tmp_path):
    of = drawn(layout, whose, tmp_path)
    images = () if of.images is None else ("--images", of.images)
    words = ("--model", "aitqe-tiny", "--rewrite-below", 9.9, "--workers", 0, *images)
    table = tmp_path / "table"
    assert run("enhance", of.source, *words, "--out", table) == 0
    rows = pl.concat([pl.read_parquet(path) for path in sorted(table.rglob("*.parquet"))])
    assert 0 < rows["rewritten"].sum() < COUNT
    out = tmp_path / "out"
    export = ("export", of.source, "--captions", table, "--format", "source")
    assert run(*export, *images, "--out", out) == 0
    options = ReadOptions(images=of.images, kinds=("caption",))
    assert split_files(find_files([str(out / name)]).files, options)
    found = samples_of(out, images=of.images, kinds=("caption",))
    assert [one.parts[1].text for one in found] == rows["final_caption"].to_list()
    for sample, row in zip(found, rows.iter_rows(named=True), strict=True):
        original = sample.metadata.get("original_caption") or None
        assert original == (row["caption"] if row["rewritten"] else None)
    if name == "data.parquet":
        before, after = pq.read_table(of.source), pq.read_table(out / name)
        assert after.schema.names == [*before.schema.names, "original_caption", "overall_score"]
        assert after.select(["id", "image", "score"]).equals(
            before.select(["id", "image", "score"])
        )
    if name == "pairs.jsonl":
        lines = list(
            zip(
                of.source.read_bytes().splitlines(),
                (out / name).read_bytes().splitlines(),
                strict=True,
            )
        )
        same = [before == after for before, after in lines]
        assert same == (~rows["rewritten"]).to_list()
