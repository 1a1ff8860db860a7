"""Instruction data is exported in the form in which it came, by any decisions."""

import gzip
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mmsieve.cli import main
from mmsieve.sources import find_files
from tests.helpers.selections import ratings_of, write_ratings


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        main([*map(str, words), "--quiet"])
    return int(end.value.code or 0)


def item(number: int) -> dict[str, object]:
    said = [{"from": "human", "value": f"Say {number}."}, {"from": "gpt", "value": f"{number}"}]
    return {"id": f"{number % 2}", "conversations": said}


def rate(folder: Path, data: Path, scores: list[int]) -> None:
    rows = [
        {"key": f"{n % 2}", "styles": ["x"], "image_source": "a", "ocr": score}
        for n, score in enumerate(scores)
    ]
    columns = ratings_of(rows, ocr=pa.int8())
    write_ratings(folder, columns, data=data)


@pytest.fixture
def pool(tmp_path) -> Path:
    """Three files whose ids repeat, their ratings, and what `filter` keeps of them."""
    folder = tmp_path / "pool"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(f"{json.dumps(item(n))}\n" for n in range(5)))
    (folder / "b.jsonl").write_text("".join(f"{json.dumps(item(n + 9))} \n" for n in range(3)))
    table = pa.Table.from_pylist([item(n) for n in range(4)])
    pq.write_table(table, folder / "c.parquet")
    for name, scores in (("a.jsonl", [0, 3, 0, 4, 5]), ("b.jsonl", [0, 0, 4])):
        rate(tmp_path / "r", folder / name, scores)
    rate(tmp_path / "r", folder / "c.parquet", [0, 4, 0, 4])
    assert run("filter", tmp_path / "r", "--where", "ocr > 2", "--out", tmp_path / "keep") == 0
    return folder


def test_kept_items_come_out_as_they_came(pool, tmp_path):
    words = ("export", pool, "--decisions", tmp_path / "keep", "--out", tmp_path / "out")
    assert run(*words) == 0
    lines = (pool / "a.jsonl").read_text().splitlines()
    assert (tmp_path / "out/a.jsonl").read_text().splitlines() == [lines[n] for n in (1, 3, 4)]
    assert json.loads((tmp_path / "out/b.jsonl").read_text()) == item(11)
    made, there = pq.read_table(tmp_path / "out/c.parquet"), pq.read_table(pool / "c.parquet")
    assert made.equals(there.take([1, 3])) and made.schema.equals(there.schema)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["samples"] == 6
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("?.*")}
    assert run(*words) == 0  # a resume: nothing is written again
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("?.*")} == before


def test_an_edited_file_is_named(pool, tmp_path, capsys):
    path = pool / "a.jsonl"
    path.write_text(path.read_text().replace("Say 1", "Sag 1"))
    words = ("export", pool, "--decisions", tmp_path / "keep", "--out", tmp_path / "out")
    assert run(*words) == 1
    assert "a-000000: is another one now" in capsys.readouterr().err
    assert not (tmp_path / "out/a.jsonl").exists()
    assert (tmp_path / "out/b.jsonl").exists()


def test_items_go_into_no_tar(pool, tmp_path, capsys):
    words = ("export", pool, "--decisions", tmp_path / "keep", "--out", tmp_path / "out")
    assert run(*words, "--format", "tar") == 2
    assert "instruction" in capsys.readouterr().err


def one_turn_items(folder: Path) -> Path:
    """Items that are a question about an image and its answer, as captions can be written, too."""
    items = []
    for number in range(4):
        name = f"{number}.png"
        Image.new("RGB", (40, 40), (number, 90, 9)).save(folder / name)
        said = [
            {"from": "human", "value": f"<image>\nWhat is {number}?"},
            {"from": "gpt", "value": f"It is {number}."},
        ]
        items.append({"id": str(number), "image": name, "conversations": said})
    path = folder / "qas.json"
    path.write_text(json.dumps(items))
    return path


@pytest.mark.parametrize("verb", ["filter", "select"])
@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_questions_of_rated_items_are_not_dropped(verb, form, tmp_path, capsys):
    data, keep, table = one_turn_items(tmp_path), tmp_path / "keep", tmp_path / "r"
    rows = [{"key": str(n), "styles": ["x"], "image_source": "a", "ocr": n} for n in range(4)]
    write_ratings(table, ratings_of(rows, ocr=pa.int8()), data=data)
    cut = {"filter": ("--by", "ocr", "--top-count", 2), "select": ("--budget", 2)}[verb]
    assert run(verb, table, *cut, "--out", keep) == 0
    words = ("export", data, "--images", tmp_path, "--decisions", keep, "--out", tmp_path / "out")
    assert run(*words, "--format", form) == 2
    said = capsys.readouterr().err
    assert "is about ratings of instruction samples" in said and "say --format source" in said
    assert not (tmp_path / "out").exists()
    assert run(*words) == 0 and len(json.loads((tmp_path / "out/qas.json").read_text())) == 2


def test_captions_written_as_conversations_go_into_tars(tmp_path):
    data, keep = one_turn_items(tmp_path), tmp_path / "keep"
    assert run("score", data, "--images", tmp_path, "--model", "rules", "--out", keep / "s") == 0
    cut = ("filter", keep / "s", "--where", "place < 2", "--out", keep / "k")
    assert run(*cut) == 0
    words = ("export", data, "--images", tmp_path, "--decisions", keep / "k", "--format", "tar")
    assert run(*words, "--out", tmp_path / "out") == 0
    with tarfile.open(tmp_path / "out/qas-000000.tar") as tar:
        assert [n for n in tar.getnames() if n.endswith("txt")] == ["0.txt", "1.txt"]


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_a_compressed_file_comes_out_unpacked(tmp_path, form):
    raw = [json.dumps(item(n)) for n in range(4)]
    text = "[" + ",\n".join(raw) + "]" if form == "json" else "\n".join(raw)
    data = tmp_path / f"in.{form}.gz"
    data.write_bytes(gzip.compress(text.encode()))
    rate(tmp_path / "r", data, [0, 3, 0, 4])
    assert run("filter", tmp_path / "r", "--where", "ocr > 2", "--out", tmp_path / "keep") == 0
    words = (data, "--decisions", tmp_path / "keep", "--out", tmp_path / "out")
    assert run("export", *words) == 0
    written = (tmp_path / f"out/in.{form}").read_text().replace("[", "", form == "json")
    assert [line.strip(",]") for line in written.split("\n") if line.strip("]")] == [raw[1], raw[3]]
    words = ("--data", data, "--subset", tmp_path / f"sub.{form}")
    assert run("select", tmp_path / "r", "--budget", "2", "--out", tmp_path / "c", *words) == 0
    assert (tmp_path / f"sub.{form}").read_bytes() == (tmp_path / f"out/in.{form}").read_bytes()
    words = ("--data", data, "--subset", tmp_path / "subs")
    assert run("select", tmp_path / "r", "--budget", "2", "--out", tmp_path / "c2", *words) == 0
    assert (tmp_path / f"subs/in.{form}").exists()


def test_what_was_exported_is_a_source(tmp_path):
    data = tmp_path / "in.json"
    data.write_text(json.dumps([item(n) for n in range(4)]))
    rate(tmp_path / "r", data, [0, 3, 0, 4])
    assert run("filter", tmp_path / "r", "--where", "ocr > 2", "--out", tmp_path / "keep") == 0
    words = (data, "--decisions", tmp_path / "keep", "--out", tmp_path / "out")
    assert run("export", *words) == 0
    found = find_files([str(tmp_path / "out")])  # with a manifest beside it
    assert [file.name for file in found.files] == ["in"]
    assert found.notes == (f"{tmp_path / 'out'}: left alone beside the shards: 1 .json",)
