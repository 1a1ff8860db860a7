"""Manifests of trainers: every file of one is read, with its own folder of images."""

import json
from pathlib import Path

import pytest

from mmsieve.errors import RequestError
from mmsieve.manifests import read_manifest
from mmsieve.sources import find_files
from tests.helpers.instruction_files import item, write_json
from tests.helpers.shards import read, write_jsonl


@pytest.fixture
def pool(tmp_path) -> Path:
    """Two files whose items have the same paths, below two folders."""
    for name in ("a", "b"):
        (tmp_path / name / "images").mkdir(parents=True)
        (tmp_path / name / "images" / "x.jpg").write_bytes(name.encode())
    write_json(tmp_path / "a" / "qas.json", [item(0, image="x.jpg")])
    write_jsonl(tmp_path / "b" / "qas.jsonl", [item(0, image="x.jpg"), item(1)])
    return tmp_path


def images_of(path: Path, **options: Path) -> list[bytes]:
    found = read(path, **options)
    assert set(found.statuses) == {"ok"} and found.keys == ["i0", "i0", "i1"]
    return [image.data for sample in found.samples for image in sample.images]


def test_internvl(pool):
    meta = {
        "a": {"root": "a/images/", "annotation": "a/qas.json", "repeat_time": 2, "length": 1},
        "b": {"root": str(pool / "b/images"), "annotation": str(pool / "b/qas.jsonl")},
    }
    path = pool / "meta.json"
    path.write_text(json.dumps(meta))
    assert images_of(path) == [b"a", b"b"]
    notes = find_files([str(path)]).notes
    assert "2 data files" in notes[0] and "repeat_time not applied" in notes[1]


def test_llava_onevision(pool):
    (pool / "ov.yaml").write_text(
        f"datasets:\n- json_path: {pool}/a/qas.json\n  sampling_strategy: first:10%\n"
        "- json_path: b/qas.jsonl\n"
    )
    assert images_of(pool / "ov.yaml", images=pool / "a/images") == [b"a", b"a"]


def test_llama_factory(pool):
    info = {
        "one": {"file_name": "a/qas.json", "formatting": "sharegpt", "columns": {}},
        "hub": {"hf_hub_url": "owner/name"},
        "two": {"file_name": "b/qas.jsonl"},
    }
    (pool / "x.jpg").write_bytes(b"beside")
    (pool / "dataset_info.json").write_text(json.dumps(info))
    assert images_of(pool / "dataset_info.json") == [b"beside", b"beside"]
    notes = find_files([str(pool / "dataset_info.json")]).notes
    assert "1 of its entries are no files here" in notes[1]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.yaml", "- x", "no manifest"),
        ("a.yml", "{", "as YAML"),
        ("a.yaml", "!!python/object/apply:os.system ['true']", "as YAML"),
        ("a.json", '{"x": {"hf_hub_url": "o/n"}}', "names no file here"),
        ("a.json", '{"x": {"annotation": "missing.jsonl"}}', "missing.jsonl: no such file"),
        ("a.json", '{"x": {"file_name": "a.csv"}}', "a.csv"),
    ],
)
def test_what_names_no_files_is_refused_in_one_line(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(RequestError) as error:
        find_files([str(tmp_path / name)])
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[]", "{}", '{"a": 1}', '{"a": {"b": 1}}\n{"a": {}}', "", "{"])
def test_other_json_is_no_manifest(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    assert read_manifest(str(tmp_path / "a.json")) is None
    assert read_manifest(str(tmp_path)) is None and read_manifest("s3://bucket/a.json") is None
