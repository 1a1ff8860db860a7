"""generate: training files in the released layout, shards to try a pipeline on, bad requests."""

import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import mmsieve
from mmsieve import GenerateOptions, RequestError, RunOptions
from mmsieve.cli import main
from tests.helpers.exports import read_wds


def generate(what: str, out: Path, **options) -> mmsieve.GenerateReport:
    wanted = GenerateOptions(**({"teacher": "rendered", "quiet": True} | options))
    make = mmsieve.generate_captions if what == "captions" else mmsieve.generate_documents
    return make(out=out, options=wanted)


def entries(file: Path) -> list[dict]:
    return json.loads(file.read_text("utf-8"))


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("what", ["captions", "documents"])
def test_training_files_are_in_the_released_layout(tmp_path, what):
    report = generate(what, tmp_path / "out", count=42, seed=5, val_fraction=0.3)
    train, val = (entries(tmp_path / "out" / name) for name in ("train.json", "val.json"))
    assert report.written == {"train.json": len(train), "val.json": len(val)}
    assert len(train) + len(val) == 42
    for entry in (*train, *val):
        images = [entry["image"]] if isinstance(entry["image"], str) else entry["image"]
        assert entry["text"].count("<image>") == len(images)
        assert entry["label"] in (0, 1, 2, 3)
        for image in images:
            with Image.open(tmp_path / "out" / image) as opened:
                assert opened.size == (72, 72)
    shown = [{str(entry["image"]) for entry in part} for part in (train, val)]
    assert shown[0].isdisjoint(shown[1])  # split by image, not by text


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        generate("captions", tmp_path / name, count=12, seed=seed, shards=True)
    one, same, other = (tree(tmp_path / name) for name in "abc")
    assert one == same
    assert one.keys() == other.keys()
    assert one["train.json"] != other["train.json"]


def test_one_text_per_image_makes_a_pool_of_all_levels(tmp_path):
    generate("captions", tmp_path / "out", count=80, seed=1, texts_per_image=1)
    pool = entries(tmp_path / "out" / "train.json")
    assert len({entry["image"] for entry in pool}) == len(pool) == 80
    assert {entry["label"] for entry in pool} == {0, 1, 2, 3}


@pytest.mark.parametrize("what", ["captions", "documents"])
def test_shards_hold_the_same_texts_and_are_scored_and_read_by_webdataset(tmp_path, what):
    out = tmp_path / "out"
    report = generate(what, out, count=26, seed=5, shards=True, shard_size=10)
    assert report.tars == 3
    by_key = {entry["id"]: entry for entry in entries(out / "train.json")}
    tars = sorted((out / "shards").glob("*.tar"))
    found = [sample for tar in tars for sample in read_wds(tar)]
    assert [sample["__key__"] for sample in found] == list(by_key)
    for sample in found:
        entry = by_key[sample["__key__"]]
        if what == "captions":
            assert "<image>\n" + sample["txt"].decode() == entry["text"]
            written = (out / entry["image"]).read_bytes()
            assert sample["png"] == written
            assert np.asarray(Image.open(io.BytesIO(written))).shape == (72, 72, 3)
    scored = mmsieve.score(
        str(out / "shards"),
        model="unifilter-tiny",
        out=tmp_path / "quality",
        run=RunOptions(workers=0, quiet=True),
    )
    assert scored.statuses == {"ok": 26}
    table = pl.read_parquet(tmp_path / "quality" / "*.parquet")
    assert table["key"].to_list() == list(by_key)
    images = [1 if what == "captions" else len(by_key[key]["image"]) for key in table["key"]]
    assert table["num_images"].to_list() == images


@pytest.mark.parametrize("family", ["core", "many", "chart", "table"])
def test_every_family_is_drawn_and_told(tmp_path, family):
    generate("captions", tmp_path, count=8, seed=1, family=family)
    assert len({entry["text"] for entry in entries(tmp_path / "train.json")}) == 8


def test_the_same_command_again_does_nothing_and_another_one_is_refused(tmp_path):
    generate("captions", tmp_path, count=8, seed=1)
    before = tree(tmp_path)
    again = generate("captions", tmp_path, count=8, seed=1)
    assert "done before" in again.summary()
    assert tree(tmp_path) == before
    with pytest.raises(RequestError, match="another count"):
        generate("captions", tmp_path, count=12, seed=1)
    generate("captions", tmp_path, count=12, seed=1, overwrite=True)
    assert len(entries(tmp_path / "train.json")) == 12


def test_an_interrupted_generation_is_taken_up(tmp_path):
    generate("captions", tmp_path / "whole", count=8, seed=1)
    generate("captions", tmp_path / "cut", count=8, seed=1)
    record = tmp_path / "cut" / "generate.json"
    record.write_text(record.read_text().replace('"complete": true', '"complete": false'))
    for name in ("train.json", "val.json"):
        (tmp_path / "cut" / name).unlink()
    generate("captions", tmp_path / "cut", count=8, seed=1)
    assert tree(tmp_path / "cut") == tree(tmp_path / "whole")


def test_images_of_ones_own_are_never_taken_for_those_of_an_interrupted_generation(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "mine.png").touch()
    for overwrite in (False, True):
        with pytest.raises(RequestError, match="not made by generate"):
            generate("captions", tmp_path, count=8, overwrite=overwrite)
    assert (tmp_path / "images" / "mine.png").exists()


def test_a_dry_run_writes_nothing(tmp_path):
    report = generate("captions", tmp_path / "out", count=8, dry_run=True)
    assert "would write 8 captions" in report.summary()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("captions --teacher rendered --count 0", "--count 0"),
        ("captions --teacher rendered --count 4 --val-fraction 2", "--val-fraction"),
        ("captions --teacher rendered --count 4 --seed -1", "--seed"),
        ("captions --teacher gpt --count 4", "gpt"),
        ("captions --teacher rendered --count 4 --family dogs", "dogs"),
        ("documents --teacher rendered --count 4 --family chart", "core or many"),
        ("captions --teacher rendered --count 4 --texts-per-image 3", "texts"),
    ],
)
def test_wrong_requests_are_one_line(tmp_path, capsys, words, says):
    with pytest.raises(SystemExit) as exit_:
        main(["generate", *words.split(), "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert error.count("\n") == 1
    assert says in error
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RequestError, match="not made by generate"):
        generate("captions", tmp_path, count=4)
    with pytest.raises(RequestError, match="not made by generate"):
        generate("captions", tmp_path, count=4, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_command_says_how_it_goes_on(tmp_path):
    words = ["generate", "captions", "--teacher", "rendered", "--count", "100000", "--out", "out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mmsieve", *words],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not (tmp_path / "out" / "images").is_dir():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.splitlines()[-1].startswith("interrupted; the same command goes on")
